"""Transfers of bodies with digests, a minimum speed and a time limit; knows no vendor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Protocol, TypeVar

MIN_BYTES_PER_SECOND = 16 * 1024
"""A body that is slower than this after the read timeout is abandoned: a connection that trickles
would never time out.
"""
_SMALLEST_CHUNK, LARGEST_CHUNK = 16, 1 << 20
_SECONDS_PER_CHUNK = 0.5


class TransitError(Exception):
    """A transfer was damaged, broken off or too slow; the same request may succeed."""


class UnansweredError(TransitError):
    """No complete answer came in time; single bytes came, so no socket timed out."""


Answer = TypeVar("Answer")


class Body(Protocol):
    """A body that can be read piece by piece."""

    def read(self, amt: int | None = None, /) -> bytes:
        """Return at most that many bytes; none at the end."""


class Digest(Protocol):
    """A digest of hashlib's."""

    def update(self, data: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all added bytes, hex."""


def receive(
    body: Body, write: Callable[[bytes], object], patience_seconds: float, digest: Digest
) -> None:
    """Read a body to its end and write it, while another thread takes its digest.

    Args:
        body: Read only in this thread.
        write: Called with each chunk.
        patience_seconds: How long the body may be slower than ``MIN_BYTES_PER_SECOND``.
        digest: Updated with each chunk.

    Raises:
        TransitError: It is too slow.
    """
    with ThreadPoolExecutor(1, "digest") as pool:
        previous: Future[None] | None = None
        for chunk in chunks_of(body, patience_seconds):
            # One chunk at a time: memory is bounded, and an error of the digest is raised.
            if previous:
                previous.result()
            previous = pool.submit(digest.update, chunk)
            write(chunk)


def chunks_of(body: Body, patience_seconds: float) -> Iterator[bytes]:
    """Yield a body chunk by chunk.

    Args:
        body: Read only in this thread.
        patience_seconds: How long it may be slower than ``MIN_BYTES_PER_SECOND``; the time that its
            reader takes does not count.

    Raises:
        TransitError: It is too slow.
    """
    waited, n_bytes, size = 0.0, 0, _SMALLEST_CHUNK
    while True:
        started = time.monotonic()
        chunk = body.read(size)
        seconds = time.monotonic() - started
        if not chunk:
            return
        yield chunk
        waited += seconds
        n_bytes += len(chunk)
        if waited > patience_seconds and n_bytes < MIN_BYTES_PER_SECOND * waited:
            floor = f"{MIN_BYTES_PER_SECOND // 1024} KiB/s"
            raise TransitError(f"{n_bytes} bytes in {waited:.0f} s: slower than {floor}")
        # A small chunk of a slow body returns in time for the clock; a large one of a fast body
        # costs few calls.
        if seconds < _SECONDS_PER_CHUNK:
            size = min(2 * size, LARGEST_CHUNK)
        else:
            size = max(size // 4, _SMALLEST_CHUNK)


def call_within(seconds: float, request: Callable[[], Answer]) -> Answer:
    """Send a request, and abandon it when its answer is not complete in time.

    The request runs in a thread of its own and may still finish later, so it must be idempotent.

    Raises:
        UnansweredError: No complete answer came in time.
        Exception: What the request raises.
    """
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(request())
        except BaseException as error:  # noqa: BLE001  (raised again by the waiting thread)
            future.set_exception(error)

    # A daemon thread, because the process must not wait for an abandoned request at its end.
    threading.Thread(target=run, name="object store request", daemon=True).start()
    if not wait([future], seconds).done:
        raise UnansweredError(f"no complete answer within {seconds:.0f} s")
    return future.result()


def digest_of(data: bytes | Path) -> bytes:
    """Return the SHA-256 of bytes, or of a file's content."""
    if isinstance(data, bytes):
        return sha256(data).digest()
    with data.open("rb") as file:
        return file_digest(file, "sha256").digest()


def size_of(data: bytes | Path) -> int:
    """Return the number of bytes."""
    return len(data) if isinstance(data, bytes) else data.stat().st_size
