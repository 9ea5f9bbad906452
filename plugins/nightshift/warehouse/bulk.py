"""Arrow in and out of the warehouse: every double keeps its bits in both directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.errors import WarehouseError
from nightshift.fault_points import FaultPoint, reach
from nightshift.warehouse.connection import conninfo, lose

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


STREAM_BATCH_BYTES = 4 * 1024**2
STREAM_TIMEOUT_SECONDS = 3_600
"""Limit of one streamed statement: it stays open while the other side works on the batches, as long as a task may run."""


def read_arrow(settings: Settings, query: sql.Composed | sql.SQL, application_name: str = "nightshift") -> pa.Table:
    """Run one query in its own read-only connection and return all rows.

    Args:
        settings: Where the warehouse is.
        query: Values are composed in with ``psycopg.sql.Literal``, identifiers with ``Identifier``.
        application_name: Shown by the warehouse.

    Returns:
        One column per selected column; ``double precision`` arrives bit by bit (binary protocol).
    """
    import adbc_driver_postgresql.dbapi as adbc

    with adbc.connect(_uri(settings, application_name)) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string(None))
        return cursor.fetch_arrow_table()


def stream_arrow(
    settings: Settings, query: sql.Composed | sql.SQL, application_name: str = "nightshift", batch_bytes: int = STREAM_BATCH_BYTES
) -> Iterator[pa.RecordBatch]:
    """Run one query as ``read_arrow`` does and yield its rows batch by batch, as they arrive; the server waits for a slow reader.

    Args:
        settings: Where the warehouse is.
        query: As for ``read_arrow``.
        application_name: Shown by the warehouse.
        batch_bytes: About how much memory a batch takes.

    Raises:
        WarehouseError: The server cannot be reached, or ended the query.
    """
    import adbc_driver_postgresql.dbapi as adbc
    from adbc_driver_postgresql import StatementOptions

    try:
        with adbc.connect(stream_uri(settings, application_name)) as connection, connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{StatementOptions.BATCH_SIZE_HINT_BYTES.value: str(batch_bytes)})
            cursor.execute(query.as_string(None))
            yield from cursor.fetch_record_batch()
    except (adbc.Error, OSError) as error:  # Arrow's reader says OSError when the connection is lost
        raise WarehouseError(
            "The warehouse ended a query whose rows were being read.", got=first_line(error), todo="Rerun the task; nothing was published."
        ) from error


def stream_uri(settings: Settings, application_name: str) -> str:
    """Return where the warehouse is, for a connection whose one statement lasts as long as its other side needs; it has the password."""
    limit = max(settings.statement_timeout_seconds, STREAM_TIMEOUT_SECONDS)
    return _uri(settings.model_copy(update={"statement_timeout_seconds": limit}), application_name)


def _uri(settings: Settings, application_name: str) -> str:
    """Return where the warehouse is, as libpq reads it; hold it no longer than needed, it contains the password."""
    from urllib.parse import quote, urlencode

    info = conninfo(settings, application_name)
    user, password = quote(info.pop("user"), safe=""), quote(info.pop("password"), safe="")
    host, port, dbname = info.pop("host"), info.pop("port"), quote(info.pop("dbname"), safe="")
    return f"postgresql://{user}:{password}@{host}:{port}/{dbname}?{urlencode(info, quote_via=quote)}"


def first_line(error: Exception) -> str:
    """Return the first line of a driver's message that says something."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def copy_in(conn: Connection, schema: str, table: str, rows: pa.Table) -> int:
    """Append an Arrow table by one COPY within the caller's transaction, columns matched by name.

    Returns:
        Number of rows that the server says it took.
    """
    from psycopg import sql
    from pyarrow import BufferOutputStream, csv

    sink = BufferOutputStream()
    csv.write_csv(rows, sink, csv.WriteOptions(include_header=False, quoting_style="needed"))
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(
        sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, rows.column_names))
    )
    with conn.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(memoryview(sink.getvalue()))
        reach(FaultPoint.COPY_AFTER, lambda: lose(conn))
        return cursor.rowcount
