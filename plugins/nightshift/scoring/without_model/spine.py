"""Find the entities of a partition without features: its list, or one that is expected again."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import NightshiftError
from nightshift.scoring.prediction_tables import model_query
from nightshift.scoring.without_model.last_score import recurring_key, spine_relation
from nightshift.training.feature_query import features_target
from nightshift.warehouse.damage import find_damage_cheaply, published_records
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.scoring_spec import Spine as SpineSpec
    from nightshift.scoring.plan import PastScores
    from nightshift.warehouse.connection import Connection

SpineType = Literal["features", "list", "repeated list", "repeated features"]
RULE_DAYS = 28
"""Maximum age of features whose rule value still serves."""
RECURRING_FEATURES_DAYS = 7
"""Maximum age of features whose entities, if they recur, are expected again."""


class NoSpineError(NightshiftError):
    """No source names the entities to predict for: no features, no list, and none to repeat."""

    code = "NS-SCORE-005"
    is_retryable = True


@dataclass(frozen=True)
class SpineSource:
    """Where the entities of one partition come from.

    Attributes:
        type: What names them.
        partition_date: Partition of the load; an earlier one if it is repeated.
        load_id: The load.
    """

    type: SpineType
    partition_date: dt.date
    load_id: int

    @property
    def is_list(self) -> bool:
        """Return whether a list names the entities, and not features."""
        return self.type in {"list", "repeated list"}

    def reason(self, cause: str) -> str:
        """Return the reason that every row carries: why features are not used, and what is."""
        if self.type == "repeated list":
            return f"{cause}; the list of {self.partition_date} is expected again"
        if self.type == "repeated features":
            return f"{cause}; the entities of {self.partition_date} are expected again"
        return cause


def find_spine(conn: Connection, spec: ModelSpec, partition: Partition) -> SpineSource:
    """Return the best source of entities.

    In this order: features, the partition's list, a repeated list, and, where the entity recurs,
    older features.

    Raises:
        NoSpineError: There is none.
    """
    source = _find_features(conn, spec, partition.day, maximum_age=0)
    source = source or _find_list(conn, spec, partition.day)
    if source is None and spec.entity.recurs:
        source = _find_features(conn, spec, partition.day, RECURRING_FEATURES_DAYS)
    if source is None:
        raise NoSpineError(
            f"No source names each {spec.entity.name} to predict for in {partition}.",
            expected="features, a list in scoring.spine, or one that is expected again"
            f" ({spec.name}.yaml)",
            todo="Request the drop from upstream; invented or no entities are not published.",
        )
    return source


def _find_features(
    conn: Connection, spec: ModelSpec, day: dt.date, maximum_age: int
) -> SpineSource | None:
    """Return the newest published load of the feature view that is not damaged."""
    days = [day - dt.timedelta(days=age) for age in range(maximum_age + 1)]
    # Damaged features would name too few entities, and nothing would notice.
    for record in reversed(published_records(conn, spec.features_dataset, days)):
        if not find_damage_cheaply(conn, features_target(spec), [record]):
            is_current = record.partition_date == day
            source_type: SpineType = "features" if is_current else "repeated features"
            return SpineSource(source_type, record.partition_date, record.load_id)
    return None


def _find_list(conn: Connection, spec: ModelSpec, day: dt.date) -> SpineSource | None:
    """Return the day's load of the spine's relation, else the newest that may be repeated."""
    import psycopg
    from psycopg import sql

    spine = spec.scoring.spine
    if spine is None:
        return None
    # Only a list whose key holds a date can be moved to another day.
    n_repeats = spine.repeat_times if spine.repeat_days and spine.day else 0
    days = [day - dt.timedelta(days=spine.repeat_days * i) for i in range(n_repeats + 1)]
    query = sql.SQL(
        "select partition_date, max(load_id) from {}"
        " where superseded_at is null and partition_date = any(%s)"
        " group by partition_date order by partition_date desc limit 1"
    ).format(sql.Identifier("staging", spine.relation))
    try:
        row = conn.execute(query, [days]).fetchone()
    except psycopg.ProgrammingError:
        # The relation does not exist.
        return None
    if row is None:
        return None
    return SpineSource("list" if row[0] == day else "repeated list", *row)


def newest_rule_load(
    conn: Connection, spec: ModelSpec, partition: Partition
) -> tuple[dt.date, int] | None:
    """Return day and load of the newest published features whose rule values still serve."""
    days = PartitionRange(partition.shift(-RULE_DAYS), partition)
    return max(published_loads(conn, spec.features_dataset, days).items(), default=None)


def prepare_spine(
    conn: Connection,
    spec: ModelSpec,
    partition: Partition,
    source: SpineSource,
    rule_load: tuple[dt.date, int] | None,
    past: tuple[PastScores, ...],
) -> None:
    """Create the temporary table ``prepared_spine``: entities with their last known rule value.

    It has the shape of the feature view. ``as_of`` is not before anything that is used: the list,
    the rule's values and the last scores.
    """
    from psycopg import sql

    relation = spine_relation(spec, is_prepared=True)
    conn.execute(sql.SQL("drop table if exists {}").format(relation))
    n_days = (partition.day - source.partition_date).days
    query = model_query(
        spec,
        _PREPARE,
        entities=_entities(spec, source, n_days),
        rule_values=_rule_values(spec),
    )
    # Without a load the rule gives its default, as for an entity that the load does not name.
    rule_day, rule_load_id = rule_load or (None, None)
    values = {
        "day": partition.day,
        "from_day": source.partition_date,
        "n_days": n_days,
        "timezone": partition.timezone,
        "load_id": source.load_id,
        "cutoff": partition.cutoff,
        "rule_day": rule_day,
        "rule_load_id": rule_load_id,
        "past_days": [load.partition_date for load in past],
        "past_loads": [load.load_id for load in past],
    }
    conn.execute(query, values)


def _entities(spec: ModelSpec, source: SpineSource, n_days: int) -> sql.Composed:
    """Return the query of one load's entities, moved to the partition's day if repeated.

    Columns: the key, the event timestamp, ``known_at``, ``recurring`` and ``value``.
    """
    from psycopg import sql

    spine = spec.scoring.spine
    if spine is None or not source.is_list:
        joined, recurring = _recurring_of_features(spec)
        return model_query(spec, _ENTITIES, joined=joined, recurring=recurring)
    source_key = sql.Identifier("r", spec.entity.key)
    return model_query(
        spec,
        _LISTED_ENTITIES,
        source_key=_moved_key(spine, n_days) if n_days else source_key,
        happens=sql.Identifier("r", spine.event_timestamp),
        recurring=recurring_key(spec, "r"),
        relation=sql.Identifier("staging", spine.relation),
    )


def _recurring_of_features(spec: ModelSpec) -> tuple[sql.Composable, sql.Composable]:
    """Return join and expression that give a row of the feature view its recurring key."""
    from psycopg import sql

    spine = spec.scoring.spine
    if not spine or not spec.scoring.carry_over.key:
        return sql.SQL(""), recurring_key(spec, "r")
    join = model_query(
        spec,
        "left join staging.{relation} k on k.partition_date = r.partition_date"
        " and k.{key} = r.{key} and k.superseded_at is null",
        relation=sql.Identifier(spine.relation),
    )
    return join, recurring_key(spec, "k")


def _moved_key(spine: SpineSpec, n_days: int) -> sql.Composed:
    """Return the key of a list's entity with its date some days later."""
    from psycopg import sql

    parts = []
    for name in spine.key_parts:
        column = sql.Identifier("r", name)
        if name == spine.day:
            moved = sql.SQL("to_char({} + {}, 'YYYY-MM-DD')")
            parts.append(moved.format(column, sql.Literal(n_days)))
        else:
            parts.append(sql.SQL("{}::text").format(column))
    return sql.SQL("concat_ws('_', {})").format(sql.SQL(", ").join(parts))


def _rule_values(spec: ModelSpec) -> sql.Composed:
    """Return the query of the newest published rule value by recurring key."""
    joined, recurring = _recurring_of_features(spec)
    return model_query(spec, _RULE_VALUES, recurring=recurring, joined=joined)


# Local times are kept when a day is repeated, also over a change of the clocks.
_ENTITIES = """
select r.{key},
    ((r.{event_timestamp} at time zone %(timezone)s::text) + make_interval(days => %(n_days)s))
        at time zone %(timezone)s::text as {event_timestamp},
    r.as_of as known_at, {recurring} as recurring, {rule_of_r} as value
from {features} r {joined}
where r.partition_date = %(from_day)s and r.load_id = %(load_id)s
"""
_LISTED_ENTITIES = """
select {source_key} as {key},
    (({happens} at time zone %(timezone)s::text) + make_interval(days => %(n_days)s))
        at time zone %(timezone)s::text as {event_timestamp},
    r.known_at, {recurring} as recurring, null::double precision as value
from {relation} r
where r.partition_date = %(from_day)s and r.load_id = %(load_id)s and r.superseded_at is null
"""
_RULE_VALUES = """
select {recurring} as recurring, {rule_of_r} as value, r.as_of
from {features} r {joined}
where r.partition_date = %(rule_day)s::date and r.load_id = %(rule_load_id)s::bigint
"""
# Entities with the same recurring key may repeat in the rule values: the largest counts.
_PREPARE = """
create temporary table prepared_spine as
with entities as materialized (
    {entities}
), rule_values as materialized (
    {rule_values}
), newest as (
    select recurring, max(value) as value from rule_values
    where value between '-1e300' and '1e300' group by recurring
), old_scores as (
    select max(t.features_as_of) as as_of from {predictions} t
    join unnest(%(past_days)s::date[], %(past_loads)s::bigint[]) d (partition_date, load_id)
        using (partition_date, load_id)
)
select
    %(day)s::date as partition_date, %(load_id)s::bigint as load_id,
    e.{key}, e.{event_timestamp}, e.recurring,
    greatest(
        %(cutoff)s::timestamptz, max(e.known_at) over (),
        (select max(as_of) from rule_values), (select as_of from old_scores)
    ) as as_of,
    coalesce(e.value, newest.value) as {rule}
from entities e left join newest on newest.recurring = e.recurring
"""
