"""Which rows readers see: SQL that follows the pointer, and SQL of what was known at an instant.

A table keeps the rows of many loads of a partition. ``ops.published`` points to the one load whose
rows readers see. Every query of published rows joins it; these functions write that join. A query
of the loads' records instead of their rows joins ``ops.loads`` by its key of three columns.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, LiteralString

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.warehouse.connection import Connection


def join_published(dataset: str, rows: str, pointer: LiteralString = "p") -> sql.Composed:
    """Return the join that keeps the rows that readers see.

    Args:
        dataset: Name in the ledger, for example ``features/customer``.
        rows: Alias of the table with the rows; it has ``partition_date`` and ``load_id``.
        pointer: Alias of the pointer; a second join in the same query needs another one.
    """
    from psycopg import sql

    join = sql.SQL(
        "join ops.published {pointer} on {pointer}.dataset = {dataset}"
        " and {pointer}.partition_date = {rows}.partition_date"
        " and {pointer}.load_id = {rows}.load_id"
    )
    return join.format(
        # Not quoted: ``nightshift repro`` finds the join of a recorded query by its text.
        pointer=sql.SQL(pointer),
        rows=sql.Identifier(rows),
        dataset=sql.Literal(dataset),
    )


def newest_published_day(conn: Connection, dataset: str) -> dt.date | None:
    """Return the last day that readers see of a dataset; None if nothing is published."""
    query = "select max(partition_date) from ops.published where dataset = %s"
    row = conn.execute(query, [dataset]).fetchone()
    return row[0] if row else None


def known_at_condition(as_of: dt.datetime, versions: str) -> sql.Composed:
    """Return the condition that keeps the versions that were the newest known ones at an instant.

    Args:
        as_of: Knowledge cut-off, UTC, included.
        versions: Alias of the table with the versions: ``known_at`` is when a version was
            delivered, ``superseded_at`` when the next one was, null for the newest.
    """
    from psycopg import sql

    condition = sql.SQL(
        "{versions}.known_at <= {as_of}"
        " and ({versions}.superseded_at is null or {versions}.superseded_at > {as_of})"
    )
    return condition.format(versions=sql.Identifier(versions), as_of=sql.Literal(as_of))


def published_loads(
    conn: Connection, dataset: str, partitions: PartitionRange
) -> dict[dt.date, int]:
    """Return the load that readers see, by day; days that nobody published are left out."""
    rows = conn.execute(
        """
        select partition_date, load_id from ops.published
        where dataset = %s and partition_date between %s and %s
        order by partition_date
        """,
        [dataset, partitions.first.day, partitions.last.day],
    )
    return dict(rows.fetchall())
