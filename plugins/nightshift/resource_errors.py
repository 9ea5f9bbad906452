"""Translate errors of a full disk or short memory into errors that say so.

PostgreSQL reports them by SQLSTATE (psycopg and ADBC carry it), dbt only in its text, the operating
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
    causes_of,
)
from nightshift.redaction import redact

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_FULL, _OUT_OF_MEMORY = "53100", "53200"
_SPACE_WORDS = re.compile("No space left on device|File too large|Disk quota exceeded|DiskFull")
# How PostgreSQL begins such a message, and psycopg's class, which is all that a gate keeps of it.
_SERVER_WORDS = re.compile("could not (extend|write|create|open|fsync)|DiskFull")
_MEMORY_WORDS = re.compile("std::bad_alloc|can't start new thread")
_TRANSLATED = (WarehouseFullError, LocalSpaceError, MemoryShortError, ObjectStoreError)


@contextmanager
def translate_resource_errors() -> Iterator[None]:
    """Replace an error of the block that means a full disk or short memory; others pass.

    Raises:
        WarehouseFullError: The warehouse's disk is full.
        LocalSpaceError: A disk of this machine is full.
        MemoryShortError: There is no more memory.
    """
    try:
        yield
    except Exception as error:
        # All errors of a connection, a task or a command pass here on their way into a log.
        redact(error)
        translated = resource_error_of(error)
        if translated is None:
            raise
        raise translated from error


def resource_error_of(error: BaseException) -> NightshiftError | None:
    """Return the resource error that an error means; None if it means none or is one already."""
    for cause in causes_of(error):
        if isinstance(cause, _TRANSLATED):
            return None
        translated = _memory_error(cause) or _disk_error(cause)
        if translated is not None:
            return translated
    return None


def _memory_error(error: BaseException) -> MemoryShortError | None:
    state = getattr(error, "sqlstate", None)
    is_short = isinstance(error, MemoryError)
    if isinstance(error, OSError):
        is_short = error.errno == errno.ENOMEM
    if not is_short and state != _OUT_OF_MEMORY and not _MEMORY_WORDS.search(str(error)):
        return None
    return MemoryShortError(
        "There is no more memory" + (" in the warehouse." if state else " for this process."),
        got=_first_line(error),
        todo="No partial data was published. Run fewer tasks at once, or give more memory;"
        " then rerun the task.",
    )


def _disk_error(error: BaseException) -> WarehouseFullError | LocalSpaceError | None:
    text = str(error)
    has_words = _SPACE_WORDS.search(text) is not None
    is_of_the_server = has_words and not isinstance(error, OSError) and _SERVER_WORDS.search(text)
    if getattr(error, "sqlstate", None) == _DISK_FULL or is_of_the_server:
        return WarehouseFullError(
            "The warehouse's disk is full.",
            got=_disk_line(error),
            todo="Readers keep what is published. Make space (runbook), then rerun the task.",
        )
    if has_words or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        return LocalSpaceError(
            f"No space for {getattr(error, 'filename', None) or 'a local file'}.",
            got=_disk_line(error),
            todo="Make space on that disk (`nightshift doctor` shows it), then rerun the task.",
        )
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _disk_line(error: BaseException) -> str:
    """Return the line about the disk: an error of dbt has many lines."""
    for line in str(error).splitlines():
        if _SPACE_WORDS.search(line):
            return line.strip()
    return _first_line(error)
