"""Write and lock the files of a home."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightshift.atomic_file import replacing


def write_private(path: Path, text: str) -> None:
    """Replace a file (mode 0600) in one step: a reader sees the old or the new content."""
    with replacing(path, mode=0o600) as draft:
        draft.write_text(text)


def open_lock(path: Path) -> int:
    """Return the descriptor of a lock file; the kernel releases the lock when its holder dies.

    The file is never deleted: a waiter would get the lock of a file that the next one does not see.
    """
    # O_CLOEXEC: a server that is started meanwhile must not inherit the lock.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file during the block; wait for it without a limit.

    Args:
        path: The lock file; its folder exists.
    """
    lock = open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        # Closing the descriptor releases the lock.
        os.close(lock)
