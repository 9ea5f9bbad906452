"""Append a stream of Arrow tables by one binary COPY: a quarter of the time of text, and every double keeps its bits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from nightshift.errors import WarehouseError
from nightshift.fault_points import FaultPoint, reach
from nightshift.warehouse.bulk import first_line, stream_uri

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_postgresql.dbapi import Connection as ArrowConnection
    from adbc_driver_postgresql.dbapi import Cursor
    from psycopg import sql

    from nightshift.settings import Settings

_LOOK_SECONDS = 0.1
_END_SECONDS = 1.0


class AppendTransaction:
    """The transaction of a stream, for statements that come before its rows."""

    def __init__(self, connection: ArrowConnection) -> None:
        self._connection = connection

    def execute(self, statement: sql.Composed) -> list[tuple[Any, ...]]:
        """Run a statement, values composed in, and return its rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement.as_string(None))
            return list(cursor.fetchall())


def append_stream(
    settings: Settings,
    schema: str,
    table: str,
    batches: Iterable[pa.Table],
    begin: Callable[[AppendTransaction], bool],
    application_name: str,
) -> int:
    """Append Arrow tables in one transaction of a connection of its own, all or none.

    Batches are taken while the server stores the ones before. Columns are matched by name and cast to the table's types. What the
    batches raise, or a signal raises here, ends the COPY and rolls back within a moment.

    Args:
        settings: Where the warehouse is.
        schema: Schema of the table.
        table: Its name.
        batches: All with the same columns; consumed in another thread.
        begin: Called first, in the transaction: takes locks, makes room, and says whether the rows are still wanted.
        application_name: Shown by the warehouse.

    Returns:
        Number of rows that the server says it took; 0 if they are not wanted.

    Raises:
        WarehouseError: The server cannot be reached, or refused; nothing was stored.
    """
    appending = _Appending(lambda: stream_uri(settings, application_name), schema, table, batches, begin)
    appending.start()
    try:
        while appending.is_alive():
            appending.join(_LOOK_SECONDS)
    except BaseException:
        appending.stop()
        raise
    return appending.result()


class _Appending(threading.Thread):
    """The thread that owns the connection; the main thread stays free for signals, which C code would keep waiting."""

    def __init__(
        self, uri: Callable[[], str], schema: str, table: str, batches: Iterable[pa.Table], begin: Callable[[AppendTransaction], bool]
    ) -> None:
        super().__init__(name=f"append to {schema}.{table}", daemon=True)
        self._uri, self._schema, self._table, self._batches, self._begin = uri, schema, table, batches, begin
        self._cursor: Cursor | None = None
        self._must_end = threading.Event()
        self._error: BaseException | None = None
        self._error_of_batches: BaseException | None = None
        self._n_rows = 0

    def run(self) -> None:
        import adbc_driver_postgresql.dbapi as adbc

        try:
            with adbc.connect(self._uri()) as connection:
                if self._begin(AppendTransaction(connection)):
                    self._n_rows = self._append(connection)
                    reach(FaultPoint.APPEND_AFTER, lambda: _lose(connection))
                    connection.commit()
        except BaseException as error:  # noqa: BLE001  (the other thread raises it)
            self._error = error

    def stop(self) -> None:
        """End the COPY, in the server and here; do not wait for long."""
        self._must_end.set()
        if cursor := self._cursor:
            with suppress(Exception):  # It may have ended by itself.
                cursor.adbc_cancel()
        self.join(_END_SECONDS)

    def result(self) -> int:
        """Return the number of stored rows, or raise what went wrong."""
        import adbc_driver_postgresql.dbapi as adbc

        error = self._error_of_batches or self._error
        if isinstance(error, adbc.Error):
            raise WarehouseError(
                "The warehouse did not take rows that were sent to it.",
                got=first_line(error),
                todo="Rerun the task; nothing was published.",
            ) from error
        if error is not None:
            raise error
        return self._n_rows

    def _append(self, connection: ArrowConnection) -> int:
        import pyarrow as pa

        known = connection.adbc_get_table_schema(self._table, db_schema_filter=self._schema)
        source = iter(self._batches)
        first = next(source, None)
        if first is None:
            return 0
        columns = pa.schema([known.field(name) for name in first.column_names])
        reader = pa.RecordBatchReader.from_batches(columns, self._cast(first, source, columns))
        with connection.cursor() as cursor:
            self._cursor = cursor
            return int(cursor.adbc_ingest(self._table, reader, mode="append", db_schema_name=self._schema))

    def _cast(self, first: pa.Table, source: Iterator[pa.Table], columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the batches as the table has them; keep an error, of which the driver passes on the text alone."""
        batch: pa.Table | None = first
        try:
            while batch is not None:
                if self._must_end.is_set():
                    raise InterruptedError("the stream was stopped")
                yield from batch.cast(columns).to_batches()
                batch = next(source, None)
        except BaseException as error:
            self._error_of_batches = error
            raise


def _lose(connection: ArrowConnection) -> NoReturn:
    """Behave as if the network had failed behind the last statement; for fault points."""
    from adbc_driver_manager import AdbcStatusCode, OperationalError

    connection.close()
    raise OperationalError("the connection is lost", status_code=AdbcStatusCode.IO)
