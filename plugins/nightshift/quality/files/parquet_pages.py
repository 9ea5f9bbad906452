"""Measure the unpacked size of a Parquet file's pages by their heads; its footer is not trusted.

Arrow allocates what a page's head claims and unpacks into it, so a page of one kilobyte may take
two gigabytes. The head is a Thrift structure in the compact protocol; only its first fields are
needed. Source: https://github.com/apache/parquet-format (PageHeader), Thrift compact protocol.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

MAX_PAGES = 1_000_000
_MAX_HEAD_BYTES = 64 * 1024
_MAX_DEPTH = 8
"""Statistics within a data page's head lie two deep."""
_UNPACKED_FIELD, _PACKED_FIELD = 2, 3
_STOP, _I16, _I64 = 0, 4, 6
"""Types of the compact protocol: the end of a structure, the shortest and the longest integer."""


class BrokenPageError(ValueError):
    """A page does not begin with a page's head."""


def unpacked_bytes(
    source: bytes | Path, metadata: pa.parquet.FileMetaData, columns: set[str]
) -> tuple[int, int]:
    """Return the unpacked bytes of some columns' pages: their sum, and the largest page.

    Args:
        source: The file, or its bytes.
        metadata: Its footer.
        columns: Names of the columns that are to be read.

    Raises:
        BrokenPageError: The pages are not where the footer says.
    """
    total = largest = n_pages = 0
    for start, n_bytes in _chunks(metadata, columns):
        for size in _page_sizes(_slice(source, start, n_bytes)):
            n_pages += 1
            total += size
            largest = max(largest, size)
            if n_pages > MAX_PAGES:
                raise BrokenPageError(f"more than {MAX_PAGES} pages")
    return total, largest


def _chunks(metadata: pa.parquet.FileMetaData, columns: set[str]) -> Iterator[tuple[int, int]]:
    """Yield position and length of each column chunk that is to be read."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            if chunk.path_in_schema in columns:
                starts = [chunk.data_page_offset, chunk.dictionary_page_offset]
                yield min(start for start in starts if start), chunk.total_compressed_size


def _slice(source: bytes | Path, start: int, n_bytes: int) -> memoryview:
    if start < 0 or n_bytes < 0:
        raise BrokenPageError("a column lies outside of the file")
    if isinstance(source, bytes):
        return memoryview(source)[start : start + n_bytes]
    with source.open("rb") as file:
        file.seek(start)
        return memoryview(file.read(n_bytes))


def _page_sizes(chunk: memoryview) -> Iterator[int]:
    """Yield the unpacked size of each page of a column chunk."""
    position = 0
    while position < len(chunk):
        head = _HeadReader(chunk[position : position + _MAX_HEAD_BYTES])
        sizes = head.read_sizes()
        if sizes.keys() != {_UNPACKED_FIELD, _PACKED_FIELD} or min(sizes.values()) < 0:
            raise BrokenPageError("a page has no size")
        yield sizes[_UNPACKED_FIELD]
        position += head.position + sizes[_PACKED_FIELD]


class _HeadReader:
    """Reads one structure of the compact protocol.

    Attributes:
        position: Where the next byte is read.
    """

    def __init__(self, data: memoryview) -> None:
        self._data, self.position = data, 0

    def read_sizes(self) -> dict[int, int]:
        """Return the two sizes; the position is then after the structure."""
        sizes = {}
        for field, field_type in self._fields():
            if field in {_UNPACKED_FIELD, _PACKED_FIELD} and _I16 <= field_type <= _I64:
                sizes[field] = self._integer()
            else:
                self._skip(field_type, 0)
        return sizes

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while (head := self._byte()) != _STOP:
            # A head holds the difference to the field before, or is followed by the field's number.
            step = head >> 4
            field = field + step if step else self._integer()
            yield field, head & 15

    def _skip(self, value_type: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise BrokenPageError("a page's head is nested too deeply")
        match value_type:
            case 1 | 2:  # truth values lie in the head
                pass
            case 3:  # a byte
                self.position += 1
            case 4 | 5 | 6:  # integers
                self._integer()
            case 7:  # a double
                self.position += 8
            case 8:  # bytes
                length = self._unsigned()
                self.position += length
            case 9 | 10:  # a list or a set
                self._skip_list(depth)
            case 12:  # a structure
                for _, field_type in self._fields():
                    self._skip(field_type, depth + 1)
            case _:
                raise BrokenPageError("a page's head has an unknown type")

    def _skip_list(self, depth: int) -> None:
        head = self._byte()
        n_items = head >> 4
        if n_items == 15:  # noqa: PLR2004  (a longer list has its length after the head)
            n_items = self._unsigned()
        if n_items > _MAX_HEAD_BYTES:
            raise BrokenPageError("a page's head has too many values")
        for _ in range(n_items):
            self._skip(head & 15, depth + 1)

    def _byte(self) -> int:
        if self.position >= len(self._data):
            raise BrokenPageError("a page's head is cut off")
        self.position += 1
        return self._data[self.position - 1]

    def _unsigned(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if not byte & 128:
                return number
        raise BrokenPageError("a number of a page's head does not end")

    def _integer(self) -> int:
        # Signed numbers are stored as 0, -1, 1, -2, …
        number = self._unsigned()
        return (number >> 1) ^ -(number & 1)
