"""A compressed file that is unpacked up to a limit: a bomb stops there, not at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.drop_limits import DropLimits

FREE_BYTES = 16 * 1024**2
"""From here on the ratio counts: a few lines that repeat pack well, and harm nobody."""
_PIECE_BYTES = 1024**2


class OverLimitError(ValueError):
    """A file is larger than its contract allows.

    Args:
        limit: Name of the limit, as the contract has it.
        most: Its value.
        got: What came, or how much of it until the reader stopped.
    """

    def __init__(self, limit: str, most: float, got: str) -> None:
        super().__init__(f"limits.{limit} is {most:g}, got {got}")
        self.limit, self.most, self.got = limit, most, got


def max_decompressed(n_bytes: int, limits: DropLimits) -> tuple[int, OverLimitError]:
    """Return how many bytes a file of that size may become, and what to raise when it becomes more."""
    by_ratio = max(FREE_BYTES, int(limits.decompression_ratio * n_bytes))
    if limits.decompressed_bytes <= by_ratio:
        most, limit = limits.decompressed_bytes, "decompressed_bytes"
        return most, OverLimitError(limit, most, "more bytes")
    got = f"more than {by_ratio} bytes out of {n_bytes}"
    return by_ratio, OverLimitError("decompression_ratio", limits.decompression_ratio, got)


class DecompressedStream:
    """A file of Python over an unpacking stream of Arrow.

    Args:
        stream: Yields unpacked bytes.
        most: So many bytes may come.
        error: Is raised when more come.
    """

    def __init__(self, stream: pa.NativeFile, most: int, error: OverLimitError) -> None:
        self._stream, self._left, self._error = stream, most, error

    @property
    def closed(self) -> bool:
        """Return whether nothing more can be read."""
        return bool(self._stream.closed)

    def readable(self) -> bool:
        """Return true: it is a file to those who ask."""
        return True

    def read(self, n_bytes: int = -1) -> bytes:
        """Return at most that many bytes, all that are left by default.

        Raises:
            OverLimitError: More came than may come.
        """
        if n_bytes >= 0:
            return self._next(n_bytes)
        pieces = iter(lambda: self._next(_PIECE_BYTES), b"")
        return b"".join(pieces)

    def close(self) -> None:
        """Close the stream below."""
        self._stream.close()

    def _next(self, n_bytes: int) -> bytes:
        piece: bytes = self._stream.read(n_bytes)
        self._left -= len(piece)
        if self._left < 0:
            raise self._error
        return piece
