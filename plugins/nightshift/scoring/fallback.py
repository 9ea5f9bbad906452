"""The rule that is published without a usable champion: one column of the feature view, in SQL alone, so that nothing else can break it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.scoring.feature_rows import shard_condition
from nightshift.training.calibration import EDGE

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.plan import ScorePlan
    from nightshift.warehouse.connection import Connection

DEFAULT_THRESHOLD = 0.5
"""Probability from which a row is called positive when neither the spec nor a champion says so."""


def stage_fallback(conn: Connection, spec: ModelSpec, plan: ScorePlan, shard: int, run: RunContext) -> int:
    """Stage the rule's scores of one shard's rows, for the days of the plan without a champion; within the caller's transaction.

    The score is the rule's column, its default where that is null or not finite. A binary score counts as the probability, kept inside
    of 0 to 1 as a champion's is. Deciles are taken within the night; the only reason is the rule's column.

    Returns:
        Number of staged rows.
    """
    from psycopg import sql

    days = plan.days_without_champion
    if not days:
        return 0
    query = sql.SQL(_STAGE).format(
        table=sql.Identifier("predictions", spec.name),
        key=sql.Identifier(spec.entity.key),
        event_timestamp=sql.Identifier(spec.event_timestamp),
        features=sql.Identifier("features", spec.feature_table),
        rule=sql.Identifier(spec.scoring.fallback.feature),
        is_in_shard=shard_condition(spec, plan.n_shards, shard),
        is_binary=sql.Literal(spec.task is Task.BINARY),
    )
    return conn.execute(
        query,
        {
            "days": [day.partition_date for day in days],
            "feature_loads": [day.feature_load_id for day in days],
            "why": [day.score_source_reason for day in days],
            "default": spec.scoring.fallback.default,
            "edge": EDGE,
            "threshold": DEFAULT_THRESHOLD if spec.positive_threshold is None else spec.positive_threshold,
            "rule": spec.scoring.fallback.feature,
            "n_reasons": spec.scoring.reasons,
            "load_id": plan.load_id,
            "shard": shard,
            "run_id": run.run_id,
        },
    ).rowcount


_STAGE = """
insert into {table} (
    partition_date, load_id, shard, {key}, event_timestamp, score, probability, decile, is_positive, reasons,
    model_version, features_as_of, score_source, score_source_reason, run_id
)
with days as (
    select * from unnest(%(days)s::date[], %(feature_loads)s::bigint[], %(why)s::text[]) d (partition_date, load_id, why)
), ruled as (
    select f.partition_date, f.{key}, f.{event_timestamp} as event_timestamp, f.as_of, f.{rule}::double precision as value, days.why,
        case when f.{rule}::double precision between '-1e300' and '1e300' then f.{rule}::double precision else %(default)s end as score
    from {features} f join days using (partition_date, load_id)
), ranked as (
    select *, ntile(10) over (partition by partition_date order by score, {key}) as decile,
        case when {is_binary} then greatest(least(score, 1 - %(edge)s), %(edge)s) end as probability
    from ruled
)
select
    partition_date, %(load_id)s, %(shard)s, {key}, event_timestamp, score, probability, decile,
    probability >= %(threshold)s::double precision,
    case when %(n_reasons)s = 0 then '[]' else jsonb_build_array(jsonb_build_object(
        'feature', %(rule)s::text, 'value', case when value between '-1e300' and '1e300' then value end, 'contribution', null)) end,
    null, as_of, 'fallback_rule', why, %(run_id)s
from ranked where {is_in_shard}
order by partition_date, {key}
"""
