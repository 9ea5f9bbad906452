"""Measure staged rows in one scan: how many, whether their keys are good, and what they say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import Target

VOLATILE_COLUMNS = frozenset(
    {"load_id", "run_id", "shard", "source_uri", "source_sha256", "source_row", "loaded_at"}
)
"""Columns that say how a row came here, not what it says: left out of the content hash."""
VERSION_COLUMNS = frozenset({"known_at"})
"""Left out for raw data too: the same content delivered again is the same version."""

LoadKey = tuple[dt.date, int]
"""A partition of a load: its day and the load's number."""


@dataclass(frozen=True)
class LoadMeasurement:
    """What one partition of a load holds.

    Attributes:
        n_rows: Number of rows.
        n_bad_keys: Rows with a null key, or with a key that an earlier row has.
        content_hash: SHA-256, hex; equal for equal multisets of rows, whatever their order and
            load.
    """

    n_rows: int
    n_bad_keys: int
    content_hash: str


def measure(
    conn: Connection, target: Target, load_id: int, *, is_unique: bool = False
) -> dict[dt.date, LoadMeasurement]:
    """Return what every partition of a load holds, the empty ones left out; one scan, which counts no keys known to be unique.

    Each row is hashed to 64 bits by its values, as SQL compares them, and the hashes are summed, so
    that the order of the rows does not matter and a repeated row does. Null differs from '', every
    bit of a double counts but the sign of zero, and no session setting does.
    """
    from psycopg import sql

    found = _measure(
        conn, target, sql.SQL("load_id = {}").format(sql.Literal(load_id)), is_unique=is_unique
    )
    return {day: measured for (day, _), measured in found.items()}


def measure_loads(
    conn: Connection, target: Target, keys: Collection[LoadKey]
) -> dict[LoadKey, LoadMeasurement]:
    """Return what some partitions of some loads hold, the empty ones too; repeated keys are not counted, their rows are."""
    found = _measure(conn, target, _condition(keys), is_unique=True)
    nothing = measure_nothing(conn, target)
    return {key: found.get(key, nothing) for key in keys}


def count_loads(conn: Connection, target: Target, keys: Collection[LoadKey]) -> dict[LoadKey, int]:
    """Return the number of rows of some partitions of some loads, 0 for the empty ones."""
    from psycopg import sql

    if not keys:
        return {}
    query = sql.SQL(
        "select partition_date, load_id, count(*) from {} where {} group by partition_date, load_id"
    )
    rows = conn.execute(query.format(sql.Identifier(target.schema, target.table), _condition(keys)))
    found = {(day, load_id): n_rows for day, load_id, n_rows in rows}
    return {key: found.get(key, 0) for key in keys}


def hash_basis(conn: Connection, target: Target) -> str:
    """Return a digest of what a content hash depends on beside the rows: two hashes are comparable when it is the same.

    These are the columns with their types, and PostgreSQL's major version, which may change its
    hash functions.
    """
    columns = [f"{name} {kind}" for name, kind in _hashed_columns(conn, target).items()]
    return sha256(
        "\n".join([str(conn.info.server_version // _MAJOR), *columns]).encode()
    ).hexdigest()[:16]


_MAJOR = 10_000
"""160004 is PostgreSQL 16.4."""


def _condition(keys: Collection[LoadKey]) -> sql.Composed:
    """Return a condition that an index on (partition_date, load_id) serves; it may select rows of other pairs too."""
    from psycopg import sql

    days, loads = sorted({day for day, _ in keys}), sorted({load_id for _, load_id in keys})
    return sql.SQL("partition_date = any({}::date[]) and load_id = any({}::bigint[])").format(
        sql.Literal(days), sql.Literal(loads)
    )


def _measure(
    conn: Connection, target: Target, condition: sql.Composed, *, is_unique: bool
) -> dict[LoadKey, LoadMeasurement]:
    columns = _hashed_columns(conn, target)
    is_unique = is_unique or has_unique_index(conn, target.schema, target.table, target.key)
    query = _query(target, columns, condition, is_unique=is_unique)
    return {
        (day, load_id): LoadMeasurement(
            n_rows, n_bad_keys, _content_hash(list(columns), n_rows, row_hashes)
        )
        for day, load_id, n_rows, n_bad_keys, row_hashes in conn.execute(query)
    }


def measure_nothing(conn: Connection, target: Target) -> LoadMeasurement:
    """Return what an empty partition of the target holds."""
    return LoadMeasurement(0, 0, _content_hash(list(_hashed_columns(conn, target)), 0, 0))


def _hashed_columns(conn: Connection, target: Target) -> dict[str, str]:
    """Return the type of each column that is content, by name, in the order of the names."""
    left_out = VOLATILE_COLUMNS | VERSION_COLUMNS if target.is_versioned else VOLATILE_COLUMNS
    rows = conn.execute(
        """
        select attname, format_type(atttypid, null) from pg_attribute
        where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) and attnum > 0 and not attisdropped
        """,
        [target.schema, target.table],
    )
    return {name: kind for name, kind in sorted(rows.fetchall()) if name not in left_out}


def _content_hash(columns: list[str], n_rows: int, row_hashes: int) -> str:
    return sha256(f"{','.join(columns)}:{n_rows}:{row_hashes}".encode()).hexdigest()


def has_unique_index(conn: Connection, schema: str, table: str, key: Sequence[str]) -> bool:
    """Return whether the table itself refuses a repeated key within a load of a partition: then nobody needs to count them."""
    row = conn.execute(
        """
        select bool_or(array(select a.attname::text from pg_attribute a
            where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) <@ %s::text[])
        from pg_index i where i.indrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
            and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
        """,
        [["partition_date", "load_id", *key], schema, table],
    ).fetchone()
    return bool(row and row[0])


def _query(
    target: Target, columns: Mapping[str, str], condition: sql.Composed, *, is_unique: bool
) -> sql.Composed:
    from psycopg import sql

    values = sql.SQL(", ").join(
        sql.SQL("{}::text" if kind in _UNHASHABLE else "{}").format(sql.Identifier(name))
        for name, kind in columns.items()
    )
    return sql.SQL(_MEASURE_UNIQUE if is_unique else _MEASURE).format(
        columns=values,
        key=_names(target.key),
        table=sql.Identifier(target.schema, target.table),
        condition=condition,
    )


_UNHASHABLE = frozenset(
    {"json", "xml", "tsvector", "point", "box", "path", "polygon", "circle", "line", "lseg"}
)
"""Types that PostgreSQL cannot hash; their text is."""


_MEASURE_UNIQUE = """
select partition_date, load_id, count(*), count(*) filter (where num_nulls({key}) > 0),
    sum(hashint8extended(hash_record_extended(row({columns}), 0), 0))
from {table} where {condition} group by partition_date, load_id
"""
_MEASURE = """
with hashed as (
    select partition_date, load_id, hashint8extended(hash_record_extended(row({columns}), 0), 0) as row_hash,
        case when num_nulls({key}) = 0 then hash_record_extended(row({key}), 0) end as key_hash
    from {table} where {condition} offset 0
)
select partition_date, load_id, count(*), count(*) - count(distinct key_hash), sum(row_hash)
from hashed group by partition_date, load_id
"""
"""`offset 0` keeps whole rows out of the sort. `hash_record_extended` adds up the hashes of the
columns, so a sum of it would not see values that swap rows: a second hash tells them apart. 64
bits do so for keys: ten million of them agree by chance once in 400,000 loads, and then the
audit refuses.
"""


def _names(columns: Iterable[str]) -> sql.Composed:
    from psycopg import sql

    return sql.SQL(", ").join(map(sql.Identifier, columns))
