"""Allow one `nightshift up` at a time for each home: a second one waits, then gives up."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nightshift.errors import ServiceError
from nightshift_local.home_files import open_lock

FILE_NAME = "up.lock"
WAIT_SECONDS = 300.0
POLL_SECONDS = 0.2


@contextmanager
def only_up(
    home: Path, report: Callable[[str], None], wait_seconds: float = WAIT_SECONDS
) -> Iterator[None]:
    """Hold a home's lock during the block; the kernel releases it when the holder dies.

    Args:
        home: Folder of local state, prepared.
        report: Called once when another process holds the lock.
        wait_seconds: How long to wait for that process.

    Raises:
        ServiceError: It did not end in time.
    """
    lock = open_lock(home / "run" / FILE_NAME)
    try:
        if not _acquire(lock, 0):
            report("  another `nightshift up` works on this home: waiting for it")
            if not _acquire(lock, wait_seconds):
                raise ServiceError(
                    f"Another `nightshift up` still works on {home} after {wait_seconds:g} s.",
                    expected="one at a time",
                    todo="Wait for it, or end it and run `nightshift up` again;"
                    " its services keep running.",
                    code="NS-SERVICE-014",
                )
        yield
    finally:
        os.close(lock)


def _acquire(lock: int, wait_seconds: float) -> bool:
    """Return whether the lock was acquired in time."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True
