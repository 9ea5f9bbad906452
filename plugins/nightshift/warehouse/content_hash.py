"""Measure staged rows in one scan: how many, whether their keys are good, and what they say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.load import Target

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
    """Return what every partition of a load holds, the empty ones left out; one scan.

    Each row's binary wire form is hashed with two seeds, 64 bits each, and the hashes are summed, so that the order of the rows does not
    matter and a repeated row does. The binary form tells null from '', keeps every bit of a double and knows no session setting.
    """
    columns = _hashed_columns(conn, target)
    query = _query(target, columns, is_unique=_has_unique_index(conn, target))
    return {
        day: Measured(n_rows, n_bad_keys, _content_hash(columns, n_rows, high, low))
        for day, n_rows, n_bad_keys, high, low in conn.execute(query, [load_id])
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


def _has_unique_index(conn: Connection, target: Target) -> bool:
    """Return whether the table itself refuses a repeated key within a load of a partition: then nobody needs to count them."""
    row = conn.execute(
        """
        select bool_or(array(select a.attname::text from pg_attribute a
            where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) <@ %s::text[])
        from pg_index i where i.indrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
            and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
        """,
        [["partition_date", "load_id", *target.key], target.schema, target.table],
    ).fetchone()
    return bool(row and row[0])


def _query(target: Target, columns: list[str], *, is_unique: bool) -> sql.Composed:
    from psycopg import sql

    # `offset 0` keeps a wire form from being made for each of its uses, and carried through a sort. 64 bits of a key's hash tell keys
    # apart: ten million of them agree by chance once in 400,000 loads, and then the audit refuses.
    repeated = sql.SQL("0" if is_unique else "count(*) filter (where not has_null_key) - count(distinct key_hash)")
    key_hash = sql.SQL("null::bigint" if is_unique else "case when not has_null_key then hash_record_extended(row(sent_key), 0) end")
    sent_key = sql.SQL("null" if is_unique else "record_send(row({key}))").format(key=_names(target.key))
    return sql.SQL(
        """
        with sent as (
            select partition_date, record_send(row({columns})) as sent, {sent_key} as sent_key, num_nulls({key}) > 0 as has_null_key
            from {table} where load_id = %s offset 0
        ), hashed as (
            select partition_date, hash_record_extended(row(sent), 0) as high, hash_record_extended(row(sent), 1) as low,
                {key_hash} as key_hash, has_null_key
            from sent offset 0
        )
        select partition_date, count(*), count(*) filter (where has_null_key) + {repeated}, sum(high), sum(low)
        from hashed group by partition_date
        """
    ).format(
        columns=_names(columns),
        key=_names(target.key),
        sent_key=sent_key,
        key_hash=key_hash,
        repeated=repeated,
        table=sql.Identifier(target.schema, target.table),
    )


def _names(columns: Iterable[str]) -> sql.Composed:
    from psycopg import sql

    return sql.SQL(", ").join(map(sql.Identifier, columns))
