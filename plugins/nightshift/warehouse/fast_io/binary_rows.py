"""Parse PostgreSQL's binary COPY format to Arrow, for the types that the tables have.

Every double keeps its bits.

A row is its number of fields, and of each field its length (-1 for null) and its bytes, the most
significant first. Source: PostgreSQL's documentation of COPY, "Binary Format";
docs/adr/0025-large-loads.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightshift.kernels import jit

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Integers = npt.NDArray[np.int64]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_DAYS_BEFORE_2000 = 10_957
_MICROSECONDS_BEFORE_2000 = 946_684_800 * 1_000_000
_TRAILER_FIELDS, _WORD_BYTES = 0xFFFF, 8

TYPES: dict[str, tuple[pa.DataType, int]] = {
    "bool": (pa.bool_(), 1),
    "int2": (pa.int16(), 2),
    "int4": (pa.int32(), 4),
    "int8": (pa.int64(), 8),
    "float4": (pa.float32(), 4),
    "float8": (pa.float64(), 8),
    "date": (pa.date32(), 4),
    "timestamp": (pa.timestamp("us"), 8),
    "timestamptz": (pa.timestamp("us", "UTC"), 8),
    "text": (pa.string(), 0),
    "varchar": (pa.string(), 0),
    "bpchar": (pa.string(), 0),
}
"""By type of PostgreSQL: Arrow's type, and the bytes of a value, 0 for strings."""


class UnreadableRowsError(ValueError):
    """The bytes are not rows of these columns."""


class RowReader:
    """Turns the data of one COPY into record batches.

    Args:
        columns: PostgreSQL's type of each column, by name, in order; all of ``TYPES``.

    Raises:
        Exception: What keeps numba from compiling; it comes here, not in a stream.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._names = list(columns)
        self._types = [TYPES[type_name][0] for type_name in columns.values()]
        self._widths = np.array([TYPES[type_name][1] for type_name in columns.values()], np.int64)
        # Values of a fixed width and strings go to two arrays: each column has an index in one.
        is_string = self._widths == 0
        self._indices = np.where(is_string, is_string.cumsum(), (~is_string).cumsum()) - 1
        self._split, self._gather = jit(split_rows), jit(gather_strings)
        # The first call compiles.
        self.read(np.frombuffer(TRAILER, np.uint8), 0)

    def read(self, data: Bytes, max_rows: int) -> pa.RecordBatch:
        """Return the rows of a batch of bytes.

        Args:
            data: Full rows as the server sent them; header and trailer may be among them.
            max_rows: At least the number of rows.

        Raises:
            UnreadableRowsError: They are no rows of these columns.
        """
        start = len(HEADER) if data[: len(HEADER)].tobytes() == HEADER else 0
        n_columns, n_strings = len(self._widths), int((self._widths == 0).sum())
        fixed = np.empty((n_columns - n_strings, max_rows), np.int64)
        begins = np.empty((n_strings, max_rows), np.int64)
        ends = np.zeros((n_strings, max_rows + 1), np.int32)
        is_null = np.empty((n_columns, max_rows), np.bool_)
        layout = (self._widths, self._indices)
        n_rows = self._split(data, start, *layout, fixed, begins, ends, is_null)
        if n_rows < 0:
            raise UnreadableRowsError(f"{len(data)} bytes are no rows of {n_columns} columns")

        columns = []
        for column, (arrow_type, width, index) in enumerate(zip(self._types, *layout, strict=True)):
            buffers = [_validity(is_null[column, :n_rows])]
            if width:
                buffers.append(pa.py_buffer(_from_wire(fixed[index, :n_rows], arrow_type)))
            else:
                string = np.empty(int(ends[index, n_rows]), np.uint8)
                self._gather(data, begins[index], ends[index], n_rows, string)
                buffers += [pa.py_buffer(ends[index, : n_rows + 1]), pa.py_buffer(string)]
            columns.append(pa.Array.from_buffers(arrow_type, n_rows, buffers))
        return pa.RecordBatch.from_arrays(columns, self._names)


def _validity(is_null: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(~is_null, bitorder="little")) if is_null.any() else None


def _from_wire(values: Integers, arrow_type: pa.DataType) -> npt.NDArray[Any]:
    """Return the buffer of a column from its values as signed numbers, shape (n,)."""
    if arrow_type == pa.bool_():
        return np.packbits(values.astype(np.bool_), bitorder="little")
    if arrow_type == pa.date32():
        return (values + _DAYS_BEFORE_2000).astype(np.int32)
    if pa.types.is_timestamp(arrow_type):
        # The greatest and the least number stand for infinity.
        limits = np.iinfo(np.int64)
        is_infinite = (values > limits.max - _MICROSECONDS_BEFORE_2000) | (values == limits.min)
        if is_infinite.any():
            raise UnreadableRowsError("a time is infinite")
        return values + _MICROSECONDS_BEFORE_2000
    return values.astype(f"i{arrow_type.byte_width}", copy=False)


def split_rows(  # noqa: C901, PLR0912, PLR0913, PLR0917  (plain arrays are what numba makes fast)
    data: Bytes,
    start: int,
    widths: Integers,
    indices: Integers,
    fixed: Integers,
    begins: Integers,
    ends: npt.NDArray[np.int32],
    is_null: npt.NDArray[np.bool_],
) -> int:
    """Find the strings of each row, and its values of fixed width as signed numbers.

    Args:
        data: Full rows.
        start: Where the first one begins.
        widths: Bytes of each column's values, 0 for strings.
        indices: Each column's index among those of a fixed width, or among the strings.
        fixed: Receives the values, shape (fixed columns, maximum rows).
        begins: Receives where each string begins in ``data``, shape (strings, maximum rows).
        ends: Receives where each string ends when they are put together, shape (strings, maximum
            rows + 1), zeros in the first column.
        is_null: Receives what is null, shape (columns, maximum rows).

    Returns:
        Number of rows; -1 where the bytes are no such rows.
    """
    n_columns, n_bytes, max_rows = len(widths), len(data), is_null.shape[1]
    at, row = np.int64(start), 0
    while at < n_bytes:
        if at + 2 > n_bytes:
            return -1
        n_fields = (np.int64(data[at]) << 8) | np.int64(data[at + 1])
        at += 2
        if n_fields == _TRAILER_FIELDS:
            return row if at == n_bytes else -1
        if n_fields != n_columns or row == max_rows:
            return -1
        for column in range(n_columns):
            if at + 4 > n_bytes:
                return -1
            # Loops of a constant length over an unsigned position: the compiler makes one load of
            # them. A signed position could be negative, and Python then counts from the end.
            position, bits = np.uint64(at), np.uint32(0)
            for _ in range(4):
                bits = (bits << np.uint32(8)) | np.uint32(data[position])
                position += np.uint64(1)
            length = np.int64(np.int32(bits))
            at += 4
            width, index = widths[column], indices[column]
            is_null[column, row] = length < 0
            length = max(length, np.int64(0))
            if at + length > n_bytes:
                return -1
            if width == 0:
                begins[index, row] = at
                ends[index, row + 1] = ends[index, row] + length
            elif is_null[column, row]:
                fixed[index, row] = 0
            elif length != width:
                return -1
            elif width == _WORD_BYTES:
                word = np.uint64(0)
                for _ in range(_WORD_BYTES):
                    word = (word << np.uint64(8)) | np.uint64(data[position])
                    position += np.uint64(1)
                fixed[index, row] = np.int64(word)
            else:
                value = np.int64(np.int8(data[at]))  # the first byte has the number's sign
                for _ in range(1, width):
                    position += np.uint64(1)
                    value = (value << np.int64(8)) | np.int64(data[position])
                fixed[index, row] = value
            at += length
        row += 1
    return row


def gather_strings(
    data: Bytes, begins: Integers, ends: npt.NDArray[np.int32], n_rows: int, out: Bytes
) -> None:
    """Put the strings of one column together.

    Args:
        data: The bytes that they are parts of.
        begins: Where each begins there, shape (n,).
        ends: Where each ends when they are together, shape (n + 1,).
        n_rows: Their number.
        out: Receives them.
    """
    for row in range(n_rows):
        at, shift = ends[row], begins[row] - ends[row]
        while at < ends[row + 1]:
            out[at] = data[at + shift]
            at += 1
