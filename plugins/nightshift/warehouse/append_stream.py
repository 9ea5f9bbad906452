"""Append a stream of Arrow tables by one COPY, binary where ``binary_rows`` knows the types; every double keeps its bits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from nightshift.errors import WarehouseError
from nightshift.fault_points import FaultPoint, reach
from nightshift.warehouse.bulk import as_csv, copy_statement, first_line, streaming
from nightshift.warehouse.connection import CANCEL_TIMEOUT_SECONDS, connect, lose

if TYPE_CHECKING:
    import pyarrow as pa
    from psycopg import sql

    from nightshift.settings import Settings
    from nightshift.warehouse.binary_rows import RowWriter
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_END_SECONDS = 1.0


class AppendTransaction:
    """The transaction of a stream, for statements that come before its rows."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def execute(self, statement: sql.Composed) -> list[tuple[Any, ...]]:
        """Run a statement, values composed in, and return its rows."""
        cursor = self._conn.execute(statement)
        return cursor.fetchall() if cursor.description else []


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
    appending = _Appending(lambda: connect(streaming(settings), application_name), schema, table, batches, begin)
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
        self,
        connection: Callable[[], AbstractContextManager[Connection]],
        schema: str,
        table: str,
        batches: Iterable[pa.Table],
        begin: Callable[[AppendTransaction], bool],
    ) -> None:
        super().__init__(name=f"append to {schema}.{table}", daemon=True)
        self._connection, self._schema, self._table, self._batches, self._begin = connection, schema, table, batches, begin
        self._conn: Connection | None = None
        self._must_end = threading.Event()
        self._error: BaseException | None = None
        self._n_rows = 0

    def run(self) -> None:
        try:
            with self._connection() as self._conn, self._conn.transaction():
                if self._begin(AppendTransaction(self._conn)):
                    self._n_rows = self._append(self._conn)
                    reach(FaultPoint.APPEND_AFTER, partial(lose, self._conn))
        except BaseException as error:  # noqa: BLE001  (the other thread raises it)
            self._error = error

    def stop(self) -> None:
        """End the COPY, in the server and here; do not wait for long."""
        self._must_end.set()
        if conn := self._conn:
            with suppress(Exception):  # It may have ended by itself.
                conn.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
        self.join(_END_SECONDS)

    def result(self) -> int:
        """Return the number of stored rows, or raise what went wrong."""
        import psycopg

        if isinstance(self._error, psycopg.Error):
            raise WarehouseError(
                "The warehouse did not take rows that were sent to it.",
                got=first_line(self._error),
                todo="Rerun the task; nothing was published.",
            ) from self._error
        if self._error is not None:
            raise self._error
        return self._n_rows

    def _append(self, conn: Connection) -> int:
        source = iter(self._batches)
        first = next(source, None)
        if first is None:
            return 0
        kinds = _kinds(conn, self._schema, self._table)
        columns = {name: kinds[name] for name in first.column_names}
        writer = _writer(columns)
        batches = self._watched(chain([first], source))
        with conn.cursor() as cursor:
            with cursor.copy(copy_statement(self._schema, self._table, list(columns), "binary" if writer else "csv")) as copy:
                for part in _binary(writer, batches) if writer else map(as_csv, batches):
                    copy.write(part)
            return cursor.rowcount

    def _watched(self, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for batch in batches:
            if self._must_end.is_set():
                raise InterruptedError("the stream was stopped")
            yield batch


def _kinds(conn: Connection, schema: str, table: str) -> dict[str, str]:
    """Return PostgreSQL's type of each column of a table, by name."""
    query = (
        "select attname, typname from pg_attribute join pg_type on pg_type.oid = atttypid"
        " where attrelid = format('%%I.%%I', %s::text, %s::text)::regclass and attnum > 0 and not attisdropped"
    )
    return dict(conn.execute(query, [schema, table]).fetchall())


def _writer(columns: dict[str, str]) -> RowWriter | None:
    """Return what writes these columns; None where a type is unknown, or loops cannot be compiled here."""
    from nightshift.warehouse.binary_rows import RowWriter, is_writable

    if not is_writable(list(columns.values())):
        return None
    try:
        return RowWriter(columns)
    except Exception as error:  # noqa: BLE001  (a compiler must not stop a night: the server takes texts as well)
        logger.warning("Rows are written as texts, more slowly: %s: %s", type(error).__name__, error)
        return None


def _binary(writer: RowWriter, batches: Iterable[pa.Table]) -> Iterator[bytes | memoryview]:
    from nightshift.warehouse.binary_rows import HEADER, TRAILER

    yield HEADER
    for batch in batches:
        yield writer.write(batch.cast(writer.schema)).data
    yield TRAILER
