"""An object that is read as a file while it is still coming; its digest is compared before its reader may believe the end.

Source: docs/adr/0034-rows-while-the-file-is-coming.md.
"""

from __future__ import annotations

import threading
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.lake.object_store import ObjectDamagedError
from nightshift.prefetch import Prefetcher

if TYPE_CHECKING:
    from types import TracebackType

    from nightshift.lake.object_store import ObjectStore

FIRST_BYTES = 2 * 1024**2
"""What is there before the rows: the head of a file, also of a compressed one."""
N_AHEAD = 8
"""Chunks of a store, at most 1 MiB each, that may wait for a reader."""


class ObjectStream:
    """One object, to be read once from first to last byte, by any thread; use as a context manager.

    When the block ends, well or with an error, the digest of all bytes that came is compared: what
    was read has stood for nothing before. What nobody wanted to read is fetched for that too. A
    block that is left otherwise, as by a closed generator, just ends the transfer.

    Args:
        store: Where the object lies.
        key: Its key.
        digest: The SHA-256 that it must have, hex.

    Attributes:
        first: The first ``FIRST_BYTES`` of it, before anything is read.
        closed: Whether nothing more can be read.

    Raises:
        ObjectMissingError: It does not exist.
        ObjectCorruptError: It has another digest; raised at the end of the block, in the place of
            any error in it.
        ObjectDamagedError: The object is right, and what came was not; raised there too.
        ObjectStoreError: The server cannot be reached; raised there too.
    """

    def __init__(self, store: ObjectStore, key: str, digest: str) -> None:
        self._store, self._key, self._expected = store, key, digest
        self._digest, self._n_read = sha256(), 0
        self._reading = threading.Lock()
        self._ahead = Prefetcher(store.chunks(key), N_AHEAD)
        self.closed = False

    def __enter__(self) -> ObjectStream:
        self._chunks = self._ahead.start()
        first = bytearray()
        while len(first) < FIRST_BYTES and (chunk := next(self._chunks, b"")):
            first += chunk
        self.first = bytes(first)
        self._left = memoryview(self.first)
        return self

    @property
    def n_bytes(self) -> int:
        """Return the object's size."""
        return self._store.size(self._key)

    def readable(self) -> bool:
        """Return true: it is a file to those who ask."""
        return True

    def read(self, n_bytes: int = -1) -> memoryview:
        """Return at most that many bytes, as far as they have come, but at least one; none at the end.

        Raises:
            InterruptedError: It was closed meanwhile.
            ObjectStoreError: No more comes.
        """
        with self._reading:
            if (
                self.closed
            ):  # a late reader must not touch the digest, which takes in the rest meanwhile
                raise InterruptedError("the stream was closed")
            if not self._left:
                self._left = memoryview(next(self._chunks, b""))
            chunk = self._left if n_bytes < 0 else self._left[:n_bytes]
            self._left = self._left[len(chunk) :]
            self._digest.update(chunk)
            self._n_read += len(chunk)
        return chunk

    def close(self) -> None:
        """End the transfer, and wake whoever waits for bytes: to be called before a reader is closed that reads in advance."""
        self.closed = True
        self._ahead.stop()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if kind is None or issubclass(kind, Exception):
            with self._reading:
                for chunk in self._store.chunks(self._key, self._n_read):
                    self._digest.update(chunk)
            self._compare()

    def _compare(self) -> None:
        if self._digest.hexdigest() == self._expected:
            return
        self._store.verify(self._key, self._expected)
        raise ObjectDamagedError(
            f"{self._store.uri(self._key)} is right, but came as something else.",
            expected=f"sha256 {self._expected}",
            got=f"sha256 {self._digest.hexdigest()}",
            todo="Look at the network between here and the store. Retrying is safe.",
        )
