"""PostgreSQL's binary COPY format to Arrow, for the types that nightly tables have; every double keeps its bits.

A row is its number of fields, and of each field its length (-1 for null) and its bytes, the highest
first. Source: PostgreSQL's documentation of COPY, "Binary Format"; docs/adr/0031-binary-rows.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_SECONDS_BEFORE_2000, _DAYS_BEFORE_2000 = 946_684_800, 10_957
_MICROSECONDS = 1_000_000
_NO_MORE, _WORD = 0xFFFF, 8

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
"""Arrow's type and the bytes of a value, 0 for texts, of each of PostgreSQL's that is read."""


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
        self._types = [TYPES[kind][0] for kind in columns.values()]
        widths = [TYPES[kind][1] for kind in columns.values()]
        self._widths = np.array(widths, np.int64)
        self._places = _places(widths)
        self._split, self._gather = jit(split_rows), jit(gather_texts)
        self.read(np.frombuffer(TRAILER, np.uint8), 0)

    def read(self, data: Bytes, most_rows: int) -> pa.RecordBatch:
        """Return the rows of some bytes, which hold whole rows; header and trailer may be among them.

        Args:
            data: What the server has sent.
            most_rows: At least the number of rows.

        Raises:
            UnreadableRowsError: They are no such rows.
        """
        start = len(HEADER) if data[: len(HEADER)].tobytes() == HEADER else 0
        n_texts = int((self._widths == 0).sum())
        fixed = np.empty((len(self._widths) - n_texts, most_rows), np.int64)
        begins = np.empty((n_texts, most_rows), np.int64)
        ends = np.zeros((n_texts, most_rows + 1), np.int32)
        is_null = np.empty((len(self._widths), most_rows), np.bool_)
        n_rows = self._split(data, start, self._widths, self._places, fixed, begins, ends, is_null)
        if n_rows < 0:
            raise UnreadableRowsError(
                f"{len(data)} bytes are no rows of {len(self._widths)} columns"
            )
        columns = []
        for column, (kind, width, place) in enumerate(
            zip(self._types, self._widths, self._places, strict=True)
        ):
            absent = is_null[column, :n_rows]
            if width:
                buffers = [_validity(absent), pa.py_buffer(_from_wire(fixed[place, :n_rows], kind))]
            else:
                text = np.empty(int(ends[place, n_rows]), np.uint8)
                self._gather(data, begins[place], ends[place], n_rows, text)
                buffers = [
                    _validity(absent),
                    pa.py_buffer(ends[place, : n_rows + 1]),
                    pa.py_buffer(text),
                ]
            columns.append(pa.Array.from_buffers(kind, n_rows, buffers))
        return pa.RecordBatch.from_arrays(columns, self._names)


def is_readable(kinds: Sequence[str]) -> bool:
    """Return whether ``RowReader`` knows all these types."""
    return all(kind in TYPES for kind in kinds)


def _places(widths: Sequence[int]) -> Integers:
    """Return each column's place among those of a fixed width, or among the texts."""
    return np.array(
        [
            sum(bool(other) == bool(width) for other in widths[:column])
            for column, width in enumerate(widths)
        ],
        np.int64,
    )


def _validity(is_null: npt.NDArray[np.bool_]) -> pa.Buffer | None:
    return pa.py_buffer(np.packbits(~is_null, bitorder="little")) if is_null.any() else None


def _from_wire(values: Integers, kind: pa.DataType) -> npt.NDArray[Any]:
    """Return the buffer of a column from its values as signed numbers, shape (n,)."""
    if kind == pa.bool_():
        return np.packbits(values.astype(np.bool_), bitorder="little")
    if kind == pa.date32():
        return (values + _DAYS_BEFORE_2000).astype(np.int32)
    if pa.types.is_timestamp(kind):
        shift = _SECONDS_BEFORE_2000 * _MICROSECONDS
        # The greatest and the least number stand for infinity.
        if len(values) and (
            values.max() > np.iinfo(np.int64).max - shift or values.min() == np.iinfo(np.int64).min
        ):
            raise UnreadableRowsError("a time is infinite")
        return values + shift
    return values.astype(f"i{kind.byte_width}", copy=False)


def split_rows(  # noqa: C901, PLR0912, PLR0913, PLR0917  (plain arrays are what numba makes fast)
    data: Bytes,
    start: int,
    widths: Integers,
    places: Integers,
    fixed: Integers,
    begins: Integers,
    ends: npt.NDArray[np.int32],
    is_null: npt.NDArray[np.bool_],
) -> int:
    """Write where the texts of each row are, and its values of fixed width as signed numbers.

    Args:
        data: Whole rows.
        start: Where the first one begins.
        widths: Bytes of each column's values, 0 for texts.
        places: Each column's place among those of a fixed width, or among the texts.
        fixed: Receives the values, shape (fixed columns, most rows).
        begins: Receives where each text begins in ``data``, shape (texts, most rows).
        ends: Receives where each text ends when they are put together, shape (texts, most rows +
            1), zeros in the first place.
        is_null: Receives what is null, shape (columns, most rows).

    Returns:
        Number of rows; -1 where the bytes are no such rows.
    """
    n_columns, n_bytes, most_rows = len(widths), len(data), is_null.shape[1]
    at, row = np.int64(start), 0
    while at < n_bytes:
        if at + 2 > n_bytes:
            return -1
        n_fields = (np.int64(data[at]) << 8) | np.int64(data[at + 1])
        at += 2
        if n_fields == _NO_MORE:
            return row if at == n_bytes else -1
        if n_fields != n_columns or row == most_rows:
            return -1
        for column in range(n_columns):
            if at + 4 > n_bytes:
                return -1
            i = np.uint64(at)
            length = np.int64(
                np.int32(
                    (np.uint32(data[i]) << np.uint32(24))
                    | (np.uint32(data[i + np.uint64(1)]) << np.uint32(16))
                    | (np.uint32(data[i + np.uint64(2)]) << np.uint32(8))
                    | np.uint32(data[i + np.uint64(3)])
                )
            )
            at += 4
            width, place = widths[column], places[column]
            is_null[column, row] = length < 0
            if length < 0:
                length = np.int64(0)
            if at + length > n_bytes:
                return -1
            if width == 0:
                begins[place, row] = at
                ends[place, row + 1] = ends[place, row] + length
            elif is_null[column, row]:
                fixed[place, row] = 0
            elif length != width:
                return -1
            elif width == _WORD:
                i = np.uint64(at)
                fixed[place, row] = np.int64(
                    (np.uint64(data[i]) << np.uint64(56))
                    | (np.uint64(data[i + np.uint64(1)]) << np.uint64(48))
                    | (np.uint64(data[i + np.uint64(2)]) << np.uint64(40))
                    | (np.uint64(data[i + np.uint64(3)]) << np.uint64(32))
                    | (np.uint64(data[i + np.uint64(4)]) << np.uint64(24))
                    | (np.uint64(data[i + np.uint64(5)]) << np.uint64(16))
                    | (np.uint64(data[i + np.uint64(6)]) << np.uint64(8))
                    | np.uint64(data[i + np.uint64(7)])
                )
            else:
                fixed[place, row] = np.int8(data[at])  # whose sign is the number's
                for place_of_byte in range(1, width):
                    fixed[place, row] = (fixed[place, row] << np.int64(8)) | np.int64(
                        data[at + place_of_byte]
                    )
            at += length
        row += 1
    return row


def gather_texts(
    data: Bytes, begins: Integers, ends: npt.NDArray[np.int32], n_rows: int, text: Bytes
) -> None:
    """Put the texts of one column together.

    Args:
        data: What they are parts of.
        begins: Where each begins there, shape (n,).
        ends: Where each ends when they are together, shape (n + 1,).
        n_rows: Their number.
        text: Receives them.
    """
    for row in range(n_rows):
        at, shift = ends[row], begins[row] - ends[row]
        while at < ends[row + 1]:
            text[at] = data[at + shift]
            at += 1
