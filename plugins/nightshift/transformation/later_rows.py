"""Invent what came later: rows that a partition must not know, put before a feature view.

For each raw dataset and each clock there is one perturbation. ``delivered``: the newest partitions
that the view may read get a newer version, delivered after the as-of. ``happened``: partitions
after the view's own are there already. Known partitions get no later event: contracts keep an event
within its partition's day, so an honest view need not ask for its time. The rows are copies of
known ones: each has the values of the next row, and the last one of a partition has none, so that a
sum differs too. Days and times, keys too, move with a later partition. Nothing but temporary tables
is written.
Source: docs/adr/0050-plans-that-bind.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nightshift.warehouse.published import known_at_condition
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.warehouse.connection import Connection

Clock = Literal["delivered", "happened"]

MAX_PARTITIONS = 28
"""Newest partitions of a dataset that get a later version."""
MAX_ROWS = 1_000_000
"""Rows of a dataset that are copied, unless its newest partition alone has more."""
MAX_LATER_DAYS = 7
"""Days after the partition that get rows."""
_DELIVERED_LOAD, _HAPPENED_LOAD = -1, -2
"""Load ids that no load has."""
_SHIFTED_TYPES = ("date", "timestamp with time zone", "timestamp without time zone")


@dataclass(frozen=True, order=True)
class Perturbation:
    """Later rows of one dataset by one clock.

    Attributes:
        dataset: Name in the ledger, ``raw/<name>``.
        clock: ``delivered`` after the as-of, or ``happened`` after it.
    """

    dataset: str
    clock: Clock

    def __str__(self) -> str:
        """Return the perturbation for people."""
        return f"{self.dataset} {self.clock} later"


def perturbations(datasets: Sequence[str]) -> tuple[Perturbation, ...]:
    """Return every perturbation of some datasets."""
    added = []
    for dataset in sorted(datasets):
        added.append(Perturbation(dataset, "delivered"))
        added.append(Perturbation(dataset, "happened"))
    return tuple(added)


def add_later_versions(
    conn: Connection,
    added: Sequence[Perturbation],
    day: dt.date,
    as_of: dt.datetime,
) -> None:
    """Add the invented versions to ``pg_temp.known_versions``, and end those that they supersede.

    Args:
        conn: The session that holds the table.
        added: What is invented.
        day: The partition; later ones are the future.
        as_of: Its knowledge cut-off.
    """
    from psycopg import sql

    values = {
        "day": day,
        "as_of": as_of,
        "delivered": [part.dataset for part in added if part.clock == "delivered"],
        "happened": [part.dataset for part in added if part.clock == "happened"],
        "max_partitions": MAX_PARTITIONS,
        "max_later_days": MAX_LATER_DAYS,
        "max_rows": MAX_ROWS,
        "delivered_load": _DELIVERED_LOAD,
        "happened_load": _HAPPENED_LOAD,
    }
    is_known = known_at_condition(as_of, "known_versions")
    visible = sql.SQL(_VISIBLE_VERSIONS).format(is_known=is_known)
    # In this order: the new versions are copies of what is visible, and supersede it.
    for statement in (visible, _ADD_VERSIONS, _SUPERSEDE):
        conn.execute(statement, values)


# What the partition knows: only these rows are copied. The newest ones move to the next day, those
# before to the day after it, and so on: also a short history fills the days that are predicted.
_VISIBLE_VERSIONS = """
create temp table visible_versions as
select *, (%(day)s::date + age::int - partition_date) as shift_days
from (
    select
        dataset, partition_date, load_id,
        row_number() over newest_first as age,
        sum(coalesce(n_rows, 0)) over newest_first as n_rows_so_far
    from pg_temp.known_versions
    where {is_known} and partition_date <= %(day)s
    window newest_first as (partition by dataset order by partition_date desc)
) visible
where age = 1 or n_rows_so_far <= %(max_rows)s
"""
_ADD_VERSIONS = """
insert into pg_temp.known_versions (dataset, partition_date, load_id, known_at, n_rows)
select
    dataset, partition_date, %(delivered_load)s,
    %(as_of)s::timestamptz + interval '1 hour', 0
from pg_temp.visible_versions
where dataset = any(%(delivered)s::text[]) and age <= %(max_partitions)s
union all
select
    dataset, partition_date + shift_days, %(happened_load)s,
    %(as_of)s::timestamptz - interval '1 minute', 0
from pg_temp.visible_versions
where dataset = any(%(happened)s::text[]) and age <= %(max_later_days)s
"""
_SUPERSEDE = """
update pg_temp.known_versions old
set superseded_at = next.known_at
from pg_temp.known_versions next
where next.load_id = %(delivered_load)s
    and (old.dataset, old.partition_date) = (next.dataset, next.partition_date)
    and old.load_id <> next.load_id and old.superseded_at is null
"""


def add_later_rows(
    conn: Connection,
    contract: DatasetContract,
    clocks: Sequence[Clock],
    as_of: dt.datetime,
) -> sql.Identifier:
    """Create the temporary table of a dataset's invented rows.

    Args:
        conn: The session.
        contract: The dataset.
        clocks: By which clocks its rows are later.
        as_of: The knowledge cut-off.

    Returns:
        The table, with the columns of the raw table in its order.
    """
    from psycopg import sql

    table = sql.Identifier("pg_temp", f"later.{contract.name}")
    raw = sql.Identifier("raw", contract.name)
    conn.execute(sql.SQL("drop table if exists {} cascade").format(table))
    # The raw table's own columns in its order, so that both can be read as one.
    create = sql.SQL("create temp table {} as select * from {} where false")
    conn.execute(create.format(sql.Identifier(f"later.{contract.name}"), raw))
    for clock in clocks:
        insert = sql.SQL("insert into {} ").format(table) + _copies(conn, contract, clock)
        conn.execute(insert, {"dataset": contract.dataset, "as_of": as_of})
    return table


def count_later_rows(conn: Connection, added: Sequence[Perturbation]) -> dict[str, int]:
    """Return how many rows the last build put before the view, by perturbation."""
    from psycopg import sql

    counts = {}
    for part in added:
        name = f"later.{part.dataset.removeprefix('raw/')}"
        query = sql.SQL("select count(*) filter (where (load_id = {}) = {}) from {}").format(
            sql.Literal(_DELIVERED_LOAD),
            sql.Literal(part.clock == "delivered"),
            sql.Identifier("pg_temp", name),
        )
        [(n_rows,)] = conn.execute(query).fetchall()
        counts[str(part)] = int(n_rows)
    return counts


def _copies(
    conn: Connection,
    contract: DatasetContract,
    clock: Clock,
) -> sql.Composed:
    """Return the query of copied rows, in the order of the raw table's columns."""
    from psycopg import sql

    columns = table_columns(conn, "raw", contract.name)
    own = {
        "partition_date": "r.partition_date",
        "load_id": str(_DELIVERED_LOAD),
        "known_at": "%(as_of)s::timestamptz + interval '1 hour'",
        "source_row": "r.source_row",
    }
    max_age = MAX_PARTITIONS
    if clock == "happened":
        max_age = MAX_LATER_DAYS
        own["partition_date"] = "r.partition_date + v.shift_days"
        own["load_id"] = str(_HAPPENED_LOAD)
        own["known_at"] = "%(as_of)s::timestamptz - interval '1 minute'"

    selected: list[sql.Composable] = []
    for name, column in columns.items():
        if name in own:
            selected.append(sql.SQL(own[name]))
            continue
        # Days and times move with the partition, keys too: else nothing would join them.
        is_moved = clock == "happened" and column.sql_type in _SHIFTED_TYPES
        is_key = name in contract.key or name == contract.event_timestamp
        # Values are those of the next row; the last one has the values of none.
        form = sql.SQL("r.{}") if is_key else sql.SQL("lead(r.{}) over w")
        value = form.format(sql.Identifier(name))
        if is_moved:
            moved = sql.SQL("(({}) + v.shift_days * interval '1 day')::{}")
            value = moved.format(value, sql.SQL(column.sql_type))
        selected.append(value)

    key = sql.SQL(", ").join(sql.SQL("r.{}").format(sql.Identifier(part)) for part in contract.key)
    return sql.SQL(_COPIES).format(
        columns=sql.SQL(", ").join(selected),
        raw=sql.Identifier("raw", contract.name),
        key=key,
        max_age=sql.Literal(max_age),
    )


_COPIES = """
select {columns}
from {raw} r
join pg_temp.visible_versions v
    on v.dataset = %(dataset)s and v.age <= {max_age}
    and v.partition_date = r.partition_date and v.load_id = r.load_id
window w as (partition by r.partition_date order by hashtextextended(row({key})::text, 0))
"""
