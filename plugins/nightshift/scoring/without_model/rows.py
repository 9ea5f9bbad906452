"""Stage predictions without a model, in SQL alone: the last score, aged, else the fallback rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.tasks.classes import CLASS_COLUMN
from nightshift.models.calibration import EDGE
from nightshift.scoring.feature_rows import shard_condition
from nightshift.scoring.prediction_tables import model_query
from nightshift.scoring.without_model.last_score import fill_last_scores, spine_relation
from nightshift.warehouse.relations.columns import text_literal

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.scoring.plan import ScorePlan
    from nightshift.warehouse.connection import Connection

DEFAULT_THRESHOLD = 0.5
"""Probability from which a row is positive, if the spec does not set it."""


def stage_without_model(
    conn: Connection,
    spec: ModelSpec,
    plan: ScorePlan,
    shard: int,
    run: RunContext,
    *,
    is_prepared: bool = False,
) -> None:
    """Stage one shard's rows of the plan's days without a model, in the caller's transaction.

    The rule's score is the value of its column; where that is null or not finite, its default. An
    entity with a last score gets that score, moved towards the rule's by half of the difference in
    each half-life: with age this step becomes the rule. A binary score of the rule counts as the
    probability, and stays inside of 0 to 1 as a champion's does. Deciles are taken within the
    partition. Every row of classes has the rule's shares. With ``is_prepared``, the rows to predict
    for are those of ``prepare_spine``.
    """
    days = plan.days_without_model
    fill_last_scores(conn, spec, days, is_prepared=is_prepared)
    rule, threshold = spec.scoring.fallback, spec.positive_threshold
    is_in_shard = shard_condition(spec, plan.n_shards, shard)
    spine = spine_relation(spec, is_prepared=is_prepared)
    class_columns, class_values = _classes(spec)
    query = model_query(
        spec,
        _STAGE,
        features=spine,
        is_in_shard=is_in_shard,
        class_columns=class_columns,
        class_values=class_values,
    )
    values = {
        "days": [day.partition_date for day in days],
        "feature_loads": [day.feature_load_id for day in days],
        "day_reasons": [day.score_source_reason for day in days],
        "default": max(rule.shares, default=rule.default),
        "half_life": spec.scoring.carry_over.half_life_days,
        "edge": EDGE,
        "threshold": DEFAULT_THRESHOLD if threshold is None else threshold,
        "rule": rule.feature,
        "n_reasons": spec.scoring.reasons,
        "load_id": plan.load_id,
        "shard": shard,
        "run_id": run.run_id,
    }
    conn.execute(query, values)


def _classes(spec: ModelSpec) -> tuple[sql.Composed, sql.Composed]:
    """Return the columns of the predicted class and of all probabilities, and the rule's values."""
    from psycopg import sql

    rule = dict(zip(spec.class_columns, spec.scoring.fallback.shares, strict=True))
    if not rule:
        return sql.Composed([]), sql.Composed([])
    # The first of equals, as for a model.
    predicted = max(rule, key=rule.__getitem__)
    shares = {spec.class_columns[name]: share for name, share in rule.items()}
    columns = [sql.SQL(", {}").format(sql.Identifier(name)) for name in (CLASS_COLUMN, *shares)]
    literals = [sql.SQL(", {}").format(sql.Literal(value)) for value in shares.values()]
    of_class = sql.SQL(", {}").format(text_literal(predicted))
    return sql.Composed(columns), of_class + sql.Composed(literals)


# Values between -1e300 and 1e300 are finite: NaN and the infinities lie outside.
# The rank is taken over all rows of a day before the shard is cut out: shards agree on deciles.
_STAGE = """
insert into {predictions} (
    partition_date, load_id, shard, {key}, event_timestamp, score, probability, decile,
    is_positive, reasons, model_version, features_as_of, score_source, score_source_reason, run_id
    {class_columns}
)
with days as (
    select * from unnest(%(days)s::date[], %(feature_loads)s::bigint[], %(day_reasons)s::text[])
        d (partition_date, load_id, day_reason)
), joined as (
    select f.partition_date, f.{key}, f.{event_timestamp} as event_timestamp, f.as_of,
        days.day_reason,
        case when {rule_of_f} between '-1e300' and '1e300' then {rule_of_f} end as value,
        c.from_date, c.score as old_score, c.probability as old_probability,
        c.model_version as old_version,
        coalesce(power(
            0.5::double precision,
            (f.partition_date - c.from_date) / %(half_life)s::double precision
        ), 0) as weight
    from {features} f join days using (partition_date, load_id)
    left join last_scores c on c.partition_date = f.partition_date and c.entity = f.{key}
), ruled as (
    select *, coalesce(value, %(default)s::double precision) as rule_score,
        greatest(
            least(coalesce(value, %(default)s::double precision), 1 - %(edge)s), %(edge)s
        ) as rule_probability
    from joined
), aged as (
    select *,
        case when from_date is null then rule_score
            else rule_score + weight * (old_score - rule_score) end as score,
        case when {has_probability} and from_date is null then rule_probability
            when {has_probability}
                then rule_probability + weight * (old_probability - rule_probability)
            end as probability
    from ruled
), ranked as (
    select *, ntile(10) over (partition by partition_date order by score, {key}) as decile
    from aged
)
select
    partition_date, %(load_id)s, %(shard)s, {key}, event_timestamp, score, probability, decile,
    case when {is_binary} then probability >= %(threshold)s::double precision end,
    case when %(n_reasons)s = 0 or %(rule)s::text = '' then '[]'
        when from_date is null then jsonb_build_array(jsonb_build_object(
            'feature', %(rule)s::text, 'value', value, 'contribution', null
        ))
        else jsonb_build_array(jsonb_build_object(
            'feature', 'score_of_' || from_date, 'value', old_score, 'contribution', null
        )) end,
    null, as_of, case when from_date is null then 'fallback_rule' else 'carried_over' end,
    case when from_date is null then day_reason
        else format(
            '%%s; the score of %%s by version %%s, %%s day(s) old',
            day_reason, from_date, old_version, partition_date - from_date
        ) end,
    %(run_id)s {class_values}
from ranked where {is_in_shard}
order by partition_date, {key}
"""
