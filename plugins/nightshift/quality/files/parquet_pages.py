"""How much the pages of a Parquet file unpack to, by the head of each page: a footer may say anything.

Arrow allocates what a page's head says and unpacks into it, so a page of one kilobyte may ask for
two gigabytes. The head is a Thrift structure in the compact protocol; only its first fields are
needed. Source: https://github.com/apache/parquet-format (PageHeader), Thrift compact protocol.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

MOST_PAGES = 1_000_000
_MOST_HEAD_BYTES = 64 * 1024
_UNPACKED, _PACKED = 2, 3
_I16, _I64, _STOP = 4, 6, 0


class BrokenPageError(ValueError):
    """A page does not begin with a page's head."""


def unpacked_bytes(
    source: bytes | Path, metadata: pa.parquet.FileMetaData, columns: set[str]
) -> tuple[int, int]:
    """Return the bytes that the pages of some columns unpack to, all together and the largest one.

    Args:
        source: The file, or its bytes.
        metadata: Its footer.
        columns: Names of the columns that are to be read.

    Raises:
        BrokenPageError: The pages are not where the footer says.
    """
    data = memoryview(source) if isinstance(source, bytes) else None
    total = largest = n_pages = 0
    for start, n_bytes in _chunks(metadata, columns):
        for size in _pages(_slice(source, data, start, n_bytes)):
            n_pages += 1
            total, largest = total + size, max(largest, size)
            if n_pages > MOST_PAGES:
                raise BrokenPageError(f"more than {MOST_PAGES} pages")
    return total, largest


def _chunks(metadata: pa.parquet.FileMetaData, columns: set[str]) -> Iterator[tuple[int, int]]:
    """Yield place and length of each column chunk that is to be read."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            if chunk.path_in_schema in columns:
                starts = [chunk.data_page_offset, chunk.dictionary_page_offset]
                yield min(start for start in starts if start), chunk.total_compressed_size


def _slice(source: bytes | Path, data: memoryview | None, start: int, n_bytes: int) -> memoryview:
    if start < 0 or n_bytes < 0:
        raise BrokenPageError("a column lies outside of the file")
    if data is not None:
        return data[start : start + n_bytes]
    with Path(str(source)).open("rb") as file:
        file.seek(start)
        return memoryview(file.read(n_bytes))


def _pages(chunk: memoryview) -> Iterator[int]:
    """Yield the unpacked size of each page of a column chunk."""
    place = 0
    while place < len(chunk):
        head = _Head(chunk[place : place + _MOST_HEAD_BYTES])
        sizes = head.sizes()
        if sizes.keys() != {_UNPACKED, _PACKED} or min(sizes.values()) < 0:
            raise BrokenPageError("a page has no size")
        yield sizes[_UNPACKED]
        place += head.place + sizes[_PACKED]


class _Head:
    """Reads one structure of the compact protocol.

    Attributes:
        place: Where the next byte is read.
    """

    def __init__(self, data: memoryview) -> None:
        self._data, self.place = data, 0

    def sizes(self) -> dict[int, int]:
        """Return the two sizes, and leave the place behind the structure."""
        found = {}
        for field, of_type in self._fields():
            if field in {_UNPACKED, _PACKED} and _I16 <= of_type <= _I64:
                found[field] = self._integer()
            else:
                self._skip(of_type, 0)
        return found

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._integer()
            yield field, head & 15

    def _skip(self, of_type: int, depth: int) -> None:
        if depth > 8:  # noqa: PLR2004  (statistics within a data page's head lie two deep)
            raise BrokenPageError("a page's head is nested too deeply")
        if of_type == 3:  # noqa: PLR2004  (a byte; 1 and 2 are truth values, which lie in the head)
            self.place += 1
        elif _I16 <= of_type <= _I64:
            self._integer()
        elif of_type == 7:  # noqa: PLR2004  (a double)
            self.place += 8
        elif of_type == 8:  # noqa: PLR2004  (bytes)
            length = self._unsigned()
            self.place += length
        elif of_type in {9, 10}:
            self._skip_list(depth)
        elif of_type == 12:  # noqa: PLR2004  (a structure)
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        elif of_type not in {1, 2}:
            raise BrokenPageError("a page's head has an unknown type")

    def _skip_list(self, depth: int) -> None:
        head = self._byte()
        n_items = head >> 4 if head >> 4 != 15 else self._unsigned()  # noqa: PLR2004
        if n_items > _MOST_HEAD_BYTES:
            raise BrokenPageError("a page's head has too many values")
        for _ in range(n_items):
            self._skip(head & 15, depth + 1)

    def _byte(self) -> int:
        if self.place >= len(self._data):
            raise BrokenPageError("a page's head is cut off")
        self.place += 1
        return self._data[self.place - 1]

    def _unsigned(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:  # noqa: PLR2004
                return number
            if shift > 63:  # noqa: PLR2004
                raise BrokenPageError("a number of a page's head does not end")

    def _integer(self) -> int:
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)
