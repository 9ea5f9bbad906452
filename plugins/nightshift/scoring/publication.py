"""Publish a plan's rows: complete, audited, past the gate, in one flip; or the next step of the ladder in their place."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.errors import AuditError
from nightshift.scoring.batch_scorer import CHAMPION_BROKE, begin, predictions_target, score_shard
from nightshift.scoring.last_score import Spine, feature_spine
from nightshift.scoring.prediction_tables import SCHEMA
from nightshift.training.feature_query import features_target
from nightshift.warehouse import partition_write
from nightshift.warehouse.connection import connect
from nightshift.warehouse.damage import DamagedInputError, published_records, refuse_damaged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.champion import PinnedVersion
    from nightshift.scoring.plan import ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import PublishedLoad

logger = logging.getLogger(__name__)


class IncompletePredictionsError(AuditError):
    """The staged predictions are not exactly one good row per entity of the feature load."""

    code = "NS-SCORE-001"


def publish(
    settings: Settings,
    spec: ModelSpec,
    plan: ScorePlan,
    run: RunContext,
    *,
    may_step_down: bool = True,
) -> list[PublishedLoad]:
    """Check the staged rows against the feature load, pass the gate, flip the pointer and read it back.

    Safe to call again at any time: a published plan is read back. A load that a breaking model has
    refused, or whose gate said no to a model's scores, is replaced by the next step of the ladder,
    marked in ``score_source``, so that the night is published without a person. A gate without a
    verdict publishes nothing.

    Args:
        settings: Warehouse and bucket.
        spec: The model.
        plan: What was staged.
        run: Who publishes.
        may_step_down: Whether the next step may take over; False for a version that somebody asked
            for by name.

    Raises:
        IncompletePredictionsError: Rows are missing, double, strange, or hold impossible values;
            nothing is published.
        DamagedInputError: The feature rows that were scored are not what was published.
        AuditError: The write path's audit refused, or the load was refused before and nothing may
            step in.
        GateError: The expectation suite refused and nothing may step in, or it could not be
            evaluated.
        StaleTokenError: A newer attempt owns a partition.
        ContentConflictError: The same features, model and spec gave other predictions.
    """
    from nightshift.quality.gate_errors import GateCrashError, GateError, SuiteError

    target = predictions_target(spec)
    with connect(settings, run.application_name) as conn:
        target = replace(target, may_be_empty=_has_empty_night(conn, spec, plan))
        write, state = partition_write.resume(conn, plan.load_id, [target], plan.partitions)
        if may_step_down and state == "refused" and (broken := _what_broke(conn, plan)):
            return _publish_next(settings, spec, plan, broken, run)
        if state in ("staged", "audited"):
            partition_write.analyze_grown_tables(conn, write)
            _refuse_damaged_features(conn, spec, plan)
            refuse_incomplete(conn, spec, plan, feature_spine(spec))
            partition_write.audit(conn, write)
            try:
                pass_gate(settings, spec, plan, run)
            except (GateCrashError, SuiteError):
                raise
            except GateError as error:
                if not may_step_down or not plan.days_by_version:
                    raise
                logger.warning("The next step of the ladder takes over:\n%s", error)
                broken = {
                    version: f"the scores of version {version} failed their gate ({error.code})"
                    for version in plan.days_by_version
                }
                partition_write.refuse(conn, write, f"{error.code}: {error.what}")
                return _publish_next(settings, spec, plan, broken, run)
        published = partition_write.publish(conn, write)
        partition_write.collect(conn, [target])
    return published


def score(
    settings: Settings,
    spec: ModelSpec,
    partitions: PartitionRange,
    run: RunContext,
    broken: Mapping[int, str] | None = None,
    named: PinnedVersion | None = None,
) -> list[PublishedLoad]:
    """Plan, score and publish in one process; what the tasks of a night do, in their order.

    A named version scores whoever was champion, says so in every row, stays when the night is run
    again, and has no next step.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        WorseStepError: What is published is the work of a better step, which cannot be repeated
            now.
        ChampionBrokenError: The named version cannot score.
        NightshiftError: As ``publish``.
    """
    plan = begin(settings, spec, partitions, run, broken, named)
    for shard in plan.shards:
        score_shard(settings, spec, plan, shard, run)
    return publish(settings, spec, plan, run, may_step_down=named is None)


def _refuse_damaged_features(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> None:
    """Refuse the load if feature rows vanished or changed while it was scored.

    Raises:
        DamagedInputError: They have.
    """
    scored = {(day.partition_date, day.feature_load_id) for day in plan.days}
    records = published_records(conn, spec.features_dataset, plan.partitions.days)
    try:
        refuse_damaged(
            conn,
            features_target(spec),
            [one for one in records if (one.partition_date, one.load_id) in scored],
        )
    except DamagedInputError as error:
        partition_write.refuse(
            conn, plan.write(predictions_target(spec)), f"{error.code}: {error.what}"
        )
        raise


def _has_empty_night(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> bool:
    """Return whether a night's published features have no entity: then its predictions have no row, as ``refuse_incomplete`` compares."""
    row = conn.execute(
        "select bool_or(n_rows = 0) from ops.loads join unnest(%s::date[], %s::bigint[]) d (partition_date, load_id)"
        " using (partition_date, load_id) where dataset = %s and state = 'published'",
        [
            [day.partition_date for day in plan.days],
            [day.feature_load_id for day in plan.days],
            spec.features_dataset,
        ],
    ).fetchone()
    return bool(row and row[0])


def has_successor(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> bool:
    """Return whether readers see a load of a newer attempt in every partition of the plan."""
    query = """
        select count(*) from ops.loads mine join ops.published p using (dataset, partition_date)
        join ops.loads newer on (newer.dataset, newer.partition_date, newer.load_id) = (p.dataset, p.partition_date, p.load_id)
        where mine.dataset = %s and mine.load_id = %s and newer.token > mine.token
    """
    with connect(settings, run.application_name) as conn:
        row = conn.execute(query, [spec.predictions_dataset, plan.load_id]).fetchone()
    return row == (len(plan.days),)


def _publish_next(
    settings: Settings, spec: ModelSpec, plan: ScorePlan, broken: Mapping[int, str], run: RunContext
) -> list[PublishedLoad]:
    """Score once more without the versions that broke; each round knows one more of them, so there is an end."""
    return score(settings, spec, plan.partitions, run, {**plan.broken, **broken})


def _what_broke(conn: Connection, plan: ScorePlan) -> dict[int, str]:
    """Return the version because of which the load was refused, and why; empty if it was refused for another reason."""
    row = conn.execute(
        "select detail ->> 'refused' from ops.loads where load_id = %s order by partition_date limit 1",
        [plan.load_id],
    ).fetchone()
    prefix = f"{CHAMPION_BROKE}: "
    if not row or not row[0] or not row[0].startswith(prefix):
        return {}
    why = row[0].removeprefix(prefix)
    version = re.match(r"version (\d+) ", why)
    return {int(version.group(1)): why} if version else {}


def pass_gate(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> None:
    """Run the expectation suite of the predictions on the plan's load.

    Raises:
        GateError: It refused, or gave no verdict.
    """
    from nightshift.quality.gates import run_gate

    run_gate(
        settings, spec.predictions_dataset, SCHEMA, spec.name, plan.load_id, plan.partitions, run
    )


def refuse_incomplete(conn: Connection, spec: ModelSpec, plan: ScorePlan, spine: Spine) -> None:
    """Refuse the load unless it has exactly one good row per row of the spine; one scan of each side, and a join only to name what differs.

    Raises:
        IncompletePredictionsError: It has not.
    """
    from psycopg import sql

    names = {
        "key": sql.Identifier(spec.entity.key),
        "event_timestamp": sql.Identifier(spec.event_timestamp),
        "features": spine.relation,
        "predictions": sql.Identifier(SCHEMA, spec.name),
        "is_binary": sql.Literal(spec.task is Task.BINARY),
    }
    days = {
        "days": [day.partition_date for day in plan.days],
        "feature_loads": [day.feature_load_id for day in plan.days],
        "versions": [day.model_version for day in plan.days],
        "load_id": plan.load_id,
        "first": plan.partitions.first.day,
        "last": plan.partitions.last.day,
    }
    with conn.transaction():
        # A load that was just copied has no statistics: a nested loop over it takes minutes where a
        # hash join takes a second.
        conn.execute("set local enable_nestloop = off")
        if conn.execute(sql.SQL(_AGREE).format(**names), days).fetchone() == (True,):
            return
        cursor = conn.execute(sql.SQL(_COMPARE).format(**names), days)
        counted = [column.name for column in cursor.description or []][1:]
        rows = cursor.fetchall()
    problems = [
        f"{n} {name.replace('_', ' ')} on {day}"
        for day, *counts in rows
        for name, n in zip(counted, counts, strict=True)
        if n
    ]
    if problems:
        summary = "; ".join(problems[:5])
        partition_write.refuse(conn, plan.write(predictions_target(spec)), summary)
        raise IncompletePredictionsError(
            f"The predictions of {spec.name} are not one good row per {spec.entity.name}: {summary}.",
            expected="every entity of the feature load once, finite scores, probabilities from 0 to 1, deciles from 1 to 10",
            got=f"{len(problems)} problem(s)",
            todo="Nothing was published. Clear the run's first task and all after it.",
        )


_AGREE = """
with days as not materialized (
    select * from unnest(%(days)s::date[], %(feature_loads)s::bigint[], %(versions)s::int[]) d (partition_date, load_id, version)
), f as (
    select days.partition_date, count(*) as n_rows,
        sum(hashint8extended(hash_record_extended(row(v.{key}, v.{event_timestamp}, v.as_of), 0), 0)) as row_hashes
    from {features} v join days using (partition_date, load_id) group by 1
), p as (
    select t.partition_date, count(*) as n_rows,
        sum(hashint8extended(hash_record_extended(row(t.{key}, t.{event_timestamp}, t.features_as_of), 0), 0)) as row_hashes,
        count(*) filter (where score not in ('NaN', 'Infinity', '-Infinity') and decile between 1 and 10
            and (probability between 0 and 1 or (probability is null and not {is_binary}))
            and (score_source = 'champion' or score_source_reason is not null)
            and model_version is not distinct from version) as n_good
    from {predictions} t left join days using (partition_date)
    where t.load_id = %(load_id)s and t.partition_date between %(first)s and %(last)s
    group by 1
)
select bool_and(coalesce(f.n_rows = p.n_rows and p.n_rows = p.n_good and f.row_hashes = p.row_hashes, false))
from f full join p using (partition_date)
"""
"""No key is in a load twice, which the table itself refuses: equal sums of hashes then mean equal
sets.

Days that are materialized would keep PostgreSQL from scanning in parallel.
"""

_COMPARE = """
with days as (
    select * from unnest(%(days)s::date[], %(feature_loads)s::bigint[], %(versions)s::int[]) d (partition_date, load_id, version)
), f as (
    select days.partition_date, days.version, v.{key}, v.{event_timestamp} as event_timestamp, v.as_of
    from {features} v join days using (partition_date, load_id)
), p as (
    select * from {predictions} where load_id = %(load_id)s
        and partition_date between (select min(partition_date) from days) and (select max(partition_date) from days)
)
select coalesce(f.partition_date, p.partition_date),
    count(*) filter (where p.{key} is null) as entities_without_a_prediction,
    count(*) filter (where f.{key} is null) as predictions_without_an_entity,
    count(*) filter (where p.score in ('NaN', 'Infinity', '-Infinity')) as scores_that_are_not_finite,
    count(*) filter (where p.probability not between 0 and 1) as probabilities_outside_of_0_to_1,
    count(*) filter (where {is_binary} and p.{key} is not null and p.probability is null) as missing_probabilities,
    count(*) filter (where p.score_source <> 'champion' and p.score_source_reason is null) as rows_without_a_reason,
    count(*) filter (where p.{key} is not null and (p.decile between 1 and 10) is not true) as deciles_outside_of_1_to_10,
    count(*) filter (where p.model_version is distinct from f.version and p.{key} is not null and f.{key} is not null)
        as predictions_of_another_model,
    count(*) filter (where (p.features_as_of, p.event_timestamp) is distinct from (f.as_of, f.event_timestamp)
        and p.{key} is not null and f.{key} is not null) as predictions_with_other_times_than_their_features
from f full join p using (partition_date, {key})
group by 1 order by 1
"""
