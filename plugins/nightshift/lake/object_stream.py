"""Read an object as a file while it is still being received; its digest is compared at the end.

Source: docs/adr/0027-large-drops.md.
"""

from __future__ import annotations

import threading
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.lake.object_errors import ObjectDamagedError
from nightshift.prefetch import Prefetcher

if TYPE_CHECKING:
    from types import TracebackType

    from nightshift.lake.object_store import ObjectStore

FIRST_BYTES = 2 * 1024**2
"""What is received before the rows: the head of a file, also of a compressed one."""
N_AHEAD = 8
"""Chunks of a store, at most 1 MiB each, that are received in advance."""


class ObjectStream:
    """One object, to be read once from first to last byte, by any thread; a context manager.

    When the block ends, normally or with an error, the rest is received and the digest of all bytes
    is compared: until then, what was read is unverified. A block that is left otherwise, as by a
    closed generator, only ends the transfer.

    Args:
        store: Where the object is.
        key: Its key.
        digest: The SHA-256 that it must have, hex.

    Attributes:
        first: The first ``FIRST_BYTES`` of it, before anything is read.
        closed: Whether nothing more can be read.

    Raises:
        ObjectMissingError: It does not exist.
        ObjectCorruptError: It has another digest; raised at the end of the block, instead of any
            error in it.
        ObjectDamagedError: The object is right, but the received bytes were not; raised there too.
        ObjectStoreError: The server cannot be reached; raised there too.
    """

    def __init__(self, store: ObjectStore, key: str, digest: str) -> None:
        self._store, self._key, self._expected = store, key, digest
        self._digest, self._n_read = sha256(), 0
        self._reading = threading.Lock()
        self._prefetcher = Prefetcher(store.chunks(key), N_AHEAD)
        self.closed = False

    def __enter__(self) -> ObjectStream:
        self._chunks = self._prefetcher.start()
        # The head of the file is checked before its rows are read.
        first = bytearray()
        while len(first) < FIRST_BYTES:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            first += chunk
        self.first = bytes(first)
        self._unread = memoryview(self.first)
        return self

    @property
    def n_bytes(self) -> int:
        """Return the object's size."""
        return self._store.size(self._key)

    def readable(self) -> bool:
        """Return true, as Arrow expects of a file."""
        return True

    def read(self, n_bytes: int = -1) -> memoryview:
        """Return at most that many bytes, but at least one; none at the end.

        Raises:
            InterruptedError: It was closed meanwhile.
            ObjectStoreError: The transfer failed.
        """
        with self._reading:
            # A late reader must not update the digest, which is then completed with the rest.
            if self.closed:
                raise InterruptedError("the stream was closed")
            if not self._unread:
                self._unread = memoryview(next(self._chunks, b""))
            chunk = self._unread if n_bytes < 0 else self._unread[:n_bytes]
            self._unread = self._unread[len(chunk) :]
            self._digest.update(chunk)
            self._n_read += len(chunk)
        return chunk

    def close(self) -> None:
        """End the transfer and wake a thread that waits for bytes.

        To be called before a reader is closed that reads in advance.
        """
        self.closed = True
        self._prefetcher.stop()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if error_type is None or issubclass(error_type, Exception):
            with self._reading:
                # Also the bytes that no reader wanted: the digest is that of the complete object.
                for chunk in self._store.chunks(self._key, self._n_read):
                    self._digest.update(chunk)
            self._compare_digest()

    def _compare_digest(self) -> None:
        if self._digest.hexdigest() == self._expected:
            return
        # Raises if the object itself is wrong.
        self._store.verify(self._key, self._expected)
        raise ObjectDamagedError(
            f"{self._store.uri(self._key)} is right in the store, but was received damaged.",
            expected=f"sha256 {self._expected}",
            got=f"sha256 {self._digest.hexdigest()}",
            todo="Look at the network between here and the store. Retrying is safe.",
        )
