"""Append a stream of Arrow tables by COPY, binary where all types are known.

Every double keeps its bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, NoReturn

from nightshift.errors import TableShapeError, WarehouseError
from nightshift.failpoints import Failpoint, hit
from nightshift.stage_times import stage
from nightshift.warehouse.connection import CANCEL_TIMEOUT_SECONDS, connect, lose
from nightshift.warehouse.fast_io.arrow_io import as_csv, copy_statement, first_line, streaming
from nightshift.warehouse.faults import fault_of
from nightshift.warehouse.relations.columns import table_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_POLL_SECONDS = 0.1
_STOP_SECONDS = 1.0
_JSON_TYPES = frozenset({"json", "jsonb"})
"""Types that are written, in addition to ``binary_rows.TYPES``, but never read."""


@stage("stage_rows")
def append_stream(  # noqa: PLR0913, PLR0917  (what, where to, and for whom)
    settings: Settings,
    schema: str,
    table: str,
    batches: Iterable[pa.Table],
    begin: Callable[[Connection], bool],
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
        begin: Called first, in the transaction of each connection: takes locks, makes room, and
            returns whether the rows are still needed.
        application_name: Shown by the warehouse.
        n_connections: Connections that share the batches, each with a transaction of its own. They
            commit when all of them have stored their rows; when one is lost in that moment, the
            rows of the remaining ones stay. So more than one is for rows that an audit counts.

    Returns:
        Number of rows that the server reports to have taken; 0 if they are not needed.

    Raises:
        WarehouseError: The server cannot be reached, or refused; with one connection nothing was
            stored.
    """
    shared = _SharedBatches(batches, n_connections)
    stream = _Stream(
        settings,
        schema,
        table,
        begin,
        application_name,
        shared,
    )
    threads = [_CopyThread(stream) for _ in range(n_connections)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            _wait(thread, shared)
        if shared.error:
            _raise(shared.error)
    except BaseException:
        for thread in threads:
            thread.stop()
        raise
    return sum(thread.n_rows for thread in threads)


def _wait(thread: threading.Thread, shared: _SharedBatches) -> None:
    """Return when a thread has ended, or when any connection has failed."""
    while thread.is_alive() and not shared.error:
        # In short steps: a join without a limit is C code, which would keep a signal waiting.
        thread.join(_POLL_SECONDS)


def _raise(error: BaseException) -> NoReturn:
    """Raise what a thread met, an error of the driver as one of ours."""
    import psycopg

    if not isinstance(error, psycopg.Error):
        raise error
    fault = fault_of(error)
    if fault is None:
        fault = WarehouseError(
            "The warehouse did not take rows that were sent to it.",
            got=first_line(error),
            todo="Rerun the task; nothing was published.",
        )
    raise fault from error


class _SharedBatches:
    """What the connections of one call share: the batches, and the moment before they commit.

    Attributes:
        error: The first error of any connection.
        all_stored: Barrier that each connection passes when all have stored their rows. It is
            broken when a connection never will.
    """

    def __init__(self, batches: Iterable[pa.Table], n_connections: int) -> None:
        self._source = iter(batches)
        self._lock = threading.Lock()
        self.error: BaseException | None = None
        self.all_stored = threading.Barrier(n_connections)

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield batches, each of which one connection takes, until one connection has failed."""
        while (batch := self._next()) is not None:
            yield batch

    def _next(self) -> pa.Table | None:
        with self._lock:
            if self.error:
                raise InterruptedError("the stream was stopped")
            return next(self._source, None)

    def fail(self, error: BaseException) -> None:
        """Keep the first error, which causes all later ones; let no connection wait longer."""
        if self.error is None:
            self.error = error
        self.all_stored.abort()


@dataclass(frozen=True)
class _Stream:
    """One call of ``append_stream``: its arguments, and what its connections share."""

    settings: Settings
    schema: str
    table: str
    begin: Callable[[Connection], bool]
    application_name: str
    batches: _SharedBatches


class _CopyThread(threading.Thread):
    """The thread that owns a connection and its COPY."""

    def __init__(self, stream: _Stream) -> None:
        super().__init__(name=f"append to {stream.schema}.{stream.table}", daemon=True)
        self._stream = stream
        self._conn: Connection | None = None
        self.n_rows = 0

    def run(self) -> None:
        stream = self._stream
        try:
            settings = streaming(stream.settings)
            with connect(settings, stream.application_name) as conn, conn.transaction():
                self._conn = conn
                if stream.begin(conn):
                    self.n_rows = _copy(conn, stream)
                    hit(Failpoint.APPEND_AFTER, lambda: lose(conn))
                # No connection commits before every other one has stored its rows.
                stream.batches.all_stored.wait()
        except BaseException as error:  # noqa: BLE001  (the main thread raises it)
            stream.batches.fail(error)

    def stop(self) -> None:
        """End the COPY, in the server and here; do not wait for long."""
        # Sending blocks while the server is busy: only a cancel from here ends it at once.
        self._stream.batches.fail(InterruptedError("the stream was stopped"))
        if self._conn:
            with suppress(Exception):  # It may have ended by itself.
                self._conn.cancel_safe(timeout=CANCEL_TIMEOUT_SECONDS)
        self.join(_STOP_SECONDS)


def _copy(conn: Connection, stream: _Stream) -> int:
    """Send the batches that this connection gets; return the number of rows that were taken."""
    source = iter(stream.batches)
    # The columns are those of the rows and not of the table, which may have more with a default.
    first = next(source, None)
    if first is None:
        return 0
    existing = table_columns(
        conn,
        stream.schema,
        stream.table,
    )
    missing = [name for name in first.column_names if name not in existing]
    if missing:
        raise TableShapeError(
            f"{stream.schema}.{stream.table} has not every column that is written to it.",
            expected=", ".join(first.column_names),
            got=f"no {', '.join(missing)}",
            todo="Run `nightshift migrate`, then rerun the task.",
        )
    columns = {name: existing[name].type_name for name in first.column_names}
    tables = chain([first], source)
    encoder = _encoder(columns)
    parts: Iterable[bytes | memoryview]
    copy_format: Literal["binary", "csv"]

    # One format for the whole stream: a COPY cannot change it in the middle.
    if encoder is None:
        # PostgreSQL itself reads text of any type.
        parts, copy_format = map(as_csv, tables), "csv"
    else:
        # Every type has a binary form here, so the server parses no text: less of its time.
        parts, copy_format = _binary_parts(*encoder, tables), "binary"
    # Columns by name: the table may have them in another order.
    statement = copy_statement(
        stream.schema,
        stream.table,
        list(columns),
        copy_format,
    )
    with conn.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for part in parts:
                copy.write(part)
        # The server's answer to the end of the COPY has set it.
        return cursor.rowcount


def _encoder(columns: dict[str, str]) -> tuple[pa.Schema, ArrowToPostgresBinaryEncoder] | None:
    """Return the schema and the encoder of binary rows; None where a column's type is unknown."""
    import pyarrow as pa
    from pgpq import ArrowToPostgresBinaryEncoder
    from pgpq.encoders import StringEncoderBuilder
    from pgpq.schema import Jsonb

    from nightshift.warehouse.fast_io.binary_rows import TYPES

    if not set(columns.values()) <= TYPES.keys() | _JSON_TYPES:
        return None
    fields = []
    encoders = {}
    for name, data_type in columns.items():
        # The reader of binary rows knows no JSON, so its table has no type for it.
        arrow_type = pa.string() if data_type in _JSON_TYPES else TYPES[data_type][0]
        field = pa.field(name, arrow_type)
        fields.append(field)
        encoders[name] = ArrowToPostgresBinaryEncoder.infer_encoder(field)
        if data_type == "jsonb":
            # Its wire format is not that of text: a byte with the version comes first.
            encoders[name] = StringEncoderBuilder.new_with_output(field, Jsonb())
    schema = pa.schema(fields)
    return schema, ArrowToPostgresBinaryEncoder.new_with_encoders(schema, encoders)


def _binary_parts(
    schema: pa.Schema,
    encoder: ArrowToPostgresBinaryEncoder,
    tables: Iterable[pa.Table],
) -> Iterator[bytes | memoryview]:
    """Yield the header, the rows of all tables, and the trailer of one COPY."""
    yield encoder.write_header()
    for table in tables:
        for batch in table.cast(schema).to_batches():
            yield encoder.write_batch(batch)
    yield encoder.finish()
