"""Read the rows of a COPY from libpq in a compiled loop: the one user of psycopg's private parts.

A driver written in Python takes and returns the interpreter's lock for each row: next to other busy
threads that is four times as slow. Source: docs/adr/0025-large-loads.md.

Private are the address of psycopg's connection and the libpq that its wheel brings. Both are
checked before they are used; where one is missing or has changed, psycopg's own COPY reads.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.kernels import c_function, jit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt
    from psycopg import sql

    from nightshift.warehouse.connection import Connection

    Bytes = npt.NDArray[np.uint8]

logger = logging.getLogger(__name__)

_MAX_ROW_BYTES = 1 << 20
"""Bytes that are free after a full batch; a longer row gets a batch of its own."""
_get: Any = None
_free: Any = None
_copy: Any = None


def copy_out(
    conn: Connection, query: sql.Composed | sql.SQL, batch_bytes: int
) -> Iterator[tuple[Bytes, int]]:
    """Run ``copy (query) to stdout (format binary)`` and yield its data in batches of full rows.

    A batch is valid until the next one is requested. After an early end, the COPY ends when the
    connection is closed.

    Args:
        conn: A connection that nobody else uses.
        query: What to copy.
        batch_bytes: About how many bytes a batch has.

    Yields:
        The bytes, and at least the number of rows in them.

    Raises:
        psycopg.Error: The server ended it, or cannot be reached.
    """
    from psycopg import sql

    statement = sql.SQL("copy ({}) to stdout (format binary)").format(query)
    try:
        address, collect = connection_address(conn), compiled_collect()
    except Exception as error:  # noqa: BLE001  (whatever changed: psycopg's COPY reads the same)
        logger.warning(
            "Rows are read by psycopg's COPY, more slowly: %s: %s", type(error).__name__, error
        )
        yield from _copy_plainly(conn, statement, batch_bytes)
    else:
        yield from _copy_compiled(conn, statement, batch_bytes, address, collect)


def _copy_plainly(
    conn: Connection, statement: sql.Composed, batch_bytes: int
) -> Iterator[tuple[Bytes, int]]:
    rows: list[bytes | bytearray | memoryview] = []
    n_bytes = 0
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in copy:
            rows.append(row)
            n_bytes += len(row)
            if n_bytes >= batch_bytes:
                yield np.frombuffer(b"".join(rows), np.uint8), len(rows)
                rows, n_bytes = [], 0
    if rows:
        yield np.frombuffer(b"".join(rows), np.uint8), len(rows)


def _copy_compiled(
    conn: Connection,
    statement: sql.Composed,
    batch_bytes: int,
    address: int,
    collect: Callable[..., int],
) -> Iterator[tuple[Bytes, int]]:
    from psycopg import errors
    from psycopg.pq import ExecStatus

    # psycopg begins and ends the COPY, as it would for itself: only the rows go past it.
    begun = conn.pgconn.exec_(statement.as_bytes(conn))
    if begun.status != ExecStatus.COPY_OUT:
        raise errors.error_from_result(begun)
    out = np.empty(batch_bytes + _MAX_ROW_BYTES, np.uint8)
    waiting, state = np.zeros(1, np.uintp), np.zeros(2, np.int64)
    while True:
        n_rows = collect(address, out, batch_bytes, waiting, state)
        n_waiting, n_bytes = (int(number) for number in state)
        if n_rows:
            yield out[:n_bytes], int(n_rows)
        if not waiting[0] and n_waiting <= 0:
            break
        # One row is longer than the buffer: it stays in libpq until the next call.
        if n_waiting > len(out):
            out = np.empty(n_waiting + _MAX_ROW_BYTES, np.uint8)
    while ended := conn.pgconn.get_result():
        if ended.status != ExecStatus.COMMAND_OK:
            raise errors.error_from_result(ended)


def connection_address(conn: Connection) -> int:
    """Return the address of libpq's connection, once the library at hand has recognised it.

    Raises:
        OSError: psycopg brings no library, or another one than it uses.
        AttributeError: psycopg does not give the address any more.
    """
    from psycopg import pq

    library = ctypes.CDLL(str(_library()))
    library.PQbackendPID.argtypes = [ctypes.c_void_p]
    if library.PQlibVersion() != pq.version():
        raise OSError("psycopg uses another libpq than the one that it brings")
    address = conn.pgconn.pgconn_ptr  # type: ignore[attr-defined]  # private
    # A library of the same version reads the same structure: the wrong one reads another number.
    if not isinstance(address, int) or library.PQbackendPID(address) != conn.info.backend_pid:
        raise OSError("psycopg's connection is not one of the libpq that it brings")
    return address


def _library() -> Path:
    """Return the libpq that psycopg is linked with; another one cannot read its connections."""
    from psycopg import pq

    package = find_spec("psycopg_binary")
    if pq.__impl__ == "binary" and package and package.origin:
        folder = Path(package.origin).parents[1] / "psycopg_binary.libs"
        for path in folder.glob("libpq-*.so*"):
            return path
    raise OSError("psycopg does not bring its own libpq")


@cache
def compiled_collect() -> Callable[..., int]:
    """Return ``collect_rows`` as machine code that calls psycopg's own libpq.

    It is compiled here and not at its first call, so a failure comes before the stream.

    Raises:
        OSError: psycopg does not bring a library.
        Exception: Whatever else keeps numba from compiling.
    """
    # The loop calls them by these names, which must be there when it is compiled.
    global _get, _free, _copy  # noqa: PLW0603
    library = _library()
    _get = c_function(library, "PQgetCopyData", "int32", "uintp", "uintp", "int32")
    _free = c_function(library, "PQfreemem", "void", "uintp")
    _copy = c_function(None, "memcpy", "uintp", "uintp", "uintp", "uintp")
    collect = jit(collect_rows)
    collect(0, np.empty(0, np.uint8), 0, np.zeros(1, np.uintp), np.zeros(2, np.int64))
    return collect


def collect_rows(
    conn: int,
    out: Bytes,
    max_bytes: int,
    waiting: npt.NDArray[np.uintp],
    state: npt.NDArray[np.int64],
) -> int:
    """Append rows to a buffer until there are enough bytes, or the COPY ends.

    Args:
        conn: Address of libpq's connection.
        out: Receives the rows.
        max_bytes: Number of bytes that are enough.
        waiting: Address of a row that did not fit, 0 for none; shape (1,).
        state: Receives libpq's last answer (bytes of a row; -1 the end, -2 an error) and the number
            of bytes in ``out``; shape (2,).

    Returns:
        Number of rows.
    """
    n_bytes, n_rows = 0, 0
    while n_bytes < max_bytes:
        if waiting[0] == 0:
            state[0] = _get(conn, waiting.ctypes.data, 0)
            if state[0] <= 0:
                break
        # The row stays in libpq's memory, at the address in ``waiting``.
        if n_bytes + state[0] > len(out):
            break
        _copy(out.ctypes.data + n_bytes, waiting[0], state[0])
        _free(waiting[0])
        waiting[0] = 0
        n_bytes += state[0]
        n_rows += 1
    state[1] = n_bytes
    return n_rows
