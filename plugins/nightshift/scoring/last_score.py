"""Carry over the last score that a model gave the same recurring entity: the step of the ladder between the models and the rule."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.scoring.plan import MODEL_MADE, DayPlan, PastScores

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class Spine:
    """The rows to predict for.

    Attributes:
        relation: The feature view's table, or one of its shape (``prepared_spine``).
        is_prepared: Whether it has a column ``recurring`` already.
    """

    relation: sql.Composable
    is_prepared: bool = False


def feature_spine(spec: ModelSpec) -> Spine:
    """Return the feature view's table as the spine."""
    from psycopg import sql

    return Spine(sql.Identifier("features", spec.feature_table))


def past_scores(
    conn: Connection, spec: ModelSpec, days: Sequence[dt.date]
) -> dict[dt.date, tuple[PastScores, ...]]:
    """Return, by day, the published loads of the nights before that hold scores of a model, the newest first.

    A spine whose relation is missing or has other columns gives nothing: the rule is the next step,
    and needs none of it.
    """
    from psycopg import sql

    found: dict[dt.date, tuple[PastScores, ...]] = {}
    if not days or not spec.scoring.carry_over.maximum_age_days or not knows_entities(conn, spec):
        return found
    query = sql.SQL(_PAST).format(table=sql.Identifier("predictions", spec.name))
    maximum_age = spec.scoring.carry_over.maximum_age_days
    asked = {
        "days": list(days),
        "dataset": spec.predictions_dataset,
        "maximum_age": maximum_age,
        "model_made": list(MODEL_MADE),
    }
    for day, partition_date, load_id in conn.execute(query, asked).fetchall():
        found[day] = (
            *found.get(day, ()),
            PastScores(partition_date=partition_date, load_id=load_id),
        )
    return found


def knows_entities(conn: Connection, spec: ModelSpec) -> bool:
    """Return whether the relation that tells which entity is the same on another day can be read."""
    import psycopg
    from psycopg import sql

    try:
        conn.execute(
            sql.SQL("select from ({}) k limit 0").format(_old_keys(spec)), {"days": [], "loads": []}
        )
    except psycopg.ProgrammingError:
        return False
    return True


_PAST = """
select d.day, p.partition_date, p.load_id from unnest(%(days)s::date[]) d (day)
join ops.published p on p.dataset = %(dataset)s and p.partition_date between d.day - %(maximum_age)s and d.day - 1
where exists (
    select from {table} t where t.partition_date = p.partition_date and t.load_id = p.load_id and t.score_source = any(%(model_made)s))
order by d.day, p.partition_date desc
"""


def past_digest(conn: Connection, spec: ModelSpec, days: Iterable[DayPlan]) -> str:
    """Return a digest of all that the carried scores depend on: the old loads, and what tells an entity on another day."""
    from psycopg import sql

    past = sorted({(one.partition_date, one.load_id) for day in days for one in day.past})
    nights = sorted({day.partition_date for day in days} | {day for day, _ in past})
    versions: list[tuple[object, ...]] = []
    if past and spec.scoring.carry_over.key and spec.scoring.spine:
        relation = sql.Identifier("staging", spec.scoring.spine.relation)
        query = sql.SQL(
            "select distinct partition_date, load_id from {} where superseded_at is null and partition_date = any(%s)"
        )
        versions = sorted(conn.execute(query.format(relation), [nights]).fetchall())
    return sha256(json.dumps([past, versions], default=str).encode()).hexdigest()


def fill_carried(conn: Connection, spec: ModelSpec, days: Sequence[DayPlan], spine: Spine) -> None:
    """Create the temporary table ``carried_over``: each entity's last old score; within the caller's transaction.

    Columns: ``partition_date, entity, from_date, score, probability, model_version``; no row for an
    entity without an old score.
    """
    from psycopg import sql

    # Loads that were just copied have no statistics: a nested loop over them takes minutes where a
    # hash join takes a second.
    conn.execute("set local enable_nestloop = off")
    wanted = [
        (day.partition_date, one.partition_date, one.load_id) for day in days for one in day.past
    ]
    conn.execute("drop table if exists pg_temp.carried_over")
    conn.execute(_EMPTY)
    if not wanted:
        return
    query = sql.SQL(_FILL).format(
        key=sql.Identifier(spec.entity.key),
        predictions=sql.Identifier("predictions", spec.name),
        old_keys=_old_keys(spec),
        tonight=_tonight(spec, spine),
    )
    conn.execute(
        query,
        {
            "nights": [night for night, _, _ in wanted],
            "from_days": [day for _, day, _ in wanted],
            "from_loads": [load for _, _, load in wanted],
            "days": sorted({day for pair in wanted for day in pair[:2]}),
            "loads": sorted({load for _, _, load in wanted}),
            "model_made": list(MODEL_MADE),
        },
    )


def recurring_key(spec: ModelSpec, alias: str) -> sql.Composed:
    """Return the SQL expression, text, by which an entity is known on another day."""
    from psycopg import sql

    columns = [sql.Identifier(alias, name) for name in spec.scoring.carry_over.key]
    if not columns:
        return sql.Composed([sql.Identifier(alias, spec.entity.key)])
    return sql.SQL("jsonb_build_array({})::text").format(sql.SQL(", ").join(columns))


def _old_keys(spec: ModelSpec) -> sql.Composed:
    """Return the query of ``partition_date, entity, recurring`` for the days ``%(days)s``."""
    from psycopg import sql

    parts = {"key": sql.Identifier(spec.entity.key), "recurring": recurring_key(spec, "r")}
    if not spec.scoring.carry_over.key:
        query = "select distinct r.partition_date, r.{key} as entity, {recurring} as recurring from {relation} r"
        query += " where r.load_id = any(%(loads)s)"
        return sql.SQL(query).format(relation=sql.Identifier("predictions", spec.name), **parts)
    if spec.scoring.spine:
        query = "select r.partition_date, r.{key} as entity, {recurring} as recurring from {relation} r where r.superseded_at is null"
        query += " and r.partition_date = any(%(days)s)"
        return sql.SQL(query).format(
            relation=sql.Identifier("staging", spec.scoring.spine.relation), **parts
        )
    query = (
        "select r.partition_date, r.{key} as entity, {recurring} as recurring from {relation} r"
        " join ops.published p on p.dataset = {dataset} and p.partition_date = r.partition_date and p.load_id = r.load_id"
        " where r.partition_date = any(%(days)s)"
    )
    relation = sql.Identifier("features", spec.feature_table)
    return sql.SQL(query).format(
        relation=relation, dataset=sql.Literal(spec.features_dataset), **parts
    )


def _tonight(spec: ModelSpec, spine: Spine) -> sql.Composable:
    """Return the query of ``partition_date, entity, recurring`` of the rows to predict for."""
    from psycopg import sql

    key = sql.Identifier(spec.entity.key)
    if spine.is_prepared:
        return sql.SQL(
            "select s.partition_date, s.{key} as entity, s.recurring from {spine} s"
        ).format(key=key, spine=spine.relation)
    if spec.scoring.carry_over.key:
        return sql.SQL("select k.partition_date, k.entity, k.recurring from keys k")
    query = "select s.partition_date, s.{key} as entity, s.{key} as recurring from {spine} s where s.partition_date = any(%(nights)s)"
    return sql.SQL(query).format(key=key, spine=spine.relation)


_EMPTY = """
create temporary table carried_over (
    partition_date date, entity text, from_date date, score double precision, probability double precision, model_version integer
) on commit drop
"""
_FILL = """
insert into carried_over
with wanted as (
    select * from unnest(%(nights)s::date[], %(from_days)s::date[], %(from_loads)s::bigint[]) w (partition_date, from_date, load_id)
), keys as materialized (
    {old_keys}
), old as (
    select wanted.partition_date, keys.recurring, wanted.from_date, keys.entity, t.score, t.probability, t.model_version
    from wanted join {predictions} t on t.partition_date = wanted.from_date and t.load_id = wanted.load_id
    join keys on keys.partition_date = t.partition_date and keys.entity = t.{key}
    where t.score_source = any(%(model_made)s)
), latest as (
    select distinct on (partition_date, recurring) * from old order by partition_date, recurring, from_date desc, entity
)
select distinct tonight.partition_date, tonight.entity, latest.from_date, latest.score, latest.probability, latest.model_version
from ({tonight}) tonight join latest on latest.partition_date = tonight.partition_date and latest.recurring = tonight.recurring
"""
