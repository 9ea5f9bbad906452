"""Name the cause when a disk or the memory ran out, in whatever library it shows first.

PostgreSQL says so by SQLSTATE (psycopg and ADBC carry it), dbt only in its text, the operating
system by errno. Source: docs/adr/0013-faults-of-the-store-and-of-the-machine.md.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from nightshift.errors import (
    LocalSpaceError,
    MemoryShortError,
    NightshiftError,
    ObjectStoreError,
    WarehouseFullError,
)
from nightshift.redaction import redact

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_FULL, _OUT_OF_MEMORY = "53100", "53200"
_SPACE_WORDS = re.compile("No space left on device|File too large|Disk quota exceeded|DiskFull")
_SERVER_WORDS = re.compile("could not (extend|write|create|open|fsync)|DiskFull")
"""How PostgreSQL begins such a message, and psycopg's class, which is all that a gate keeps of
it.
"""
_MEMORY_WORDS = re.compile("std::bad_alloc|can't start new thread")
_NAMED = (WarehouseFullError, LocalSpaceError, MemoryShortError, ObjectStoreError)


@contextmanager
def translate_resource_errors() -> Iterator[None]:
    """Replace an error of the block that means a full disk or short memory by one that says so; all others pass.

    Raises:
        WarehouseFullError: The warehouse's disk is full.
        LocalSpaceError: A disk of this machine is full.
        MemoryShortError: There is no more memory.
    """
    try:
        yield
    except Exception as error:
        redact(
            error
        )  # here all errors of a connection, a task or a command pass on their way into a log
        named = resource_error_of(error)
        if named is None:
            raise
        raise named from error


def resource_error_of(error: BaseException) -> NightshiftError | None:
    """Return the error that names the cause; None if it is named already, or if nothing ran out."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, _NAMED):
        if named := _named(found):
            return named
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return None


def _named(error: BaseException) -> NightshiftError | None:
    state = getattr(error, "sqlstate", None)
    is_memory = isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno == errno.ENOMEM
    )
    if is_memory or state == _OUT_OF_MEMORY or _MEMORY_WORDS.search(str(error)):
        return MemoryShortError(
            "There is no more memory" + (" in the warehouse." if state else " for this process."),
            got=_first_line(error),
            todo="Nothing was published by halves. Run fewer tasks at once, or give more memory; then rerun the task.",
        )
    if state == _DISK_FULL or (not isinstance(error, OSError) and _speaks_of_warehouse(error)):
        return WarehouseFullError(
            "The warehouse's disk is full.",
            got=_disk_line(error),
            todo="Readers keep what is published. Make space (runbook), then rerun the task.",
        )
    if (isinstance(error, OSError) and error.errno in _NO_SPACE) or _SPACE_WORDS.search(str(error)):
        return LocalSpaceError(
            f"No space for {getattr(error, 'filename', None) or 'a local file'}.",
            got=_disk_line(error),
            todo="Make space on that disk (`nightshift doctor` shows it), then rerun the task.",
        )
    return None


def _speaks_of_warehouse(error: BaseException) -> bool:
    return bool(_SPACE_WORDS.search(str(error)) and _SERVER_WORDS.search(str(error)))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _disk_line(error: BaseException) -> str:
    """Return the line that speaks of the disk: an error of dbt has many."""
    lines = [line.strip() for line in str(error).splitlines() if _SPACE_WORDS.search(line)]
    return lines[0] if lines else _first_line(error)
