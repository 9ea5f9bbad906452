"""Publish a plan's rows: complete, audited, past the gate, in one flip; or the fallback rule in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import AuditError
from nightshift.scoring.batch_scorer import CHAMPION_BROKE, begin, begin_fallback, predictions_target, score_shard
from nightshift.scoring.relations import SCHEMA
from nightshift.warehouse import partition_write
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.plan import ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import PublishedLoad


class IncompletePredictionsError(AuditError):
    """The staged predictions are not exactly one good row per entity of the feature load."""

    code = "NS-SCORE-001"


def publish(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> list[PublishedLoad]:
    """Check the staged rows against the feature load, pass the gate, flip the pointer and read it back.

    Safe to call again at any time: a published plan is read back. A load that a breaking champion has refused is replaced by the
    fallback rule, marked in ``score_source``, so that the night is published without a person.

    Raises:
        IncompletePredictionsError: Rows are missing, double, strange, or hold impossible values; nothing is published.
        AuditError: The write path's audit refused.
        GateError: The expectation suite refused, or could not be evaluated.
        StaleTokenError: A newer attempt owns a partition.
        ContentConflictError: The same features, model and spec gave other predictions.
    """
    target = predictions_target(spec)
    with connect(settings, run.application_name) as conn:
        write, state = partition_write.resume(conn, plan.load_id, [target], plan.partitions)
        if state == "refused" and (reason := _why_champion_broke(conn, plan)):
            return _publish_fallback(settings, spec, begin_fallback(conn, spec, plan, reason, run), run)
        if state in ("staged", "audited"):
            _refuse_incomplete(conn, spec, plan)
            partition_write.audit(conn, write)
            _pass_gate(settings, spec, plan, run)
        published = partition_write.publish(conn, write)
        partition_write.collect(conn, [target])
    return published


def score(settings: Settings, spec: ModelSpec, partitions: PartitionRange, run: RunContext) -> list[PublishedLoad]:
    """Plan, score and publish in one process; what the tasks of a night do, in their order.

    Raises:
        FeaturesMissingError: The feature view is not published for a partition.
        NightshiftError: As ``publish``.
    """
    plan = begin(settings, spec, partitions, run)
    for shard in plan.shards:
        score_shard(settings, spec, plan, shard, run)
    return publish(settings, spec, plan, run)


def _publish_fallback(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> list[PublishedLoad]:
    for shard in plan.shards:
        score_shard(settings, spec, plan, shard, run)
    return publish(settings, spec, plan, run)


def _why_champion_broke(conn: Connection, plan: ScorePlan) -> str | None:
    row = conn.execute(
        "select detail ->> 'refused' from ops.loads where load_id = %s order by partition_date limit 1", [plan.load_id]
    ).fetchone()
    prefix = f"{CHAMPION_BROKE}: "
    return row[0].removeprefix(prefix) if row and row[0] and row[0].startswith(prefix) else None


def _pass_gate(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> None:
    from nightshift.quality.gates import run_gate

    run_gate(settings, spec.predictions_dataset, SCHEMA, spec.name, plan.load_id, plan.partitions, run)


def _refuse_incomplete(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> None:
    """Refuse the load unless it has exactly one good row per row of the feature load; one scan of each side."""
    from psycopg import sql

    query = sql.SQL(_COMPARE).format(
        key=sql.Identifier(spec.entity.key),
        event_timestamp=sql.Identifier(spec.event_timestamp),
        features=sql.Identifier("features", spec.feature_table),
        predictions=sql.Identifier(SCHEMA, spec.name),
    )
    days = {
        "days": [day.partition_date for day in plan.days],
        "feature_loads": [day.feature_load_id for day in plan.days],
        "versions": [day.model_version for day in plan.days],
        "load_id": plan.load_id,
    }
    with conn.transaction():
        # A load that was just copied has no statistics: a nested loop over it takes minutes where a hash join takes a second.
        conn.execute("set local enable_nestloop = off")
        cursor = conn.execute(query, days)
        names = [column.name for column in cursor.description or []][1:]
        rows = cursor.fetchall()
    problems = [f"{n} {name.replace('_', ' ')} on {day}" for day, *counts in rows for name, n in zip(names, counts, strict=True) if n]
    if problems:
        summary = "; ".join(problems[:5])
        partition_write.refuse(conn, plan.write(predictions_target(spec)), summary)
        raise IncompletePredictionsError(
            f"The predictions of {spec.name} are not one good row per {spec.entity.name}: {summary}.",
            expected="every entity of the feature load once, finite scores, probabilities from 0 to 1, deciles from 1 to 10",
            got=f"{len(problems)} problem(s)",
            todo="Nothing was published. Clear the run's first task and all after it.",
        )


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
    count(*) filter (where p.{key} is not null and (p.decile between 1 and 10) is not true) as deciles_outside_of_1_to_10,
    count(*) filter (where p.model_version is distinct from f.version and p.{key} is not null and f.{key} is not null)
        as predictions_of_another_model,
    count(*) filter (where (p.features_as_of, p.event_timestamp) is distinct from (f.as_of, f.event_timestamp)
        and p.{key} is not null and f.{key} is not null) as predictions_with_other_times_than_their_features
from f full join p using (partition_date, {key})
group by 1 order by 1
"""
