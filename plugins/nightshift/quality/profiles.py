"""Profiles: one mergeable summary per column and partition, made in one scan of the load.

Profiles of several partitions add up without reading a row again. One query streams a partition in
batches; memory is bounded by the batch and the sketches. Source: docs/adr/0026-profiles.md.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.prefetch import Prefetcher
from nightshift.quality.column_summary import summarize
from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.quality.sketches.sketch import Sketch
from nightshift.quality.sketches.text_sketch import TextSketch
from nightshift.warehouse.fast_io.arrow_io import lean_streams, stream_arrow
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.quality.column_order import OrderCounter
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

    Stream = Callable[[sql.Composed | sql.SQL], Iterator[pa.RecordBatch]]

_TECHNICAL = {"partition_date", "load_id", "run_id"}
_NUMBERS = {16, 20, 21, 23, 700, 701, 1700}
_TIMES = {1082, 1114, 1184}
_TEXTS = {25, 1042, 1043}
_BOOLEAN = 16
"""Types by their number. Source: PostgreSQL, pg_type.dat."""
_BATCH_ROWS = 65_536
"""A sketch takes at most 2**17 rows at once."""
_TABLES = {"raw": "{}", "features": "feat_{}", "predictions": "{}"}
"""Name of a dataset's table within the schema of its layer."""
_IDENTIFIER_SUFFIX = "_id"
"""End of the name of a column that identifies an entity or event: its strings are counted and never
kept.
"""


class ProfileError(NightshiftError):
    """There is nothing to profile, or no profile to read."""

    code = "NS-PROFILE-001"


@dataclass(frozen=True)
class LoadTable:
    """One partition of a load.

    Attributes:
        dataset: Name in the ledger.
        schema, table: Where its rows are.
        load_id: Which load.
        day: Which partition.
        left_out: Value of ``score_source`` whose rows are not read; empty reads all.
    """

    dataset: str
    schema: str
    table: str
    load_id: int
    day: dt.date
    left_out: str = ""

    @classmethod
    def published(cls, conn: Connection, dataset: str, day: dt.date) -> LoadTable:
        """Return what readers see of a partition.

        Raises:
            ProfileError: There is no such dataset, or the partition is not published.
        """
        layer, _, name = dataset.partition("/")
        row = conn.execute(
            "select load_id from ops.published where dataset = %s and partition_date = %s",
            [dataset, day],
        ).fetchone()
        if row is None or layer not in _TABLES:
            raise ProfileError(
                f"{dataset} of {day} is not published.",
                expected="raw/<dataset>, features/<view> or predictions/<model>, and a published"
                " day",
                todo="select distinct dataset from ops.published",
            )
        return cls(dataset, layer, _TABLES[layer].format(name), row[0], day)


def scan(
    batches: Iterable[pa.RecordBatch], counter: OrderCounter | None = None
) -> dict[str, Sketch]:
    """Return the summary of every column of some rows.

    Args:
        batches: Columns of doubles and strings; all batches have the same schema.
        counter: Compares the columns of the same rows.
    """
    profile: dict[str, Sketch] = {}
    for batch in batches:
        # In the same scan: reading a partition costs more than comparing its columns.
        if counter:
            counter.add(batch)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name not in profile:
                profile[name] = _new_sketch(name, column.type)
            _add_column(profile[name], column)
    return profile


def _new_sketch(name: str, data_type: pa.DataType) -> Sketch:
    import pyarrow as pa

    if pa.types.is_string(data_type):
        return TextSketch(keeps_levels=not name.endswith(_IDENTIFIER_SUFFIX))
    return NumberSketch()


def _add_column(sketch: Sketch, column: pa.Array) -> None:
    # An empty batch is added too, so that a column without rows has a sketch with zero rows.
    for start in range(0, max(len(column), 1), _BATCH_ROWS):
        part = column.slice(start, _BATCH_ROWS)
        if isinstance(sketch, TextSketch):
            sketch.add(part)
        else:
            sketch.add(part.to_numpy(zero_copy_only=False))


def profile_load(
    settings: Settings, conn: Connection, load: LoadTable, run: RunContext
) -> dict[str, Sketch]:
    """Return the profile of one partition of a load; it is made and stored only once.

    Args:
        settings: Where the warehouse is.
        conn: A connection outside of a transaction.
        load: What to profile.
        run: Recorded with the profile.

    Raises:
        ProfileError: The table has no column that can be profiled.
        WarehouseError: The server cannot be reached, or ended the query.
    """
    stored = _read(conn, load.dataset, [(load.day, load.load_id)])
    if stored:
        return stored
    profile = scan_load(conn, load, own_stream(settings, run))
    keep_profile(conn, load, profile, run)
    return profile


def scan_load(
    conn: Connection,
    load: LoadTable,
    stream: Stream,
    counter: OrderCounter | None = None,
    types: Mapping[str, str] | None = None,
) -> dict[str, Sketch]:
    """Profile one partition of a load and store nothing; empty without rows.

    Args:
        conn: A connection outside of a transaction.
        load: What to profile.
        stream: Reads the rows: ``own_stream``, or ``shared_stream`` for several loads.
        counter: Compares the columns of the same rows, in the same scan.
        types: PostgreSQL's type as which a column is read, where it is not its own.

    Raises:
        ProfileError: The table has no column that can be profiled.
        WarehouseError: The server cannot be reached, or ended the query.
    """
    profile = scan(stream(_query(conn, load, types or {})), counter)
    # A profile of no rows would hide that the load is empty.
    has_rows = any(sketch.n_rows for sketch in profile.values())
    return profile if has_rows else {}


def own_stream(settings: Settings, run: RunContext) -> Stream:
    """Return a reader with a connection of its own, in a thread that reads ahead.

    Args:
        settings: Where the warehouse is.
        run: Names the connection.
    """

    def stream(query: sql.Composed | sql.SQL) -> Iterator[pa.RecordBatch]:
        rows = stream_arrow(settings, query, run.application_name, is_lean=True)
        # The next batch is read while this one is counted.
        with Prefetcher(rows) as batches:
            yield from batches

    return stream


def shared_stream(settings: Settings, run: RunContext) -> AbstractContextManager[Stream]:
    """Open one connection that reads several loads, one after another; as for ``own_stream``."""
    return lean_streams(settings, run.application_name)


def read_profiles(conn: Connection, dataset: str, partitions: PartitionRange) -> dict[str, Sketch]:
    """Return the summary of all published rows of a range, added up from its partitions.

    Raises:
        ProfileError: A published partition of the range has no profile.
    """
    loads = published_loads(conn, dataset, partitions).items()
    profiled = conn.execute(
        """
        select distinct partition_date, load_id from monitoring.profiles
        where dataset = %s and partition_date between %s and %s
        """,
        [dataset, partitions.first.day, partitions.last.day],
    )
    # A partition that was published again has a profile of its old load, which does not count.
    missing = sorted(loads - set(profiled))
    if missing:
        raise ProfileError(
            f"{len(missing)} published partition(s) of {dataset} have no profile.",
            got=", ".join(str(day) for day, _ in missing[:5]),
            todo=f"nightshift profile {dataset} --from {missing[0][0]} --to {missing[-1][0]}",
        )
    return _read(conn, dataset, loads)


def _read(
    conn: Connection, dataset: str, loads: Iterable[tuple[dt.date, int]]
) -> dict[str, Sketch]:
    """Return the stored profiles of some loads, added up; empty if there is none."""
    pairs = list(loads)
    days = [day for day, _ in pairs]
    load_ids = [load_id for _, load_id in pairs]
    rows = conn.execute(
        """
        select column_name, kind, n_rows, n_missing, minimum, maximum, sketch
        from monitoring.profiles
            join unnest(%s::date[], %s::bigint[]) requested (partition_date, load_id)
            using (partition_date, load_id)
        where dataset = %s order by place, partition_date
        """,
        [days, load_ids, dataset],
    )
    profile: dict[str, Any] = {}
    for name, column_type, n_rows, n_missing, minimum, maximum, data in rows:
        sketch: Any = stored_sketch(column_type, data, (n_rows, n_missing), (minimum, maximum))
        # The order of the partitions does not matter: sketches add up to the same bits.
        if name in profile:
            profile[name].merge(sketch)
        else:
            profile[name] = sketch
    return profile


def stored_sketch(
    column_type: str,
    data: bytes,
    counts: tuple[int, int],
    bounds: tuple[float | None, float | None],
) -> Sketch:
    """Return the sketch of a row of ``monitoring.profiles``.

    Args:
        column_type: ``kind`` of the row.
        data: ``sketch`` of the row.
        counts: All rows, and the missing ones.
        bounds: Minimum and maximum; None for strings.
    """
    if column_type == NumberSketch.type:
        return NumberSketch.from_bytes(data, *counts, *bounds)
    return TextSketch.from_bytes(data, *counts)


def keep_profile(
    conn: Connection, load: LoadTable, profile: Mapping[str, Sketch], run: RunContext
) -> None:
    """Store what ``scan_load`` returned; what is stored already stays."""
    statement = """
        insert into monitoring.profiles (
            dataset, partition_date, load_id, place, column_name, kind, n_rows, n_missing, minimum,
            maximum, mean, std, n_distinct, sketch, run_id, quantiles, zero_share, levels, hashes
        )
        values (
            %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s
        )
        on conflict do nothing
    """
    rows = []
    for index, (name, sketch) in enumerate(profile.items()):
        column = (load.dataset, load.day, load.load_id, index, name, sketch.type)
        summary = summarize(sketch)
        counts = (sketch.n_rows, sketch.n_missing, sketch.minimum, sketch.maximum)
        moments = (summary.mean, summary.std, summary.n_distinct)
        compared = (
            list(summary.quantiles),
            summary.zero_share,
            json.dumps(summary.levels),
            summary.hashes.astype("<u8").tobytes(),
        )
        rows.append((*column, *counts, *moments, sketch.as_bytes(), run.run_id, *compared))
    # One transaction: a reader sees a complete profile or none.
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(statement, rows)


def _query(conn: Connection, load: LoadTable, types: Mapping[str, str]) -> sql.Composed:
    """Return the query that reads a load's columns as doubles and strings.

    Args:
        conn: Warehouse connection.
        load: What to profile.
        types: Type of the columns that are not read as their own.
    """
    from psycopg import sql

    table = sql.Identifier(load.schema, load.table)
    # The types are read from the table: views and raw tables have no other description.
    statement = sql.SQL("select * from {} limit 0").format(table)
    described = conn.execute(statement).description or []
    cells = []
    for column in described:
        name, code = column.name, column.type_code
        if name in types:
            cells.append(_cell(name, code, types[name]))
        elif name not in _TECHNICAL and code in _NUMBERS | _TIMES:
            cells.append(_cell(name, code, "float8"))
        elif name not in _TECHNICAL and code in _TEXTS:
            cells.append(_cell(name, code, "text"))
    if not cells:
        raise ProfileError(
            f"{load.dataset} has no column that can be profiled.",
            expected="numbers, times or texts",
            todo="Nothing.",
        )
    query = sql.SQL("select {} from {} where load_id = {} and partition_date = {}").format(
        sql.SQL(", ").join(cells),
        table,
        sql.Literal(load.load_id),
        sql.Literal(load.day),
    )
    if load.left_out:
        query += sql.SQL(" and score_source <> {}").format(sql.Literal(load.left_out))
    return query


def _cell(name: str, type_code: int, read_as: str) -> sql.Composed:
    """Return a column as a double or a text: times as seconds since 1970, booleans as 0 and 1."""
    from psycopg import sql

    cast = "{0}::{1} as {0}"
    if read_as == "float8" and type_code in _TIMES:
        cast = "extract(epoch from {0})::{1} as {0}"
    elif read_as == "float8" and type_code == _BOOLEAN:
        cast = "{0}::integer::{1} as {0}"
    return sql.SQL(cast).format(sql.Identifier(name), sql.SQL(read_as))
