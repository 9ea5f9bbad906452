"""Rank and check predictions: staged rows against the spine and the suite, published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import AuditError, LoadStateError
from nightshift.scoring.feature_rows import refuse_damaged_features
from nightshift.scoring.plan import version_of_row
from nightshift.scoring.prediction_tables import SCHEMA, model_query, task_condition
from nightshift.scoring.without_model.last_score import spine_relation
from nightshift.warehouse import partition_write
from nightshift.warehouse.published import join_published

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.quality.gate_errors import GateError
    from nightshift.scoring.plan import ScorePlan
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_MAX_SHOWN = 5


class IncompletePredictionsError(AuditError):
    """The staged predictions are not exactly one valid row per entity of the feature load."""

    code = "NS-SCORE-001"


def gate_refusal(
    settings: Settings, spec: ModelSpec, plan: ScorePlan, run: RunContext
) -> GateError | None:
    """Run the expectation suite on the plan's load; return its refusal, None after a pass.

    Raises:
        GateError: The suite could not be evaluated. That says nothing about the scores, so it is
            never taken for a refusal.
    """
    from nightshift.quality.gate_errors import GateCrashError, GateError, SuiteError
    from nightshift.quality.gates import run_gate

    dataset = spec.predictions_dataset
    try:
        run_gate(settings, dataset, SCHEMA, spec.name, plan.load_id, plan.partitions, run)
    except (GateCrashError, SuiteError):
        raise
    except GateError as refusal:
        return refusal
    return None


def audit_rows(
    conn: Connection, spec: ModelSpec, plan: ScorePlan, write: partition_write.PartitionWrite
) -> None:
    """Check the staged rows and what they were made from; then run the write path's audit.

    Raises:
        DamagedInputError: The feature rows that were scored differ from what was published.
        IncompletePredictionsError: There is not one valid row per entity.
        AuditError: The write path's audit refused the load.
    """
    # The checks scan rows that were just written: the planner must know of them.
    partition_write.analyze_grown_tables(conn, write)
    refuse_damaged_features(conn, spec, plan)
    set_ranks(conn, spec, plan)
    refuse_incomplete(conn, spec, plan)
    partition_write.audit(conn, write, plan.sources_detail)


def require_version(
    conn: Connection, spec: ModelSpec, partitions: PartitionRange, version: int
) -> None:
    """Read back that a version, as champion, made every row that readers see of some partitions.

    Raises:
        LoadStateError: It did not; another run has published meanwhile.
    """
    query = model_query(
        spec,
        """
        select count(distinct t.partition_date), count(*) filter
            (where t.model_version is distinct from %s or t.score_source <> 'champion')
        from {predictions} t {published} where t.partition_date between %s and %s
        """,
        published=join_published(spec.predictions_dataset, "t"),
    )
    row = conn.execute(query, [version, partitions.first.day, partitions.last.day]).fetchone()
    if row != (len(partitions), 0):
        raise LoadStateError(
            f"After the rollback of {spec.name}, {partitions} has rows of other versions.",
            expected=f"({len(partitions)}, 0) partitions, and rows not of version {version}",
            got=str(row),
            todo="Another run has published meanwhile: run the rollback again.",
        )


def set_ranks(
    conn: Connection, spec: ModelSpec, plan: ScorePlan, *, is_prepared: bool = False
) -> None:
    """Set rank and is_top_k of all staged rows of a load; of other tasks do nothing.

    Idempotent. Of equal scores the lower entity key comes first, so that a rerun gives equal
    content.

    Args:
        conn: A connection outside of a transaction.
        spec: The model.
        plan: Its load, with the rows of all shards.
        is_prepared: The entities are those of ``prepare_spine``, which knows no groups: each night
            is one.
    """
    from psycopg import sql

    if not spec.is_ranking:
        return
    group: sql.Composable = sql.SQL("null")
    joined: sql.Composable = sql.SQL("")
    # The group that the row had when it was scored, not that of a feature load published later.
    if spec.group and not is_prepared:
        group = sql.Identifier("f", spec.group)
        joined = model_query(spec, _FEATURES_OF_LOAD)
    values = {
        "days": [day.partition_date for day in plan.days],
        "feature_loads": [day.feature_load_id for day in plan.days],
        "load_id": plan.load_id,
        "first": plan.partitions.first.day,
        "last": plan.partitions.last.day,
        "top_k": spec.top_k,
    }
    with conn.transaction():
        # An audited load is not changed: its ranks are set already.
        if partition_write.hold_stage(conn, plan.write(spec)) != "staged":
            return
        # A load that was just copied has no statistics, as for the checks of rows.
        conn.execute("set local enable_nestloop = off")
        conn.execute(model_query(spec, _SET_RANKS, group=group, joined=joined), values)


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
        "days": plan.partitions.days,
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
        version = version_of_row(spec, plan, "t")
        agree = model_query(
            spec, _AGREE, features=spine, version=version, fits_task=task_condition(spec, "t")
        )
        if conn.execute(agree, values).fetchone() == (True,):
            return []
        version = version_of_row(spec, plan, "p")
        compare = model_query(
            spec, _COMPARE, features=spine, version=version, fits_task=task_condition(spec, "p")
        )
        cursor = conn.execute(compare, values)
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
            and (probability between 0 and 1 or (probability is null and not {has_probability}))
            and {fits_task}
            and (score_source = 'champion' or score_source_reason is not null)
            and model_version is not distinct from {version}) as n_good
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
    count(*) filter (where {has_probability} and p.{key} is not null and p.probability is null)
        as missing_probabilities,
    count(*) filter (where p.{key} is not null and not {fits_task})
        as answers_that_do_not_fit_the_task,
    count(*) filter (where p.score_source <> 'champion' and p.score_source_reason is null)
        as rows_without_a_reason,
    count(*) filter (where p.{key} is not null and (p.decile between 1 and 10) is not true)
        as deciles_outside_of_1_to_10,
    count(*) filter (
        where p.model_version is distinct from {version}
            and p.{key} is not null and f.{key} is not null
    ) as predictions_of_another_model,
    count(*) filter (
        where (p.features_as_of, p.event_timestamp) is distinct from (f.as_of, f.event_timestamp)
            and p.{key} is not null and f.{key} is not null
    ) as predictions_with_other_times_than_their_features
from f full join p using (partition_date, {key})
group by 1 order by 1
"""
# Shards are parts of the entities: a group is complete once all of them are staged.
_FEATURES_OF_LOAD = """
join unnest(%(days)s::date[], %(feature_loads)s::bigint[]) as d (partition_date, feature_load_id)
    on d.partition_date = p.partition_date
left join {features} f on f.partition_date = p.partition_date
    and f.load_id = d.feature_load_id and f.{key} = p.{key}
"""
_SET_RANKS = """
with ranked as (
    select p.partition_date, p.{key}, row_number() over (
        partition by p.partition_date, {group} order by p.score desc, p.{key} collate "C"
    )::integer as place
    from {predictions} p {joined}
    where p.load_id = %(load_id)s and p.partition_date between %(first)s and %(last)s
)
update {predictions} t set rank = r.place, is_top_k = r.place <= %(top_k)s
from ranked r
where t.load_id = %(load_id)s and t.partition_date between %(first)s and %(last)s
    and t.partition_date = r.partition_date and t.{key} = r.{key}
    and (t.rank, t.is_top_k) is distinct from (r.place, r.place <= %(top_k)s)
"""
