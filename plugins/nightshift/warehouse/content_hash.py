"""Measure staged rows in one scan: how many, whether their keys are good, and what they say."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.partition_write import Target

VOLATILE_COLUMNS = frozenset({"load_id", "run_id", "shard", "source_uri", "source_sha256", "source_row", "loaded_at"})
"""Columns that say how a row came here, not what it says: left out of the content hash."""
VERSION_COLUMNS = frozenset({"known_at"})
"""Left out for raw data too: the same content delivered again is the same version."""


@dataclass(frozen=True)
class Measured:
    """What one partition of a load holds.

    Attributes:
        n_rows: Number of rows.
        n_bad_keys: Rows with a null key, or with a key that an earlier row has.
        content_hash: SHA-256, hex; equal for equal multisets of rows, whatever their order and load.
    """

    n_rows: int
    n_bad_keys: int
    content_hash: str


def measure(conn: Connection, target: Target, load_id: int) -> dict[dt.date, Measured]:
    """Return what every partition of a load holds, the empty ones left out; one sequential scan.

    Each row becomes the MD5 of its binary wire form; the two halves of the digests are summed, so that the order of the rows does not
    matter and a repeated row does. The binary form tells null from '', keeps every bit of a double and knows no session setting.
    """
    columns = _hashed_columns(conn, target)
    query, parameters = _query(target, columns, load_id)
    return {
        day: Measured(n_rows, n_bad_keys, _content_hash(columns, n_rows, high, low))
        for day, n_rows, n_bad_keys, high, low in conn.execute(query, parameters)
    }


def measure_nothing(conn: Connection, target: Target) -> Measured:
    """Return what an empty partition of the target holds."""
    return Measured(0, 0, _content_hash(_hashed_columns(conn, target), 0, 0, 0))


def _hashed_columns(conn: Connection, target: Target) -> list[str]:
    left_out = VOLATILE_COLUMNS | VERSION_COLUMNS if target.is_versioned else VOLATILE_COLUMNS
    rows = conn.execute(
        """
        select attname from pg_attribute
        where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0 and not attisdropped
        """,
        [target.schema, target.table],
    )
    return sorted({name for (name,) in rows} - left_out)


def _content_hash(columns: list[str], n_rows: int, high: int, low: int) -> str:
    return sha256(f"{','.join(columns)}:{n_rows}:{high}:{low}".encode()).hexdigest()


def _query(target: Target, columns: list[str], load_id: int) -> tuple[sql.Composed, list[Any]]:
    from psycopg import sql

    # `offset 0` keeps the digest from being computed again for each of its uses.
    query = sql.SQL(
        """
        with hashed as (
            select partition_date, md5(record_send(row({columns}))) as digest,
                row({key})::text as key_text, num_nulls({key}) > 0 as has_null_key
            from {table} where load_id = %s offset 0
        )
        select partition_date, count(*), count(*) - count(distinct key_text) filter (where not has_null_key),
            sum(('x' || substr(digest, 1, 16))::bit(64)::bigint), sum(('x' || substr(digest, 17, 16))::bit(64)::bigint)
        from hashed group by partition_date
        """
    ).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        key=sql.SQL(", ").join(map(sql.Identifier, target.key)),
        table=sql.Identifier(target.schema, target.table),
    )
    return query, [load_id]
