"""One `nightshift up` at a time for each home: a second one waits, or says that it gave up."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nightshift.errors import ServiceError

FILE_NAME = "up.lock"
WAIT_SECONDS = 300.0
POLL_SECONDS = 0.2


@contextmanager
def only_up(
    home: Path, say: Callable[[str], None], wait_seconds: float = WAIT_SECONDS
) -> Iterator[None]:
    """Hold a home's lock during the block; the kernel releases it when the holder dies.

    Args:
        home: Folder of local state, prepared.
        say: Told once when somebody else holds the lock.
        wait_seconds: How long to wait for the other.

    Raises:
        ServiceError: The other did not end in time.
    """
    lock = os.open(home / "run" / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _take(lock, 0):
            say("  another `nightshift up` works on this home: waiting for it")
            if not _take(lock, wait_seconds):
                raise _busy(home, wait_seconds)
        yield
    finally:
        os.close(lock)


def _take(lock: int, wait_seconds: float) -> bool:
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


def _busy(home: Path, seconds: float) -> ServiceError:
    return ServiceError(
        f"Another `nightshift up` still works on {home} after {seconds:g} s.",
        expected="one at a time",
        todo="Wait for it, or end it and run `nightshift up` again; its services go on.",
        code="NS-SERVICE-014",
    )
