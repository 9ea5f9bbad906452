"""Score partitions in shards: plan once, then every shard writes its own rows, as often as it is asked to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, WarehouseError
from nightshift.fault_points import FaultPoint, reach
from nightshift.scoring.champion import Champions, Choice, load_version
from nightshift.scoring.engine import ChampionBrokenError, score_rows
from nightshift.scoring.fallback import stage_fallback
from nightshift.scoring.feature_rows import Feature, published_features, read_shard
from nightshift.scoring.plan import DayPlan, ScorePlan
from nightshift.scoring.relations import SCHEMA, ensure_prediction_relations
from nightshift.warehouse.bulk import copy_in
from nightshift.warehouse.connection import connect, lose
from nightshift.warehouse.partition_write import LoadManifest, Target, hold_stage, refuse
from nightshift.warehouse.partition_write import begin as begin_write

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

CHAMPION_BROKE = "champion broke while scoring"
"""Why a load was refused so that ``publication`` goes on with the fallback rule."""


def predictions_target(spec: ModelSpec) -> Target:
    """Return where a model's predictions are written and published."""
    return Target(spec.predictions_dataset, SCHEMA, spec.name, (spec.entity.key,))


def begin(settings: Settings, spec: ModelSpec, partitions: PartitionRange, run: RunContext) -> ScorePlan:
    """Choose the champion of each partition, try it on tonight's rows, and begin the write.

    A missing or broken champion is no failure: the plan then names the fallback rule and the reason.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        WarehouseError: The warehouse cannot be reached.
    """
    with connect(settings, run.application_name) as conn:
        ensure_prediction_relations(conn, spec)
        features = published_features(conn, spec, partitions)
        champions = Champions(settings, spec, conn)
        choices = [champions.choose(partition, load) for partition, load in zip(partitions, features, strict=True)]
        return _begin_plan(conn, spec, partitions, list(zip(features, choices, strict=True)), run)


def begin_fallback(conn: Connection, spec: ModelSpec, broken: ScorePlan, reason: str, run: RunContext) -> ScorePlan:
    """Begin a new write in place of one whose champion broke: the same features, the fallback rule for every partition."""
    rows = conn.execute(
        "select partition_date, load_id, content_hash from ops.loads where dataset = %s and (partition_date, load_id) in"
        " (select * from unnest(%s::date[], %s::bigint[])) order by partition_date",
        [spec.features_dataset, [day.partition_date for day in broken.days], [day.feature_load_id for day in broken.days]],
    ).fetchall()
    return _begin_plan(conn, spec, broken.partitions, [(Feature(*row), Choice(None, reason)) for row in rows], run)


def _begin_plan(
    conn: Connection, spec: ModelSpec, partitions: PartitionRange, chosen: list[tuple[Feature, Choice]], run: RunContext
) -> ScorePlan:
    inputs = {
        "features": _digest((load.partition_date, load.content_hash) for load, _ in chosen),
        "models": _digest((load.partition_date, choice.digest) for load, choice in chosen),
        "spec": spec.digest,
    }
    write = begin_write(conn, [predictions_target(spec)], partitions, LoadManifest(run, inputs))
    days = tuple(
        DayPlan(
            partition_date=load.partition_date,
            feature_load_id=load.load_id,
            model_version=choice.version,
            score_source="fallback_rule" if choice.version is None else "champion",
            score_source_reason=choice.reason,
        )
        for load, choice in chosen
    )
    reach(FaultPoint.SCORE_BEGIN_AFTER)
    return ScorePlan(load_id=write.load_id, n_shards=spec.scoring.shards, days=days)


def _digest(parts: Iterable[tuple[object, str]]) -> str:
    return sha256(json.dumps([[str(day), value] for day, value in parts]).encode()).hexdigest()


def score_shard(settings: Settings, spec: ModelSpec, plan: ScorePlan, shard: int, run: RunContext) -> dict[str, int]:
    """Score one shard's entities in all partitions of the plan, and stage the rows; again is harmless, also at the same time.

    A champion that breaks here although it was tried refuses the whole load; ``publication.publish`` then publishes the fallback rule.
    A load that is audited or published already is left as it is.

    Returns:
        ``shard`` and ``n_rows``, the shard's rows in the load as counted in the warehouse.

    Raises:
        LoadStateError: There is no such load.
        ObjectStoreError: The first attempt could not read the champion; later attempts fall back.
        WarehouseError: The warehouse cannot be reached.
    """
    reach(FaultPoint.SCORE_SHARD_BEFORE)
    with connect(settings, run.application_name) as conn:
        try:
            scored = [_score_days(settings, conn, spec, plan, (version, shard), run) for version in plan.days_by_version]
        except ChampionBrokenError as error:
            refuse(conn, plan.write(predictions_target(spec)), f"{CHAMPION_BROKE}: {error.what}")
        else:
            _stage(conn, spec, plan, shard, scored, run)
            reach(FaultPoint.SCORE_SHARD_AFTER, lambda: lose(conn))
        return {"shard": shard, "n_rows": _count(conn, spec, plan, shard)}


def _score_days(
    settings: Settings, conn: Connection, spec: ModelSpec, plan: ScorePlan, version_and_shard: tuple[int, int], run: RunContext
) -> pa.Table:
    """Return the finished rows of one shard for the days of one champion."""
    version, shard = version_and_shard
    with _blame_champion(version, run):
        model = load_version(settings, conn, spec, version)
    rows = read_shard(settings, spec, plan, plan.days_by_version[version], shard, model.signature.names)
    with _blame_champion(version, run):
        scored = score_rows(model, rows, spec.scoring.reasons)
    return _prediction_rows(spec, rows, scored, {"load_id": plan.load_id, "shard": shard, "model_version": version, "run_id": run.run_id})


@contextmanager
def _blame_champion(version: int, run: RunContext) -> Iterator[None]:
    """Turn whatever a model does wrong into one error; what the warehouse does is not its fault, and a first attempt may be repeated."""
    import psycopg

    try:
        yield
    except (psycopg.Error, WarehouseError):
        raise
    except Exception as error:
        if isinstance(error, NightshiftError) and error.is_retryable and run.attempt == 1:
            raise
        name = error.code if isinstance(error, NightshiftError) else type(error).__name__
        raise ChampionBrokenError(f"version {version} cannot score ({name})", todo="Roll the champion back.") from error


def _prediction_rows(spec: ModelSpec, rows: pa.Table, scored: pa.Table, same_in_all: dict[str, int | str]) -> pa.Table:
    """Return the columns of the predictions table, shape (n, 14); the reason for a fallback stays null."""
    import pyarrow as pa

    columns = {
        "partition_date": rows["partition_date"],
        spec.entity.key: rows[spec.entity.key],
        "event_timestamp": rows[spec.event_timestamp],
        "features_as_of": rows["as_of"],
        **{name: scored[name] for name in scored.column_names},
    }
    constants = {"score_source": "champion", **same_in_all}
    return pa.table(columns | {name: pa.repeat(value, rows.num_rows) for name, value in constants.items()})


def _stage(conn: Connection, spec: ModelSpec, plan: ScorePlan, shard: int, scored: list[pa.Table], run: RunContext) -> None:
    """Replace the shard's rows in one transaction, one writer a shard, unless the load is audited already."""
    from psycopg import sql

    table = sql.Identifier(SCHEMA, spec.name)
    with conn.transaction():
        conn.execute(
            "select pg_advisory_xact_lock(hashtextextended(format('score %%s %%s', %s::text, %s::text), 0))", [plan.load_id, shard]
        )
        if hold_stage(conn, plan.write(predictions_target(spec))) != "staged":
            return
        delete = sql.SQL("delete from {} where partition_date between %s and %s and load_id = %s and shard = %s").format(table)
        conn.execute(delete, [plan.partitions.first.day, plan.partitions.last.day, plan.load_id, shard])
        for rows in scored:
            copy_in(conn, SCHEMA, spec.name, rows)
        stage_fallback(conn, spec, plan, shard, run)


def _count(conn: Connection, spec: ModelSpec, plan: ScorePlan, shard: int) -> int:
    from psycopg import sql

    query = sql.SQL("select count(*) from {} where partition_date between %s and %s and load_id = %s and shard = %s")
    days = plan.partitions
    row = conn.execute(query.format(sql.Identifier(SCHEMA, spec.name)), [days.first.day, days.last.day, plan.load_id, shard]).fetchone()
    return int(row[0]) if row else 0
