"""Find the entities of a night whose features are missing: tonight's list, or one that is expected to come again."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.errors import NightshiftError
from nightshift.scoring.last_score import Spine, recurring_key
from nightshift.training.feature_query import features_target
from nightshift.warehouse.damage import find_damage_cheaply, published_records

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.scoring.plan import PastScores
    from nightshift.warehouse.connection import Connection

SpineKind = Literal["features", "list", "repeated list", "repeated features"]
RULE_DAYS = 28
"""How old the features may be whose rule value still serves."""
RECURRING_FEATURES_DAYS = 7
"""How old the features may be whose entities, if they recur, are expected again."""


class NoSpineError(NightshiftError):
    """Nothing says for which entities to predict: no features, no list, and none that could be expected again."""

    code = "NS-SCORE-005"
    is_retryable = True


@dataclass(frozen=True)
class SpineSource:
    """Where the entities of one night come from.

    Attributes:
        kind: What they are.
        partition_date: Partition of the load; the night's own unless it is repeated.
        load_id: The load.
    """

    kind: SpineKind
    partition_date: dt.date
    load_id: int

    def reason(self, why: str) -> str:
        """Return the words that every row carries, begun by why the features are not used."""
        said = {
            "features": "",
            "list": "",
            "repeated list": f"; the list of {self.partition_date} is expected again",
        }
        return why + said.get(
            self.kind, f"; the entities of {self.partition_date} are expected again"
        )


def find_spine(conn: Connection, spec: ModelSpec, partition: Partition) -> SpineSource:
    """Return the best source that there is: features, tonight's list, a repeated list, or, where the entity recurs, older features.

    Raises:
        NoSpineError: There is none.
    """
    found = _published_features(conn, spec, partition.day, 0) or _list(conn, spec, partition.day)
    if found is None and spec.entity.recurs:
        found = _published_features(conn, spec, partition.day, RECURRING_FEATURES_DAYS)
    if found is None:
        raise NoSpineError(
            f"Nothing says for which {spec.entity.name} to predict on the night of {partition}.",
            expected=f"features, a list in scoring.spine, or one that is expected again ({spec.name}.yaml)",
            todo="Ask upstream for the drop; a partition of invented or no entities is not published.",
        )
    return found


def _published_features(
    conn: Connection, spec: ModelSpec, day: dt.date, maximum_age: int
) -> SpineSource | None:
    """Return the newest published load of the feature view; one of which rows vanished or changed names no entities."""
    days = [day - dt.timedelta(days=age) for age in range(maximum_age + 1)]
    for record in reversed(published_records(conn, spec.features_dataset, days)):
        if not find_damage_cheaply(conn, features_target(spec), [record]):
            kind: SpineKind = "features" if record.partition_date == day else "repeated features"
            return SpineSource(kind, record.partition_date, record.load_id)
    return None


def _list(conn: Connection, spec: ModelSpec, day: dt.date) -> SpineSource | None:
    """Return tonight's load of the spine's relation, else the newest that may be repeated; None also if the relation is not there."""
    import psycopg
    from psycopg import sql

    spine = spec.scoring.spine
    if spine is None:
        return None
    times = range(spine.repeat_times + 1 if spine.repeat_days and spine.day else 1)
    days = [day - dt.timedelta(days=spine.repeat_days * i) for i in times]
    query = sql.SQL(
        "select partition_date, max(load_id) from {} where superseded_at is null and partition_date = any(%s)"
        " group by partition_date order by partition_date desc limit 1"
    )
    try:
        row = conn.execute(
            query.format(sql.Identifier("staging", spine.relation)), [days]
        ).fetchone()
    except psycopg.ProgrammingError:
        return None
    return SpineSource("list" if row[0] == day else "repeated list", *row) if row else None


def prepare_spine(
    conn: Connection,
    spec: ModelSpec,
    partition: Partition,
    source: SpineSource,
    past: tuple[PastScores, ...],
) -> Spine:
    """Create the temporary table ``prepared_spine`` in the shape of the feature view: the entities with their last known rule value.

    ``as_of`` is not before anything that is used: the list, the rule's values and the old scores.
    """
    from psycopg import sql

    relation = sql.Identifier("pg_temp", "prepared_spine")
    conn.execute(sql.SQL("drop table if exists {}").format(relation))
    query = sql.SQL(_PREPARE).format(
        key=sql.Identifier(spec.entity.key),
        event_timestamp=sql.Identifier(spec.event_timestamp),
        rule=sql.Identifier(spec.scoring.fallback.feature),
        entities=_entities(spec, partition, source),
        rule_values=_rule_values(spec),
        predictions=sql.Identifier("predictions", spec.name),
    )
    conn.execute(
        query,
        {
            "day": partition.day,
            "from_day": source.partition_date,
            "load_id": source.load_id,
            "cutoff": partition.cutoff,
            "features": spec.features_dataset,
            "oldest_rule": partition.day - dt.timedelta(days=RULE_DAYS),
            "past_days": [one.partition_date for one in past],
            "past_loads": [one.load_id for one in past],
        },
    )
    return Spine(relation, is_prepared=True)


def _entities(spec: ModelSpec, partition: Partition, source: SpineSource) -> sql.Composed:
    """Return the query of one load's key, event timestamp, ``known_at``, ``recurring`` and ``value``, moved to tonight if repeated."""
    from psycopg import sql

    spine = spec.scoring.spine
    is_list = spine is not None and source.kind in {"list", "repeated list"}
    moved = (partition.day - source.partition_date).days
    parts: dict[str, sql.Composable] = {
        "key": sql.Identifier(spec.entity.key),
        "source_key": _moved_key(spec, moved)
        if is_list and moved
        else sql.Identifier("r", spec.entity.key),
        "event_timestamp": sql.Identifier(spec.event_timestamp),
        "happens": sql.Identifier(
            "r", spine.event_timestamp if spine and is_list else spec.event_timestamp
        ),
        "timezone": sql.Literal(partition.timezone),
        "moved": sql.Literal(moved),
        "known_at": sql.Identifier("r", "known_at" if is_list else "as_of"),
        "value": sql.SQL("null") if is_list else sql.Identifier("r", spec.scoring.fallback.feature),
    }
    if spine and is_list:
        parts |= {
            "relation": sql.Identifier("staging", spine.relation),
            "joined": sql.SQL(""),
            "recurring": recurring_key(spec, "r"),
        }
        return sql.SQL(_ENTITIES + "and r.superseded_at is null").format(**parts)
    joined, recurring = _recurring_of_features(spec)
    parts |= {
        "relation": sql.Identifier("features", spec.feature_table),
        "joined": joined,
        "recurring": recurring,
    }
    return sql.SQL(_ENTITIES).format(**parts)


def _recurring_of_features(spec: ModelSpec) -> tuple[sql.Composable, sql.Composable]:
    """Return join and expression that give a row of the feature view its recurring key."""
    from psycopg import sql

    spine = spec.scoring.spine
    if not spine or not spec.scoring.carry_over.key:
        return sql.SQL(""), recurring_key(spec, "r")
    join = sql.SQL(
        "left join staging.{relation} k on k.partition_date = r.partition_date and k.{key} = r.{key} and k.superseded_at is null"
    )
    return join.format(
        relation=sql.Identifier(spine.relation), key=sql.Identifier(spec.entity.key)
    ), recurring_key(spec, "k")


def _moved_key(spec: ModelSpec, moved: int) -> sql.Composed:
    """Return the entity's key with its date so many days later."""
    from psycopg import sql

    spine = spec.scoring.spine
    assert spine is not None  # noqa: S101 - only lists are moved by their key
    day = sql.SQL("to_char({} + {}, 'YYYY-MM-DD')").format(
        sql.Identifier("r", spine.day or ""), sql.Literal(moved)
    )
    parts = [
        day if part == spine.day else sql.SQL("{}::text").format(sql.Identifier("r", part))
        for part in spine.key_parts
    ]
    return sql.SQL("concat_ws('_', {})").format(sql.SQL(", ").join(parts))


def _rule_values(spec: ModelSpec) -> sql.Composed:
    """Return the query of the newest rule value by recurring key, from features that are published."""
    from psycopg import sql

    join, recurring = _recurring_of_features(spec)
    return sql.SQL(_RULE_VALUES).format(
        recurring=recurring,
        joined=join,
        rule=sql.Identifier("r", spec.scoring.fallback.feature),
        table=sql.Identifier(spec.feature_table),
    )


_ENTITIES = """
select {source_key} as {key},
    (({happens} at time zone {timezone}) + make_interval(days => {moved})) at time zone {timezone} as {event_timestamp},
    {known_at} as known_at, {recurring} as recurring, {value}::double precision as value
from {relation} r {joined}
where r.partition_date = %(from_day)s and r.load_id = %(load_id)s
"""
_RULE_VALUES = """
select {recurring} as recurring, {rule}::double precision as value, r.as_of
from features.{table} r {joined}
where (r.partition_date, r.load_id) = (
    select p.partition_date, p.load_id from ops.published p
    where p.dataset = %(features)s and p.partition_date between %(oldest_rule)s and %(day)s order by p.partition_date desc limit 1)
"""
_PREPARE = """
create temporary table prepared_spine as
with entities as materialized (
    {entities}
), rule_values as materialized (
    {rule_values}
), newest as (
    select recurring, max(value) as value from rule_values where value between '-1e300' and '1e300' group by recurring
), old_scores as (
    select max(t.features_as_of) as as_of from {predictions} t
    join unnest(%(past_days)s::date[], %(past_loads)s::bigint[]) w (partition_date, load_id) using (partition_date, load_id)
)
select %(day)s::date as partition_date, %(load_id)s::bigint as load_id, e.{key}, e.{event_timestamp}, e.recurring,
    greatest(
        %(cutoff)s::timestamptz, max(e.known_at) over (), (select max(as_of) from rule_values), (select as_of from old_scores)
    ) as as_of,
    coalesce(e.value, newest.value) as {rule}
from entities e left join newest on newest.recurring = e.recurring
"""
