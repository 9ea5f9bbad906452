"""Take the rows of a COPY out of libpq in a compiled loop.

A driver written in Python takes and gives back the interpreter's lock for each row: beside other
busy threads that is four times as slow. Source: docs/adr/0031-binary-rows.md.
"""

from __future__ import annotations

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

    Numbers = npt.NDArray[np.int64]

_LONGEST_ROW = 1 << 20
"""Bytes that are free behind a full batch; a longer row gets a batch of its own."""
_get: Any = None
_free: Any = None
_copy: Any = None


def copy_out(
    conn: Connection, query: sql.Composed | sql.SQL, batch_bytes: int
) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """Run ``copy (query) to stdout (format binary)`` and yield its data, whole rows, with how many there are at most.

    What is yielded is valid until the next is asked for. An early end leaves the COPY to whoever
    closes the connection.

    Args:
        conn: A connection that nobody else uses.
        query: What to copy.
        batch_bytes: About how many bytes come at once.

    Raises:
        psycopg.Error: The server ended it, or cannot be reached.
    """
    from psycopg import errors, sql
    from psycopg.pq import ExecStatus

    collect, pgconn = compiled_collect(), conn.pgconn
    begun = pgconn.exec_(
        sql.SQL("copy ({}) to stdout (format binary)").format(query).as_bytes(conn)
    )
    if begun.status != ExecStatus.COPY_OUT:
        raise errors.error_from_result(begun)
    address: int = pgconn.pgconn_ptr  # type: ignore[attr-defined]  # all of psycopg's ways to libpq have it
    out = np.empty(batch_bytes + _LONGEST_ROW, np.uint8)
    waiting, state = np.zeros(1, np.uintp), np.zeros(2, np.int64)
    while True:
        n_rows = collect(address, out, batch_bytes, waiting, state)
        n_waiting, n_bytes = (int(number) for number in state)
        if n_rows:
            yield out[:n_bytes], int(n_rows)
        if not waiting[0] and n_waiting <= 0:
            break
        if n_waiting > len(out):
            out = np.empty(n_waiting + _LONGEST_ROW, np.uint8)
    while ended := pgconn.get_result():
        if ended.status != ExecStatus.COMMAND_OK:
            raise errors.error_from_result(ended)


@cache
def compiled_collect() -> Callable[..., int]:
    """Return ``collect_rows`` as machine code that calls the driver's own libpq, compiled: a failure comes here, not in a stream.

    Raises:
        OSError: The driver does not bring one.
        Exception: What else keeps numba from compiling.
    """
    global _get, _free, _copy  # noqa: PLW0603  (names that the loop calls; they must be there before it is compiled)
    library = _library()
    _get = c_function(library, "PQgetCopyData", "int32", "uintp", "uintp", "int32")
    _free = c_function(library, "PQfreemem", "void", "uintp")
    _copy = c_function(None, "memcpy", "uintp", "uintp", "uintp", "uintp")
    collect = jit(collect_rows)
    collect(0, np.empty(0, np.uint8), 0, np.zeros(1, np.uintp), np.zeros(2, np.int64))
    return collect


def _library() -> Path:
    """Return the libpq that psycopg is linked with; with another one a connection of psycopg's would be nonsense."""
    from psycopg import pq

    found = find_spec("psycopg_binary")
    if pq.__impl__ == "binary" and found and found.origin:
        for path in (Path(found.origin).parents[1] / "psycopg_binary.libs").glob("libpq-*.so*"):
            return path
    raise OSError("psycopg does not bring its own libpq")


def collect_rows(
    conn: int,
    out: npt.NDArray[np.uint8],
    most_bytes: int,
    waiting: npt.NDArray[np.uintp],
    state: Numbers,
) -> int:
    """Put rows together until there are enough bytes, or the COPY ends.

    Args:
        conn: Address of libpq's connection.
        out: Receives them.
        most_bytes: When it is enough.
        waiting: Address of a row that did not fit, 0 for none; shape (1,).
        state: Receives what libpq has said last (bytes of a row; -1 the end, -2 an error) and how
            many bytes ``out`` has; shape (2,).

    Returns:
        Number of rows.
    """
    at, n_rows = 0, 0
    while at < most_bytes:
        if waiting[0] == 0:
            state[0] = _get(conn, waiting.ctypes.data, 0)
            if state[0] <= 0:
                break
        if at + state[0] > len(out):
            break
        _copy(out.ctypes.data + at, waiting[0], state[0])
        _free(waiting[0])
        waiting[0] = 0
        at += state[0]
        n_rows += 1
    state[1] = at
    return n_rows
