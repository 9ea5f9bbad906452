"""Last scores: the newest score that a model gave the same recurring entity on an earlier day.

They are the step of the fallback chain between the models and the rule.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.scoring.plan import MODEL_STEPS, DayPlan, PastScores
from nightshift.scoring.prediction_tables import model_query
from nightshift.warehouse.published import join_published

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection


def spine_relation(spec: ModelSpec, *, is_prepared: bool) -> sql.Identifier:
    """Return the rows to predict for: the feature view's table, or the one of ``prepare_spine``."""
    from psycopg import sql

    if is_prepared:
        return sql.Identifier("pg_temp", "prepared_spine")
    return sql.Identifier("features", spec.feature_table)


def past_scores(
    conn: Connection, spec: ModelSpec, days: Sequence[dt.date]
) -> dict[dt.date, tuple[PastScores, ...]]:
    """Return, by day, the published loads of earlier days with scores of a model, newest first.

    Empty if the relation that identifies entities cannot be read: the rule, which is the next step,
    does not need it.
    """
    maximum_age = spec.scoring.carry_over.maximum_age_days
    if not days or not maximum_age or not knows_entities(conn, spec):
        return {}
    values = {
        "days": list(days),
        "dataset": spec.predictions_dataset,
        "maximum_age": maximum_age,
        "model_steps": list(MODEL_STEPS),
    }
    loads = defaultdict(list)
    for day, partition_date, load_id in conn.execute(model_query(spec, _PAST), values):
        loads[day].append(PastScores(partition_date=partition_date, load_id=load_id))
    return {day: tuple(of_day) for day, of_day in loads.items()}


# Not join_published: the pointers lead, and one matching row of each old load is enough.
_PAST = """
select d.day, p.partition_date, p.load_id from unnest(%(days)s::date[]) d (day)
join ops.published p
    on p.dataset = %(dataset)s and p.partition_date between d.day - %(maximum_age)s and d.day - 1
where exists (
    select from {predictions} t
    where t.partition_date = p.partition_date and t.load_id = p.load_id
        and t.score_source = any(%(model_steps)s)
)
order by d.day, p.partition_date desc
"""


def knows_entities(conn: Connection, spec: ModelSpec) -> bool:
    """Return whether the relation that identifies entities across days can be read."""
    import psycopg
    from psycopg import sql

    query = sql.SQL("select from ({}) k limit 0").format(_old_keys(spec))
    # A limit of 0 rows plans the query, which proves that its relation and columns exist.
    try:
        conn.execute(query, {"days": [], "loads": []})
    except psycopg.ProgrammingError:
        return False
    return True


def _past_loads(days: Iterable[DayPlan]) -> list[tuple[dt.date, PastScores]]:
    """Return each day with each of its old loads."""
    loads = []
    for day in days:
        loads += [(day.partition_date, load) for load in day.past]
    return loads


def past_digest(conn: Connection, spec: ModelSpec, days: Iterable[DayPlan]) -> str:
    """Return a digest of all inputs of the last scores: the old loads and the versions of keys."""
    from psycopg import sql

    days = list(days)
    past = sorted({(load.partition_date, load.load_id) for _, load in _past_loads(days)})
    partition_dates = sorted({day.partition_date for day in days} | {day for day, _ in past})
    # The spine's relation may get newer loads, which identify entities anew: they are inputs too.
    versions: list[tuple[object, ...]] = []
    if past and spec.scoring.carry_over.key and spec.scoring.spine:
        query = sql.SQL(
            """
            select distinct partition_date, load_id from {}
            where superseded_at is null and partition_date = any(%s)
            """
        ).format(sql.Identifier("staging", spec.scoring.spine.relation))
        versions = sorted(conn.execute(query, [partition_dates]))
    return sha256(json.dumps([past, versions], default=str).encode()).hexdigest()


def fill_last_scores(
    conn: Connection, spec: ModelSpec, days: Sequence[DayPlan], *, is_prepared: bool
) -> None:
    """Create the temporary table ``last_scores``, within the caller's transaction.

    Columns: ``partition_date, entity, from_date, score, probability, model_version``; no row for an
    entity without a last score.
    """
    # Loads that were just copied have no statistics: a nested loop over them takes minutes where a
    # hash join takes a second.
    conn.execute("set local enable_nestloop = off")
    conn.execute("drop table if exists pg_temp.last_scores")
    conn.execute(_EMPTY)
    loads = _past_loads(days)
    if not loads:
        return
    from_days = [load.partition_date for _, load in loads]
    from_loads = [load.load_id for _, load in loads]
    partition_dates = [day for day, _ in loads]
    old_keys, new_keys = _old_keys(spec), _new_keys(spec, is_prepared=is_prepared)
    query = model_query(spec, _FILL, old_keys=old_keys, new_keys=new_keys)
    values = {
        "partition_dates": partition_dates,
        "from_days": from_days,
        "from_loads": from_loads,
        "days": sorted({*partition_dates, *from_days}),
        "loads": sorted(set(from_loads)),
        "model_steps": list(MODEL_STEPS),
    }
    conn.execute(query, values)


def recurring_key(spec: ModelSpec, alias: str) -> sql.Composed:
    """Return the SQL expression, text, that identifies an entity on every day."""
    from psycopg import sql

    columns = [sql.Identifier(alias, name) for name in spec.scoring.carry_over.key]
    if not columns:
        return sql.Composed([sql.Identifier(alias, spec.entity.key)])
    return sql.SQL("jsonb_build_array({})::text").format(sql.SQL(", ").join(columns))


def _old_keys(spec: ModelSpec) -> sql.Composed:
    """Return the query of ``partition_date, entity, recurring`` for the days ``%(days)s``."""
    from psycopg import sql

    relation: sql.Composable = sql.SQL("")
    if not spec.scoring.carry_over.key:
        query = "select distinct {columns} from {predictions} r where r.load_id = any(%(loads)s)"
    elif spec.scoring.spine:
        relation = sql.Identifier("staging", spec.scoring.spine.relation)
        query = """
            select {columns} from {relation} r
            where r.superseded_at is null and r.partition_date = any(%(days)s)
        """
    else:
        query = """
            select {columns} from {features} r {published}
            where r.partition_date = any(%(days)s)
        """
    columns = sql.SQL("r.partition_date, r.{} as entity, {} as recurring").format(
        sql.Identifier(spec.entity.key), recurring_key(spec, "r")
    )
    published = join_published(spec.features_dataset, "r")
    return model_query(spec, query, columns=columns, relation=relation, published=published)


def _new_keys(spec: ModelSpec, *, is_prepared: bool) -> sql.Composable:
    """Return the query of ``partition_date, entity, recurring`` of the rows to predict for."""
    # A prepared spine has the recurring key as a column.
    if is_prepared:
        query = "select s.partition_date, s.{key} as entity, s.recurring from {spine} s"
    elif spec.scoring.carry_over.key:
        query = "select k.partition_date, k.entity, k.recurring from keys k"
    else:
        query = (
            "select s.partition_date, s.{key} as entity, s.{key} as recurring from {spine} s"
            " where s.partition_date = any(%(partition_dates)s)"
        )
    return model_query(spec, query, spine=spine_relation(spec, is_prepared=is_prepared))


_EMPTY = """
create temporary table last_scores (
    partition_date date, entity text, from_date date,
    score double precision, probability double precision, model_version integer
) on commit drop
"""
_FILL = """
insert into last_scores
with past as (
    select * from unnest(
        %(partition_dates)s::date[], %(from_days)s::date[], %(from_loads)s::bigint[]
    ) d (partition_date, from_date, load_id)
), keys as materialized (
    {old_keys}
), old as (
    select past.partition_date, keys.recurring, past.from_date, keys.entity,
        t.score, t.probability, t.model_version
    from past
    join {predictions} t on t.partition_date = past.from_date and t.load_id = past.load_id
    join keys on keys.partition_date = t.partition_date and keys.entity = t.{key}
    where t.score_source = any(%(model_steps)s)
), latest as (
    select distinct on (partition_date, recurring) * from old
    order by partition_date, recurring, from_date desc, entity
)
select distinct new.partition_date, new.entity,
    latest.from_date, latest.score, latest.probability, latest.model_version
from ({new_keys}) new
join latest on latest.partition_date = new.partition_date and latest.recurring = new.recurring
"""
