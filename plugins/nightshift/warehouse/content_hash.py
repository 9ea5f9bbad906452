"""Measure loads in one scan: number of rows, bad keys, and a hash of the content."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import Target

VOLATILE_COLUMNS = frozenset(
    {"load_id", "run_id", "shard", "source_uri", "source_sha256", "source_row", "loaded_at"}
)
"""Columns that tell how a row came here, not its content: left out of the content hash."""
VERSION_COLUMNS = frozenset({"known_at"})
"""Left out for raw data too: the same content delivered again is the same version."""
DERIVED_COLUMNS = {
    "predictions": frozenset({"causes", "median", "interval_low", "interval_high"}),
}
"""By schema: what follows from values that are hashed already. Another grouping of the same
contributions is not another prediction, nor is it to be surer of the same one. Sources:
docs/adr/0053-causes-and-features.md, docs/adr/0054-intervals.md.
"""
_MAJOR_VERSION = 10_000
"""Divisor of the server's version: 160004 is PostgreSQL 16.4."""
_UNHASHABLE_TYPES = frozenset(
    {"json", "xml", "tsvector", "point", "box", "path", "polygon", "circle", "line", "lseg"}
)
"""Types that PostgreSQL cannot hash; their text is."""

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
    """Return what every partition of a load holds, without the empty ones, in one scan.

    Each row is hashed to 64 bits by its values, as SQL compares them, and the hashes are summed:
    the order of the rows does not matter and a repeated row does. Null differs from '', every bit
    of a double counts except the sign of zero, and no session setting does.

    Args:
        conn: Any connection.
        target: The dataset.
        load_id: The load.
        is_unique: The keys are known to be unique, so repeated ones are not counted.
    """
    from psycopg import sql

    condition = sql.SQL("load_id = {}").format(load_id)
    measured = _measure(conn, target, condition, is_unique=is_unique)
    return {day: measurement for (day, _), measurement in measured.items()}


def measure_loads(
    conn: Connection, target: Target, keys: Collection[LoadKey]
) -> dict[LoadKey, LoadMeasurement]:
    """Return what some partitions of some loads hold, with the empty ones.

    Repeated keys are not counted, their rows are.
    """
    measured = _measure(conn, target, _key_condition(keys), is_unique=True)
    nothing = measure_nothing(conn, target)
    return {key: measured.get(key, nothing) for key in keys}


def measure_nothing(conn: Connection, target: Target) -> LoadMeasurement:
    """Return what an empty partition of the target holds."""
    return LoadMeasurement(0, 0, _content_hash(_hashed_columns(conn, target), 0, 0))


def count_loads(conn: Connection, target: Target, keys: Collection[LoadKey]) -> dict[LoadKey, int]:
    """Return the number of rows of some partitions of some loads, 0 for the empty ones."""
    from psycopg import sql

    if not keys:
        return {}
    query = sql.SQL(
        "select partition_date, load_id, count(*) from {} where {} group by partition_date, load_id"
    ).format(sql.Identifier(target.schema, target.table), _key_condition(keys))
    counts = {(day, load_id): n_rows for day, load_id, n_rows in conn.execute(query)}
    return {key: counts.get(key, 0) for key in keys}


def hash_basis(conn: Connection, target: Target) -> str:
    """Return a digest of everything except the rows that a content hash depends on.

    Two hashes are comparable when it is the same. It covers the columns with their types, and
    PostgreSQL's major version, which may change its hash functions.
    """
    lines = [str(conn.info.server_version // _MAJOR_VERSION)]
    lines += [f"{name} {data_type}" for name, data_type in _hashed_columns(conn, target).items()]
    return sha256("\n".join(lines).encode()).hexdigest()[:16]


def has_unique_index(conn: Connection, schema: str, table: str, key: Sequence[str]) -> bool:
    """Return whether the table itself refuses a repeated key within a load of a partition."""
    row = conn.execute(
        """
        select bool_or(
            array(
                select a.attname::text from pg_attribute a
                where a.attrelid = i.indrelid and a.attnum = any(i.indkey)
            ) <@ %s::text[]
        )
        from pg_index i
        where i.indrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
            and i.indisunique and i.indisvalid and i.indimmediate
            and i.indpred is null and i.indexprs is null
        """,
        [["partition_date", "load_id", *key], schema, table],
    ).fetchone()
    return bool(row and row[0])


def _key_condition(keys: Collection[LoadKey]) -> sql.Composed:
    """Return a condition that an index on (partition_date, load_id) serves.

    It may select rows of other pairs too.
    """
    from psycopg import sql

    days = sorted({day for day, _ in keys})
    load_ids = sorted({load_id for _, load_id in keys})
    condition = sql.SQL("partition_date = any({}::date[]) and load_id = any({}::bigint[])")
    return condition.format(days, load_ids)


def _hashed_columns(conn: Connection, target: Target) -> dict[str, str]:
    """Return the type of each column that is content, by name, in the order of the names."""
    left_out = VOLATILE_COLUMNS | VERSION_COLUMNS if target.is_versioned else VOLATILE_COLUMNS
    left_out |= DERIVED_COLUMNS.get(target.schema, frozenset())
    columns = table_columns(conn, target.schema, target.table)
    return {name: columns[name].bare_type for name in sorted(columns.keys() - left_out)}


def _content_hash(columns: Iterable[str], n_rows: int, row_hashes: int) -> str:
    return sha256(f"{','.join(columns)}:{n_rows}:{row_hashes}".encode()).hexdigest()


def _measure(
    conn: Connection, target: Target, condition: sql.Composed, *, is_unique: bool
) -> dict[LoadKey, LoadMeasurement]:
    """Measure the rows of a condition, by day and load; nobody counts keys that are unique."""
    columns = _hashed_columns(conn, target)
    is_unique = is_unique or has_unique_index(conn, target.schema, target.table, target.key)
    query = _measure_query(target, columns, condition, is_unique=is_unique)
    measured = {}
    for day, load_id, n_rows, n_bad_keys, row_hashes in conn.execute(query):
        content_hash = _content_hash(columns, n_rows, row_hashes)
        measured[day, load_id] = LoadMeasurement(n_rows, n_bad_keys, content_hash)
    return measured


def _measure_query(
    target: Target, columns: Mapping[str, str], condition: sql.Composed, *, is_unique: bool
) -> sql.Composed:
    from psycopg import sql

    values = [
        sql.SQL("{}::text" if data_type in _UNHASHABLE_TYPES else "{}").format(sql.Identifier(name))
        for name, data_type in columns.items()
    ]
    return sql.SQL(_MEASURE_UNIQUE if is_unique else _MEASURE).format(
        columns=sql.SQL(", ").join(values),
        key=sql.SQL(", ").join(map(sql.Identifier, target.key)),
        table=sql.Identifier(target.schema, target.table),
        condition=condition,
    )


# `hash_record_extended` adds up the hashes of the columns, so a sum of it would not see values that
# swap rows: a second hash tells them apart.
_MEASURE_UNIQUE = """
select
    partition_date, load_id, count(*), count(*) filter (where num_nulls({key}) > 0),
    sum(hashint8extended(hash_record_extended(row({columns}), 0), 0))
from {table}
where {condition}
group by partition_date, load_id
"""
# Keys are compared by their hash of 64 bits: ten million of them agree by chance once in 400,000
# loads, and then the audit refuses. `offset 0` keeps complete rows out of the sort.
_MEASURE = """
with hashed as (
    select
        partition_date, load_id,
        hashint8extended(hash_record_extended(row({columns}), 0), 0) as row_hash,
        case when num_nulls({key}) = 0 then hash_record_extended(row({key}), 0) end as key_hash
    from {table}
    where {condition}
    offset 0
)
select partition_date, load_id, count(*), count(*) - count(distinct key_hash), sum(row_hash)
from hashed
group by partition_date, load_id
"""
