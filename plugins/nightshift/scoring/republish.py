"""Roll back as a repair: an earlier champion is put back, and the partitions that its successors scored are published as it scores them.

Everything is tried before anything moves. Consecutive partitions flip in one transaction, so that
no reader sees two models in them. Loads of that version that are kept are published again, if the
features are still the same; else it scores once more: the content is equal either way. Source:
docs/adr/0018-rollback.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import LoadStateError
from nightshift.registry.mlflow_mirror import mirror_aliases
from nightshift.registry.rollback import (
    RollbackRefusedError,
    first_partition_since,
    record_rollback,
)
from nightshift.scoring.batch_scorer import begin_plan, inputs_of, predictions_target, score_shard
from nightshift.scoring.champion import Champions, Choice
from nightshift.scoring.feature_rows import FeatureLoad, published_features
from nightshift.scoring.prediction_tables import SCHEMA, ensure_prediction_relations
from nightshift.scoring.publication import publish
from nightshift.warehouse.connection import connect
from nightshift.warehouse.damage import LoadRecord, find_damage_cheaply
from nightshift.warehouse.partition_write import hold_stage
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.plan import ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import PublishedLoad

_LAST_DAY = dt.date(9999, 12, 30)


@dataclass(frozen=True)
class PartitionRun:
    """Consecutive partitions that flip together.

    Attributes:
        chosen: Features and scorer of each.
        kept: The kept load of each that holds these very predictions; empty if one lacks it.
    """

    chosen: tuple[tuple[FeatureLoad, Choice], ...]
    kept: tuple[int, ...]

    @property
    def partitions(self) -> PartitionRange:
        """Return the range."""
        days = [load.partition_date for load, _ in self.chosen]
        return PartitionRange(Partition(days[0]), Partition(days[-1]))


@dataclass(frozen=True)
class RepairPlan:
    """What a rollback will do.

    Attributes:
        version: Who serves again.
        since: From which partition on.
        stretches: What is published again.
    """

    version: int
    since: Partition
    stretches: tuple[PartitionRun, ...]

    @property
    def n_partitions(self) -> int:
        """Return the number of partitions that are published again."""
        return sum(len(stretch.chosen) for stretch in self.stretches)


@dataclass(frozen=True)
class Repaired:
    """What readers see after a rollback.

    Attributes:
        promotion_id: The record in ``ml.promotions``.
        published: One entry per partition, as read back; ``is_new`` is False where the content
            stood there before.
    """

    promotion_id: int
    published: tuple[PublishedLoad, ...]


def plan_rollback(
    settings: Settings, spec: ModelSpec, version: int, since: Partition | None, run: RunContext
) -> RepairPlan:
    """Try the version on every affected partition's features, and return what a rollback would do; nothing is written.

    Args:
        settings: Warehouse and bucket.
        spec: The model.
        version: The former champion.
        since: First partition; None takes the one from which others took over.
        run: Who asks.

    Raises:
        RollbackRefusedError: It never was champion, or cannot be loaded or score.
        RegistryError: There is no such version.
        FeaturesMissingError: The features of an affected partition are not published.
    """
    with connect(settings, run.application_name) as conn:
        ensure_prediction_relations(conn, spec)
        since = since or first_partition_since(conn, spec.name, version)
        affected = published_loads(
            conn, spec.predictions_dataset, PartitionRange(since, Partition(_LAST_DAY))
        )
        champions = Champions(settings, spec, conn, only=version)
        stretches = tuple(
            _stretch(conn, spec, champions, days) for days in _consecutive(sorted(affected))
        )
        if not stretches:
            _try_on_latest(conn, spec, champions)
    return RepairPlan(version, since, stretches)


def roll_back(
    settings: Settings,
    spec: ModelSpec,
    plan: RepairPlan,
    reason: str,
    run: RunContext,
    say: Callable[[str], None] = lambda _: None,
) -> Repaired:
    """Record the rollback, publish what it means, and read it back. A rerun after a failure goes on where it stopped.

    Raises:
        RollbackRefusedError: The version would know the future of the first partition.
        NightshiftError: A stretch could not be published; it stands as it was, and the record
            stands.
    """
    with connect(settings, run.application_name) as conn:
        promotion_id = record_rollback(conn, spec.name, plan.version, plan.since, reason, run)
        mirror_aliases(settings, conn, spec.name)
    published: list[PublishedLoad] = []
    for stretch in plan.stretches:
        published += _republish(settings, spec, stretch, run)
        say(
            f"{stretch.partitions}: version {plan.version}, {'from kept loads' if stretch.kept else 'scored again'}"
        )
    with connect(settings, run.application_name) as conn:
        for stretch in plan.stretches:
            _read_back(conn, spec, stretch, plan.version)
    return Repaired(promotion_id, tuple(published))


def _stretch(
    conn: Connection, spec: ModelSpec, champions: Champions, days: Sequence[dt.date]
) -> PartitionRun:
    partitions = PartitionRange(Partition(days[0]), Partition(days[-1]))
    features = published_features(conn, spec, partitions)
    chosen = tuple((load, _choose(spec, champions, load)) for load in features)
    return PartitionRun(chosen, _kept_loads(conn, spec, chosen))


def _choose(spec: ModelSpec, champions: Champions, load: FeatureLoad) -> Choice:
    choice = champions.choose(Partition(load.partition_date), load)
    if choice.source != "champion":
        raise RollbackRefusedError(
            f"Version {champions.only} of {spec.name} cannot serve: {choice.reason}.",
            expected=f"a version whose files are whole and which scores the features of {load.partition_date}",
            todo="Nothing moved. Name another version; `nightshift models` shows them.",
        )
    return choice


def _try_on_latest(conn: Connection, spec: ModelSpec, champions: Champions) -> None:
    row = conn.execute(
        "select max(partition_date) from ops.published where dataset = %s", [spec.features_dataset]
    ).fetchone()
    if row and row[0]:
        latest = Partition(row[0])
        _choose(spec, champions, published_features(conn, spec, PartitionRange.single(latest))[0])


def _consecutive(days: Sequence[dt.date]) -> list[list[dt.date]]:
    stretches: list[list[dt.date]] = []
    for day in days:
        if stretches and day == stretches[-1][-1] + dt.timedelta(days=1):
            stretches[-1].append(day)
        else:
            stretches.append([day])
    return stretches


def _kept_loads(
    conn: Connection, spec: ModelSpec, chosen: Sequence[tuple[FeatureLoad, Choice]]
) -> tuple[int, ...]:
    """Return, by partition, the newest kept load with the predictions of these very inputs; empty if a partition has none."""
    rows = conn.execute(
        """
        select load_id, array_agg(partition_date order by partition_date),
            array_agg(partition_date) filter (where state = 'published' and collected_at is null), (array_agg(inputs))[1]
        from ops.loads where dataset = %s group by load_id
        having max(partition_date) >= %s and min(partition_date) <= %s order by load_id
        """,
        [spec.predictions_dataset, chosen[0][0].partition_date, chosen[-1][0].partition_date],
    )
    by_day = {load.partition_date: (load, choice) for load, choice in chosen}
    kept: dict[dt.date, int] = {}
    for load_id, days, kept_days, inputs in rows:
        if all(day in by_day for day in days) and inputs == inputs_of(
            spec, [by_day[day] for day in days]
        ):
            kept |= dict.fromkeys(kept_days or [], load_id)
    if kept.keys() != by_day.keys() or _are_damaged(conn, spec, kept):
        return ()
    return tuple(kept[day] for day in by_day)


def _are_damaged(conn: Connection, spec: ModelSpec, kept: Mapping[dt.date, int]) -> bool:
    """Return whether rows of kept loads vanished or changed since: a copy would publish that; they are scored again."""
    rows = conn.execute(
        """
        select partition_date, load_id, n_rows, content_hash, detail ->> 'hash_basis'
        from ops.loads join unnest(%s::date[], %s::bigint[]) k (partition_date, load_id) using (partition_date, load_id)
        where dataset = %s
        """,
        [list(kept), list(kept.values()), spec.predictions_dataset],
    )
    return bool(
        find_damage_cheaply(conn, predictions_target(spec), [LoadRecord(*row) for row in rows])
    )


def _republish(
    settings: Settings, spec: ModelSpec, stretch: PartitionRun, run: RunContext
) -> list[PublishedLoad]:
    with connect(settings, run.application_name) as conn:
        plan = begin_plan(conn, spec, stretch.chosen, run, {})
        if stretch.kept:
            _stage_kept(conn, spec, plan, stretch.kept, run)
    if not stretch.kept:
        for shard in plan.shards:
            score_shard(settings, spec, plan, shard, run)
    return publish(settings, spec, plan, run, may_step_down=False)


def _stage_kept(
    conn: Connection, spec: ModelSpec, plan: ScorePlan, kept: Sequence[int], run: RunContext
) -> None:
    """Copy the kept loads' rows into the begun write, in the warehouse."""
    from psycopg import sql

    table = sql.Identifier(SCHEMA, spec.name)
    names = conn.execute(sql.SQL("select * from {} limit 0").format(table)).description or []
    same = [
        sql.Identifier(column.name) for column in names if column.name not in ("load_id", "run_id")
    ]
    copy = sql.SQL(
        "insert into {table} (load_id, run_id, {same}) select %(load_id)s, %(run_id)s, {same} from {table} t"
        " join unnest(%(days)s::date[], %(kept)s::bigint[]) k (partition_date, load_id) using (partition_date, load_id)"
    )
    with conn.transaction():
        if hold_stage(conn, plan.write(predictions_target(spec))) == "staged":
            conn.execute(
                copy.format(table=table, same=sql.SQL(", ").join(same)),
                {
                    "load_id": plan.load_id,
                    "run_id": run.run_id,
                    "days": plan.partitions.days,
                    "kept": list(kept),
                },
            )


def _read_back(conn: Connection, spec: ModelSpec, stretch: PartitionRun, version: int) -> None:
    from psycopg import sql

    query = sql.SQL(
        "select count(distinct t.partition_date),"
        " count(*) filter (where t.model_version is distinct from %s or t.score_source <> 'champion')"
        " from {} t join ops.published p using (partition_date, load_id) where p.dataset = %s and t.partition_date between %s and %s"
    ).format(sql.Identifier(SCHEMA, spec.name))
    partitions = stretch.partitions
    row = conn.execute(
        query, [version, spec.predictions_dataset, partitions.first.day, partitions.last.day]
    ).fetchone()
    if row != (len(partitions), 0):
        raise LoadStateError(
            f"After the rollback {partitions} of {spec.name} is not all version {version}'s.",
            expected=f"({len(partitions)}, 0) partitions and rows of others",
            got=str(row),
            todo="Somebody published meanwhile: run the rollback again.",
        )
