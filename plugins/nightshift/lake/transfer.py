"""Bodies on their way: read to the end with digests, no slower than a floor, into memory or into a file that appears whole.

Knows no vendor: a body is anything that can be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Protocol, TypeVar

MIN_BYTES_PER_SECOND = 16 * 1024
"""A body that stays slower than this after the read timeout is given up: a connection that
trickles would never time out.
"""
_SMALLEST_CHUNK, _LARGEST_CHUNK = 16, 1 << 20
_SECONDS_PER_CHUNK = 0.5


class TransitError(Exception):
    """What went or came was damaged, broken off or too slow on its way; the same request may do better."""


class UnansweredError(TransitError):
    """No whole answer came in time, though something came now and then, so that no timeout of a socket noticed."""


Answer = TypeVar("Answer")


class Body(Protocol):
    """What can be read piece by piece."""

    def read(self, amt: int | None = None, /) -> bytes:
        """Return at most that many bytes; none at the end."""


class Digest(Protocol):
    """A digest of hashlib's."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of what was taken in, hex."""


def receive(
    body: Body, write: Callable[[bytes], object], patience_seconds: float, digest: Digest
) -> None:
    """Read a body to its end and pass it on, while another thread takes its digest.

    Args:
        body: Read only here.
        write: Called with each piece.
        patience_seconds: How long the body may be slower than the floor.
        digest: Takes in each piece.

    Raises:
        TransitError: It is too slow.
    """
    with ThreadPoolExecutor(1, "digest") as digesting:
        before: Future[None] | None = None
        for chunk in chunks_of(body, patience_seconds):
            if before:
                before.result()
            before = digesting.submit(digest.update, chunk)
            write(chunk)


def chunks_of(body: Body, patience_seconds: float) -> Iterator[bytes]:
    """Yield a body piece by piece; they grow with the speed, so that the clock is looked at about twice a second however slow it is.

    Args:
        body: Read only here.
        patience_seconds: How long it may be slower than the floor; what its reader does meanwhile
            does not count.

    Raises:
        TransitError: It is too slow.
    """
    waited, n_bytes, size = 0.0, 0, _SMALLEST_CHUNK
    while True:
        asked = time.monotonic()
        chunk = body.read(size)
        took = time.monotonic() - asked
        if not chunk:
            return
        yield chunk
        waited, n_bytes = waited + took, n_bytes + len(chunk)
        if waited > patience_seconds and n_bytes < MIN_BYTES_PER_SECOND * waited:
            raise TransitError(
                f"{n_bytes} bytes in {waited:.0f} s: slower than {MIN_BYTES_PER_SECOND // 1024} KiB/s"
            )
        size = (
            min(2 * size, _LARGEST_CHUNK)
            if took < _SECONDS_PER_CHUNK
            else max(size // 4, _SMALLEST_CHUNK)
        )


def answered_within(seconds: float, request: Callable[[], Answer]) -> Answer:
    """Send a request, and give it up when its answer is not whole in time.

    A socket's timeout begins anew with every byte, so an answer that trickles would never end. The
    request runs in a thread of its own, which is left to its fate: whatever it still does must be
    safe to be done twice.

    Raises:
        UnansweredError: No whole answer came in time.
        Exception: What the request raises.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(request())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            errors.append(error)

    thread = threading.Thread(target=ask, name="object store request", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise UnansweredError(f"no whole answer within {seconds:.0f} s")
    return answers[0]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a file beside ``path`` to write to; it becomes ``path`` when the block ends well, and is deleted when it does not."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def digest_of(data: bytes | Path) -> bytes:
    """Return the SHA-256 of bytes, or of a file's content."""
    if isinstance(data, bytes):
        return sha256(data).digest()
    with data.open("rb") as file:
        return file_digest(file, "sha256").digest()


def size_of(data: bytes | Path) -> int:
    """Return the number of bytes."""
    return len(data) if isinstance(data, bytes) else data.stat().st_size
