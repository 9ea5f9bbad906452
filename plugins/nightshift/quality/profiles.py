"""Profile every column of a load in one scan, keep the result per partition, and add partitions up without reading a row again.

One query streams the partition in batches; memory is bounded by the batch and the sketches. Source:
docs/adr/0026-profiles.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.errors import NightshiftError
from nightshift.prefetch import Prefetcher
from nightshift.quality.sketches.sketch import NumberSketch, Sketch, TextSketch
from nightshift.warehouse.arrow_io import stream_arrow

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.quality.sketches.bin_counts import BinCounter
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_TECHNICAL = {"partition_date", "load_id", "run_id"}
_NUMBERS = {16, 20, 21, 23, 700, 701, 1700}
_TIMES = {1082, 1114, 1184}
_TEXTS = {25, 1042, 1043}
_BOOLEAN = 16
"""Types by their number. Source: PostgreSQL, pg_type.dat."""
_BATCH_ROWS = 65_536
_TABLES = {"raw": "{}", "features": "feat_{}", "predictions": "{}"}
"""Name of a dataset's table within the schema of its layer."""
_IDENTIFIER = "_id"
"""How the name of a text ends that names one entity or event: such texts are counted and never
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
    """

    dataset: str
    schema: str
    table: str
    load_id: int
    day: dt.date

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
                expected="raw/<dataset>, features/<view> or predictions/<model>, and a day that readers have",
                todo="select distinct dataset from ops.published",
            )
        return cls(dataset, layer, _TABLES[layer].format(name), row[0], day)


def scan(batches: Iterable[pa.RecordBatch], counter: BinCounter | None = None) -> dict[str, Sketch]:
    """Return the summary of every column: doubles as numbers, texts as texts.

    Args:
        batches: Columns of doubles and strings; all batches have the same schema.
        counter: Counts the same rows in bins of its own.
    """
    import pyarrow as pa

    found: dict[str, Sketch] = {}
    for batch in batches:
        if counter:
            counter.add(batch)
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            is_text = pa.types.is_string(column.type)
            if name not in found:
                found[name] = (
                    TextSketch(keeps_levels=not name.endswith(_IDENTIFIER))
                    if is_text
                    else NumberSketch()
                )
            sketch = found[name]
            for start in range(0, max(len(column), 1), _BATCH_ROWS):
                part = column.slice(start, _BATCH_ROWS)
                sketch.add(part if is_text else part.to_numpy(zero_copy_only=False))
    return found


def profile_load(
    settings: Settings, conn: Connection, load: LoadTable, run: RunContext
) -> dict[str, Sketch]:
    """Profile one partition of a load and keep the result; what is kept already is read and not made again.

    Args:
        settings: Where the warehouse is.
        conn: A connection outside of a transaction.
        load: What to profile.
        run: Who asks.

    Raises:
        ProfileError: The table has no column that can be profiled.
        WarehouseError: The server cannot be reached, or ended the query.
    """
    if kept := _read(conn, load.dataset, [(load.day, load.load_id)]):
        return kept
    found = scan_load(settings, conn, load, run)
    keep_profile(conn, load, found, run)
    return found


def scan_load(
    settings: Settings,
    conn: Connection,
    load: LoadTable,
    run: RunContext,
    counter: BinCounter | None = None,
) -> dict[str, Sketch]:
    """Profile one partition of a load and keep nothing; without rows nothing is found.

    Args:
        settings: Where the warehouse is.
        conn: A connection outside of a transaction.
        load: What to profile.
        run: Who asks.
        counter: Counts the same rows in bins of its own, in the same scan.

    Raises:
        ProfileError: The table has no column that can be profiled.
        WarehouseError: The server cannot be reached, or ended the query.
    """
    with Prefetcher(
        stream_arrow(settings, _query(conn, load, counter), run.application_name, is_lean=True)
    ) as batches:
        found = scan(batches, counter)
    return found if found and next(iter(found.values())).n_rows else {}


def read_profiles(conn: Connection, dataset: str, partitions: PartitionRange) -> dict[str, Sketch]:
    """Return the summary of all published rows of a range, added up from its partitions.

    Raises:
        ProfileError: A published partition of the range has no profile.
    """
    loads = conn.execute(
        "select partition_date, load_id from ops.published where dataset = %s and partition_date between %s and %s",
        [dataset, partitions.first.day, partitions.last.day],
    ).fetchall()
    known = {
        (day, load_id)
        for day, load_id in conn.execute(
            "select distinct partition_date, load_id from monitoring.profiles where dataset = %s and partition_date between %s and %s",
            [dataset, partitions.first.day, partitions.last.day],
        )
    }
    if missing := sorted({(day, load_id) for day, load_id in loads} - known):
        raise ProfileError(
            f"{len(missing)} published partition(s) of {dataset} have no profile.",
            got=", ".join(str(day) for day, _ in missing[:5]),
            todo=f"nightshift profile {dataset} --from {missing[0][0]} --to {missing[-1][0]}",
        )
    return _read(conn, dataset, loads)


def _read(
    conn: Connection, dataset: str, loads: Iterable[tuple[dt.date, int]]
) -> dict[str, Sketch]:
    days, load_ids = [list(part) for part in zip(*loads, strict=True)] or [[], []]
    rows = conn.execute(
        "select column_name, kind, n_rows, n_missing, minimum, maximum, sketch from monitoring.profiles"
        " join unnest(%s::date[], %s::bigint[]) wanted (partition_date, load_id) using (partition_date, load_id)"
        " where dataset = %s order by place, partition_date",
        [days, load_ids, dataset],
    )
    merged: dict[str, Sketch] = {}
    for name, kind, n_rows, n_missing, minimum, maximum, data in rows:
        one: Any = (
            NumberSketch.from_bytes(data, n_rows, n_missing, minimum, maximum)
            if kind == "number"
            else TextSketch.from_bytes(data, n_rows, n_missing)
        )
        if name in merged:
            merged[name].merge(one)
        else:
            merged[name] = one
    return merged


def keep_profile(
    conn: Connection, load: LoadTable, found: Mapping[str, Sketch], run: RunContext
) -> None:
    """Keep what ``scan_load`` has found; what is kept already stays."""
    statement = (
        "insert into monitoring.profiles (dataset, partition_date, load_id, place, column_name, kind, n_rows, n_missing, minimum, maximum,"
        " mean, std, n_distinct, sketch, run_id) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing"
    )
    rows = [
        (
            *(
                load.dataset,
                load.day,
                load.load_id,
                place,
                name,
                one.kind,
                one.n_rows,
                one.n_missing,
                one.minimum,
                one.maximum,
            ),
            *(one.mean, one.std, one.n_distinct, one.as_bytes(), run.run_id),
        )
        for place, (name, one) in enumerate(found.items())
    ]
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(statement, rows)


def _query(conn: Connection, load: LoadTable, counter: BinCounter | None) -> sql.Composed:
    from psycopg import sql

    table = sql.Identifier(load.schema, load.table)
    described = conn.execute(sql.SQL("select * from {} limit 0").format(table)).description or []
    wanted = counter.types if counter else {}
    found = {column.name: _type(column.name, column.type_code, wanted) for column in described}
    cells = [
        _cell(column.name, column.type_code, found[column.name])
        for column in described
        if found[column.name]
    ]
    if not cells:
        raise ProfileError(
            f"{load.dataset} has no column that can be profiled.",
            expected="numbers, times or texts",
            todo="Nothing.",
        )
    return sql.SQL("select {} from {} where load_id = {} and partition_date = {}").format(
        sql.SQL(", ").join(cells), table, sql.Literal(load.load_id), sql.Literal(load.day)
    )


def _type(name: str, type_code: int, wanted: Mapping[str, str]) -> str:
    """Return as what a column is read: what its counter wants, a double, or a text; empty for what cannot be profiled."""
    if name in wanted or name in _TECHNICAL:
        return wanted.get(name, "")
    return "float8" if type_code in _NUMBERS | _TIMES else "text" if type_code in _TEXTS else ""


def _cell(name: str, type_code: int, kind: str) -> sql.Composed:
    """Return a column as a double or a text: times as seconds since 1970, booleans as 0 and 1."""
    from psycopg import sql

    cast = "{0}::{1} as {0}"
    if kind == "float8" and type_code in _TIMES:
        cast = "extract(epoch from {0})::{1} as {0}"
    elif kind == "float8" and type_code == _BOOLEAN:
        cast = "{0}::integer::{1} as {0}"
    return sql.SQL(cast).format(sql.Identifier(name), sql.SQL(kind))
