"""Check staged predictions before they are published: rows against the spine, the suite's gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import AuditError
from nightshift.scoring.prediction_tables import SCHEMA, model_query
from nightshift.scoring.without_model.last_score import spine_relation
from nightshift.training.feature_query import features_target
from nightshift.warehouse import partition_write
from nightshift.warehouse.damage import DamagedInputError, published_records, refuse_damaged

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.plan import ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_MAX_SHOWN = 5


class IncompletePredictionsError(AuditError):
    """The staged predictions are not exactly one valid row per entity of the feature load."""

    code = "NS-SCORE-001"


def pass_gate(settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext) -> None:
    """Run the expectation suite of the predictions on the plan's load.

    Raises:
        GateError: It refused, or could not be evaluated.
    """
    from nightshift.quality.gates import run_gate

    dataset = spec.predictions_dataset
    run_gate(settings, dataset, SCHEMA, spec.name, plan.load_id, plan.partitions, run)


def refuse_damaged_features(conn: Connection, spec: ModelSpec, plan: ScorePlan) -> None:
    """Refuse the load if feature rows vanished or changed while it was scored.

    Raises:
        DamagedInputError: They have.
    """
    scored = {(day.partition_date, day.feature_load_id) for day in plan.days}
    records = [
        record
        for record in published_records(conn, spec.features_dataset, plan.partitions.days)
        if (record.partition_date, record.load_id) in scored
    ]
    try:
        refuse_damaged(conn, features_target(spec), records)
    except DamagedInputError as error:
        reason = f"{error.code}: {error.what}"
        partition_write.refuse(conn, plan.write(spec), reason)
        raise


def refuse_incomplete(
    conn: Connection, spec: ModelSpec, plan: ScorePlan, *, is_prepared: bool = False
) -> None:
    """Refuse the load unless it has exactly one valid row per entity.

    The entities are those of the feature loads or, with ``is_prepared``, of ``prepare_spine``.

    Raises:
        IncompletePredictionsError: It has not.
    """
    problems = _find_problems(conn, spec, plan, spine_relation(spec, is_prepared=is_prepared))
    if not problems:
        return
    summary = "; ".join(problems[:_MAX_SHOWN])
    partition_write.refuse(conn, plan.write(spec), summary)
    raise IncompletePredictionsError(
        f"The predictions of {spec.name} are not one valid row per {spec.entity.name}: {summary}.",
        expected="every entity of the feature load once, finite scores, probabilities from 0 to 1,"
        " deciles from 1 to 10",
        got=f"{len(problems)} problem(s)",
        todo="Nothing was published. Clear the run's first task with downstream.",
    )


def _find_problems(
    conn: Connection, spec: ModelSpec, plan: ScorePlan, spine: sql.Identifier
) -> list[str]:
    values = {
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
        # One scan of each side shows that they agree. Only a difference pays for the join.
        if conn.execute(model_query(spec, _AGREE, features=spine), values).fetchone() == (True,):
            return []
        cursor = conn.execute(model_query(spec, _COMPARE, features=spine), values)
        _, *checks = [column.name.replace("_", " ") for column in cursor.description or []]
        rows = cursor.fetchall()
    problems = []
    for day, *counts in rows:
        for check, n_rows in zip(checks, counts, strict=True):
            if n_rows:
                problems.append(f"{n_rows} {check} on {day}")
    return problems


# No key is in a load twice, which the table itself refuses: equal sums of hashes then mean equal
# sets. Days that are materialized would keep PostgreSQL from scanning in parallel.
_AGREE = """
with days as not materialized (
    select * from unnest(%(days)s::date[], %(feature_loads)s::bigint[], %(versions)s::int[])
        d (partition_date, load_id, version)
), f as (
    select days.partition_date, count(*) as n_rows,
        sum(hashint8extended(
            hash_record_extended(row(v.{key}, v.{event_timestamp}, v.as_of), 0), 0
        )) as row_hashes
    from {features} v join days using (partition_date, load_id) group by 1
), p as (
    select t.partition_date, count(*) as n_rows,
        sum(hashint8extended(
            hash_record_extended(row(t.{key}, t.{event_timestamp}, t.features_as_of), 0), 0
        )) as row_hashes,
        count(*) filter (where score not in ('NaN', 'Infinity', '-Infinity')
            and decile between 1 and 10
            and (probability between 0 and 1 or (probability is null and not {is_binary}))
            and (score_source = 'champion' or score_source_reason is not null)
            and model_version is not distinct from version) as n_good
    from {predictions} t left join days using (partition_date)
    where t.load_id = %(load_id)s and t.partition_date between %(first)s and %(last)s
    group by 1
)
select bool_and(coalesce(
    f.n_rows = p.n_rows and p.n_rows = p.n_good and f.row_hashes = p.row_hashes, false
))
from f full join p using (partition_date)
"""
_COMPARE = """
with days as (
    select * from unnest(%(days)s::date[], %(feature_loads)s::bigint[], %(versions)s::int[])
        d (partition_date, load_id, version)
), f as (
    select days.partition_date, days.version,
        v.{key}, v.{event_timestamp} as event_timestamp, v.as_of
    from {features} v join days using (partition_date, load_id)
), p as (
    select * from {predictions} where load_id = %(load_id)s
        and partition_date between
            (select min(partition_date) from days) and (select max(partition_date) from days)
)
select coalesce(f.partition_date, p.partition_date),
    count(*) filter (where p.{key} is null) as entities_without_a_prediction,
    count(*) filter (where f.{key} is null) as predictions_without_an_entity,
    count(*) filter (where p.score in ('NaN', 'Infinity', '-Infinity'))
        as scores_that_are_not_finite,
    count(*) filter (where p.probability not between 0 and 1) as probabilities_outside_of_0_to_1,
    count(*) filter (where {is_binary} and p.{key} is not null and p.probability is null)
        as missing_probabilities,
    count(*) filter (where p.score_source <> 'champion' and p.score_source_reason is null)
        as rows_without_a_reason,
    count(*) filter (where p.{key} is not null and (p.decile between 1 and 10) is not true)
        as deciles_outside_of_1_to_10,
    count(*) filter (
        where p.model_version is distinct from f.version
            and p.{key} is not null and f.{key} is not null
    ) as predictions_of_another_model,
    count(*) filter (
        where (p.features_as_of, p.event_timestamp) is distinct from (f.as_of, f.event_timestamp)
            and p.{key} is not null and f.{key} is not null
    ) as predictions_with_other_times_than_their_features
from f full join p using (partition_date, {key})
group by 1 order by 1
"""
