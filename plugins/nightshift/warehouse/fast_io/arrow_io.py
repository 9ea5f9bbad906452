"""Read and write Arrow tables; every double keeps its bits in both directions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

from nightshift.errors import WarehouseError
from nightshift.failpoints import Failpoint, hit
from nightshift.redaction import without_values
from nightshift.warehouse.connection import PLAN_LABELS, connect, conninfo, lose
from nightshift.warehouse.faults import fault_in, fault_of

if TYPE_CHECKING:
    import adbc_driver_postgresql.dbapi as adbc
    import pyarrow as pa
    from psycopg import sql

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.fast_io.binary_rows import RowReader

    Query = sql.Composed | sql.SQL

logger = logging.getLogger(__name__)

STREAM_BATCH_BYTES = 4 * 1024**2
STREAM_TIMEOUT_SECONDS = 3_600
"""Limit of one streamed statement: it stays open while the other side works on the batches, as
long as a task may run.
"""


def read_arrow(
    settings: Settings,
    query: Query,
    application_name: str = "nightshift",
    *,
    is_label_query: bool = False,
) -> pa.Table:
    """Run one query in its own connection and return all rows.

    Args:
        settings: Where the warehouse is.
        query: Values are composed in with ``psycopg.sql.Literal``, identifiers with ``Identifier``.
        application_name: Shown by the warehouse.
        is_label_query: The query reads a label relation: plan it as ``label_queries`` does.

    Returns:
        One column per selected column; ``double precision`` arrives bit by bit (binary protocol).

    Raises:
        WarehouseError: The server cannot be reached, or ended the query; its class names the cause.
    """
    import adbc_driver_postgresql.dbapi as adbc

    uri = _uri(settings, application_name)
    try:
        with adbc.connect(uri) as connection, connection.cursor() as cursor:
            if is_label_query:
                cursor.execute(PLAN_LABELS)
            cursor.execute(query.as_string(None))
            return cursor.fetch_arrow_table()
    except (adbc.OperationalError, adbc.ProgrammingError, OSError) as error:
        # A wrong query stays the driver's error: it is a mistake in our code.
        if fault := fault_of(error):
            raise fault from error
        if isinstance(error, adbc.ProgrammingError):
            raise
        raise _read_error(error) from error


def stream_arrow(
    settings: Settings,
    query: Query,
    application_name: str = "nightshift",
    batch_bytes: int = STREAM_BATCH_BYTES,
    *,
    is_lean: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Run one query and yield its rows batch by batch as they arrive.

    The server waits for a slow reader. Types are those of ``read_arrow``. Columns of types that
    ``binary_rows`` does not know are read by the ADBC driver, twice as slow.

    Args:
        settings: Where the warehouse is.
        query: As for ``read_arrow``.
        application_name: Shown by the warehouse.
        batch_bytes: About how much memory a batch takes.
        is_lean: Read by the driver in any case: more processor time, and 143 MiB less in a process
            that compiles nothing else.

    Raises:
        WarehouseError: The server cannot be reached, or ended the query.
    """
    import psycopg

    from nightshift.warehouse.fast_io.binary_rows import UnreadableRowsError
    from nightshift.warehouse.fast_io.libpq import copy_out

    if not is_lean:
        with connect(streaming(settings), application_name) as conn:
            try:
                reader = _row_reader(conn, query)
                if reader is not None:
                    for data, max_rows in copy_out(conn, query, batch_bytes):
                        batch = reader.read(data, max_rows)
                        if batch.num_rows:
                            yield batch
                    return
            except (psycopg.Error, UnreadableRowsError) as error:
                raise _read_error(error) from error
    yield from stream_by_driver(settings, query, application_name, batch_bytes)


def _row_reader(conn: Connection, query: Query) -> RowReader | None:
    """Return a reader of a query's rows.

    None where column names repeat, a type is unknown, or loops cannot be compiled here.
    """
    from psycopg import sql

    from nightshift.warehouse.fast_io.binary_rows import TYPES, RowReader

    described = conn.execute(sql.SQL("select * from ({}) as described limit 0").format(query))
    columns = {}
    for column in described.description or []:
        type_info = conn.adapters.types.get(column.type_code)
        columns[column.name] = type_info.name if type_info else "unknown"
    are_names_unique = len(columns) == len(described.description or [])
    if not are_names_unique or not TYPES.keys() >= set(columns.values()):
        return None
    try:
        return RowReader(columns)
    except Exception as error:  # noqa: BLE001
        # A compiler must not stop a run: the driver reads the same rows.
        logger.warning(
            "Rows are read by the driver, twice as slow: %s: %s", type(error).__name__, error
        )
        return None


@contextmanager
def lean_streams(
    settings: Settings, application_name: str
) -> Iterator[Callable[[Query], Iterator[pa.RecordBatch]]]:
    """Open one connection for several lean streams; each is read to its end before the next.

    The driver reads all types of the server whenever it connects: 75 ms, more than most nights'
    rows take.

    Raises:
        WarehouseError: The server cannot be reached.
    """
    import adbc_driver_postgresql.dbapi as adbc

    uri = _uri(streaming(settings), application_name)
    try:
        # Nothing is held between two streams.
        connection = adbc.connect(uri, autocommit=True)
    except (adbc.Error, OSError) as error:
        raise _read_error(error) from error
    with connection:
        yield partial(_stream_rows, connection, STREAM_BATCH_BYTES)


def stream_by_driver(
    settings: Settings, query: Query, application_name: str, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a query as ADBC's driver reads them."""
    import adbc_driver_postgresql.dbapi as adbc

    uri = _uri(streaming(settings), application_name)
    try:
        with adbc.connect(uri) as connection:
            yield from _stream_rows(connection, batch_bytes, query)
    except (adbc.Error, OSError) as error:
        raise _read_error(error) from error


def _stream_rows(
    connection: adbc.Connection, batch_bytes: int, query: Query
) -> Iterator[pa.RecordBatch]:
    import adbc_driver_postgresql.dbapi as adbc
    from adbc_driver_postgresql import StatementOptions

    options = {StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(batch_bytes)}
    try:
        with connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**options)
            cursor.execute(query.as_string(None))
            # Rows are fetched while the caller works: the server's timeout counts both.
            yield from cursor.fetch_record_batch()
    except (adbc.Error, OSError) as error:
        # Arrow's reader raises OSError when the connection is lost.
        raise _read_error(error) from error


def _read_error(error: Exception) -> WarehouseError:
    line = first_line(error)
    return (
        fault_of(error)
        or fault_in(line)
        or WarehouseError(
            "The warehouse ended a query whose rows were being read.",
            got=line,
            todo="Rerun the task; nothing was published.",
        )
    )


def streaming(settings: Settings) -> Settings:
    """Return settings for a connection whose statement lasts as long as its other side needs."""
    limit = max(settings.statement_timeout_seconds, STREAM_TIMEOUT_SECONDS)
    return settings.model_copy(update={"statement_timeout_seconds": limit})


def _uri(settings: Settings, application_name: str) -> str:
    """Return the warehouse's address for libpq; it contains the password, so drop it soon."""
    from urllib.parse import quote, urlencode

    # All parts are parameters: neither a socket folder nor ``::1`` can stand before the path.
    return f"postgresql://?{urlencode(conninfo(settings, application_name), quote_via=quote)}"


def first_line(error: Exception) -> str:
    """Return the first line of a driver's message that is not empty, without a value of a row."""
    lines = [line for line in without_values(str(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def copy_in(conn: Connection, schema: str, table: str, rows: pa.Table) -> int:
    """Append an Arrow table by one COPY within the caller's transaction, columns matched by name.

    Returns:
        Number of rows that the server reports to have taken.
    """
    with conn.cursor() as cursor:
        with cursor.copy(copy_statement(schema, table, rows.column_names, "csv")) as copy:
            copy.write(as_csv(rows))
        hit(Failpoint.COPY_AFTER, lambda: lose(conn))
        return cursor.rowcount


def copy_statement(
    schema: str, table: str, columns: Sequence[str], copy_format: Literal["csv", "binary"]
) -> sql.Composed:
    """Return the COPY that takes rows of these columns."""
    from psycopg import sql

    return sql.SQL("copy {} ({}) from stdin (format {})").format(
        sql.Identifier(schema, table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(copy_format),
    )


def as_csv(rows: pa.Table) -> memoryview:
    """Return rows in the text form of COPY: null is empty, an empty text is quoted."""
    from pyarrow import BufferOutputStream, csv

    sink = BufferOutputStream()
    csv.write_csv(rows, sink, csv.WriteOptions(include_header=False, quoting_style="needed"))
    return memoryview(sink.getvalue())
