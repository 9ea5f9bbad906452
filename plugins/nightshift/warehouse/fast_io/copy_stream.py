"""Append a stream of Arrow tables by one COPY, binary where all types are known; every double keeps its bits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from nightshift.errors import WarehouseError
from nightshift.failpoints import Failpoint, hit
from nightshift.warehouse.connection import CANCEL_TIMEOUT_SECONDS, connect, lose
from nightshift.warehouse.fast_io.arrow_io import as_csv, copy_statement, first_line, streaming
from nightshift.warehouse.faults import fault_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder
    from psycopg import sql

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

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


def append_stream(  # noqa: PLR0913, PLR0917  (what, where to, and for whom)
    settings: Settings,
    schema: str,
    table: str,
    batches: Iterable[pa.Table],
    begin: Callable[[AppendTransaction], bool],
    application_name: str,
    n_connections: int = 1,
) -> int:
    """Append Arrow tables in one transaction of a connection of its own, all or none.

    Batches are taken while the server stores the ones before. Columns are matched by name and cast
    to the table's types. What the batches raise, or a signal raises here, ends the COPY and rolls
    back within a moment.

    Args:
        settings: Where the warehouse is.
        schema: Schema of the table.
        table: Its name.
        batches: All with the same columns; consumed in other threads, by one at a time.
        begin: Called first, in the transaction: takes locks, makes room, and says whether the rows
            are still wanted.
        application_name: Shown by the warehouse.
        n_connections: Connections that share the batches, each with a transaction of its own. They
            commit when all of them have stored their rows; when one is lost in that moment, the
            others stay. So more than one is for rows that an audit counts.

    Returns:
        Number of rows that the server says it took; 0 if they are not wanted.

    Raises:
        WarehouseError: The server cannot be reached, or refused; with one connection nothing was
            stored.
    """
    together = _Together(batches, n_connections)
    streams = [
        _Appending(
            lambda: connect(streaming(settings), application_name), schema, table, together, begin
        )
        for _ in range(n_connections)
    ]
    for stream in streams:
        stream.start()
    failed: _Appending | None = None
    try:
        while failed is None and (alive := [stream for stream in streams if stream.is_alive()]):
            alive[0].join(_LOOK_SECONDS)
            failed = next((stream for stream in streams if stream.has_failed), None)
    except BaseException:
        _stop(streams)
        raise
    if failed:
        _stop(streams)
        failed.result()
    return sum(stream.result() for stream in streams)


def _stop(streams: Iterable[_Appending]) -> None:
    for stream in streams:
        stream.stop()


class _Together:
    """What the streams of one call share: the batches, each of which one stream takes, and the moment before they commit."""

    def __init__(self, batches: Iterable[pa.Table], n_streams: int) -> None:
        self._source = iter(batches)
        self._turn = threading.Lock()
        self._error: BaseException | None = None
        self._have_stored = threading.Barrier(n_streams)

    def batches(self) -> Iterator[pa.Table]:
        """Yield batches that nobody else gets; what their source raises, it raises for all streams."""
        while True:
            with self._turn:
                if self._error is not None:
                    raise self._error
                try:
                    batch = next(self._source, None)
                except BaseException as error:
                    self._error = error
                    raise
            if batch is None:
                return
            yield batch

    def wait(self) -> None:
        """Wait until all streams have stored their rows.

        Raises:
            threading.BrokenBarrierError: One of them never will.
        """
        self._have_stored.wait()

    def give_up(self) -> None:
        """Let nobody wait any longer."""
        self._have_stored.abort()


class _Appending(threading.Thread):
    """The thread that owns the connection; the main thread stays free for signals, which C code would keep waiting."""

    def __init__(
        self,
        connection: Callable[[], AbstractContextManager[Connection]],
        schema: str,
        table: str,
        together: _Together,
        begin: Callable[[AppendTransaction], bool],
    ) -> None:
        super().__init__(name=f"append to {schema}.{table}", daemon=True)
        self._connection, self._schema, self._table, self._together, self._begin = (
            connection,
            schema,
            table,
            together,
            begin,
        )
        self._conn: Connection | None = None
        self._must_end = threading.Event()
        self._error: BaseException | None = None
        self._n_rows = 0

    @property
    def has_failed(self) -> bool:
        """Return whether it ended, or ends, without its rows."""
        return self._error is not None

    def run(self) -> None:
        try:
            with self._connection() as self._conn, self._conn.transaction():
                if self._begin(AppendTransaction(self._conn)):
                    self._n_rows = self._append(self._conn)
                    hit(Failpoint.APPEND_AFTER, partial(lose, self._conn))
                self._together.wait()
        except threading.BrokenBarrierError:
            pass  # Another stream has the reason.
        except BaseException as error:  # noqa: BLE001  (the main thread raises it)
            self._error = error
            self._together.give_up()

    def stop(self) -> None:
        """End the COPY, in the server and here; do not wait for long."""
        self._must_end.set()
        self._together.give_up()
        if conn := self._conn:
            with suppress(Exception):  # It may have ended by itself.
                conn.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
        self.join(_END_SECONDS)

    def result(self) -> int:
        """Return the number of stored rows, or raise what went wrong."""
        import psycopg

        if isinstance(self._error, psycopg.Error):
            if fault := fault_of(self._error):
                raise fault from self._error
            raise WarehouseError(
                "The warehouse did not take rows that were sent to it.",
                got=first_line(self._error),
                todo="Rerun the task; nothing was published.",
            ) from self._error
        if self._error is not None:
            raise self._error
        return self._n_rows

    def _append(self, conn: Connection) -> int:
        source = self._together.batches()
        first = next(source, None)
        if first is None:
            return 0
        kinds = _kinds(conn, self._schema, self._table)
        columns = {name: kinds[name] for name in first.column_names}
        encoder = _encoder(columns)
        tables = self._watched(chain([first], source))
        parts: Iterator[bytes | memoryview] = (
            _binary(*encoder, tables) if encoder else map(as_csv, tables)
        )
        with conn.cursor() as cursor:
            with cursor.copy(
                copy_statement(
                    self._schema, self._table, list(columns), "binary" if encoder else "csv"
                )
            ) as copy:
                for part in parts:
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


def _encoder(columns: dict[str, str]) -> tuple[pa.Schema, ArrowToPostgresBinaryEncoder] | None:
    """Return what writes these columns as the server itself has them, and the types that it takes; None where a type is unknown."""
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder
    from pgpq.encoders import StringEncoderBuilder
    from pgpq.schema import Jsonb

    from nightshift.warehouse.fast_io.binary_rows import TYPES

    types = {kind: of_kind for kind, (of_kind, _) in TYPES.items()} | dict.fromkeys(
        _ONLY_WRITTEN, pa.string()
    )
    if not set(columns.values()) <= types.keys():
        return None
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    own = {
        name: StringEncoderBuilder.new_with_output(schema.field(name), Jsonb())
        for name, kind in columns.items()
        if kind == "jsonb"
    }
    others = {
        field.name: ArrowToPostgresBinaryEncoder.infer_encoder(field)
        for field in schema
        if field.name not in own
    }
    return schema, ArrowToPostgresBinaryEncoder.new_with_encoders(schema, own | others)


_ONLY_WRITTEN = frozenset({"json", "jsonb"})


def _binary(
    schema: pa.Schema, encoder: ArrowToPostgresBinaryEncoder, tables: Iterable[pa.Table]
) -> Iterator[bytes | memoryview]:
    yield encoder.write_header()
    for table in tables:
        for batch in table.cast(schema).to_batches():
            yield encoder.write_batch(batch)
    yield encoder.finish()
