"""Bodies on their way: read to the end with digests, no slower than a floor, into memory or into a file that appears whole.

Knows no vendor: a body is anything that can be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, md5, sha256
from pathlib import Path
from typing import Protocol, TypeVar

MIN_BYTES_PER_SECOND = 16 * 1024
"""A body that stays slower than this after the read timeout is given up: a connection that trickles would never time out."""
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


@dataclass(frozen=True)
class Received:
    """What came.

    Attributes:
        n_bytes: How many bytes.
        sha256: Their digest, hex.
        md5: Their MD5, hex, if it was asked for: what an ETag of an object that was written in one request says.
    """

    n_bytes: int
    sha256: str
    md5: str | None


def receive(body: Body, write: Callable[[bytes], object], patience_seconds: float, *, with_md5: bool) -> Received:
    """Read a body to its end and pass it on, while another thread takes its digests.

    Pieces grow with the speed, so that the clock is looked at about twice a second however slow the body is.

    Args:
        body: Read only here.
        write: Called with each piece.
        patience_seconds: How long the body may be slower than the floor.
        with_md5: Whether the MD5 is asked for too.

    Raises:
        TransitError: It is too slow.
    """
    digest, etag = sha256(), md5(usedforsecurity=False) if with_md5 else None
    n_bytes = 0

    def digest_chunk(chunk: bytes) -> None:
        digest.update(chunk)
        if etag:
            etag.update(chunk)

    with ThreadPoolExecutor(1, "digest") as digesting:
        before: Future[None] | None = None
        for chunk in _chunks(body, patience_seconds):
            if before:
                before.result()
            before = digesting.submit(digest_chunk, chunk)
            write(chunk)
            n_bytes += len(chunk)
    return Received(n_bytes, digest.hexdigest(), etag.hexdigest() if etag else None)


def _chunks(body: Body, patience_seconds: float) -> Iterator[bytes]:
    began, n_bytes, size = time.monotonic(), 0, _SMALLEST_CHUNK
    while True:
        asked = time.monotonic()
        chunk = body.read(size)
        now = time.monotonic()
        if not chunk:
            return
        yield chunk
        n_bytes += len(chunk)
        if now - began > patience_seconds and n_bytes < MIN_BYTES_PER_SECOND * (now - began):
            raise TransitError(f"{n_bytes} bytes in {now - began:.0f} s: slower than {MIN_BYTES_PER_SECOND // 1024} KiB/s")
        is_fast = now - asked < _SECONDS_PER_CHUNK
        size = min(2 * size, _LARGEST_CHUNK) if is_fast else max(size // 4, _SMALLEST_CHUNK)


def answered_within(seconds: float, request: Callable[[], Answer]) -> Answer:
    """Send a request, and give it up when its answer is not whole in time.

    A socket's timeout begins anew with every byte, so an answer that trickles would never end. The request runs in a thread of its own,
    which is left to its fate: whatever it still does must be safe to be done twice.

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
