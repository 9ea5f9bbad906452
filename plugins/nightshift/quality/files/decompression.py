"""Bounded decompression: a bomb is refused where the limit is reached, not at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.drop_limits import DropLimits

FREE_BYTES = 16 * 1024**2
"""Below this size the ratio does not count."""
_FREE_TEXT_BYTES = 128 * 1024**2
_TEXT_RATIO = 10
"""A Parquet file stores equal values once and repeats them: its text may be so many times larger
than what its pages may become.
"""
_PIECE_BYTES = 1024**2


class OverLimitError(ValueError):
    """A file is larger than its contract allows.

    Args:
        limit: Name of the limit in the contract.
        maximum: Its value.
        got: What came, or how much of it until the reader stopped.
    """

    def __init__(self, limit: str, maximum: float, got: str) -> None:
        super().__init__(f"limits.{limit} is {maximum:g}, got {got}")
        self.limit, self.maximum, self.got = limit, maximum, got


def max_decompressed(
    n_bytes: int,
    limits: DropLimits,
) -> tuple[int, OverLimitError]:
    """Return how many bytes a compressed file may become, and the error for one more."""
    # A few repeated lines compress well and do no harm.
    by_ratio = max(FREE_BYTES, int(limits.decompression_ratio * n_bytes))
    maximum = limits.decompressed_bytes
    if maximum <= by_ratio:
        return maximum, OverLimitError("decompressed_bytes", maximum, "more bytes")
    got = f"more than {by_ratio} bytes out of {n_bytes}"
    return by_ratio, OverLimitError("decompression_ratio", limits.decompression_ratio, got)


def max_text(
    n_bytes: int,
    limits: DropLimits,
) -> tuple[int, OverLimitError]:
    """Return how many bytes of text a Parquet file may become, and the error for one more.

    Twelve kilobytes have become 30 GB a column: pages count a value once, rows as often as it
    comes.
    """
    ratio = _TEXT_RATIO * limits.decompression_ratio
    maximum = max(_FREE_TEXT_BYTES, int(ratio * n_bytes))
    got = f"more than {maximum} bytes of text out of {n_bytes}"
    error = OverLimitError("decompression_ratio", limits.decompression_ratio, got)
    return maximum, error


class DecompressedStream:
    """A Python file over a decompressing stream of Arrow.

    Args:
        stream: Yields decompressed bytes.
        maximum: How many bytes may come.
        error: Is raised when more come.
    """

    def __init__(
        self,
        stream: pa.NativeFile,
        maximum: int,
        error: OverLimitError,
    ) -> None:
        self._stream, self._remaining = stream, maximum
        self._error: ValueError = error

    @property
    def closed(self) -> bool:
        """Return whether nothing more can be read."""
        return bool(self._stream.closed)

    def readable(self) -> bool:
        """Return true, as Arrow expects of a file."""
        return True

    def read(self, n_bytes: int = -1) -> bytes:
        """Return at most that many bytes; all remaining ones by default.

        Raises:
            OverLimitError: More bytes came than may come.
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
        self._remaining -= len(piece)
        # Checked after each piece, so that a bomb costs one piece more than the limit.
        if self._remaining < 0:
            # Raised once and not kept: its frames keep the parser, which keeps this stream.
            error, self._error = self._error, ValueError("read on beyond the limit")
            raise error
        return piece
