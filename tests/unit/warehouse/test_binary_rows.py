"""Binary rows: what is written is read again in every bit, and bytes that are no rows are refused."""

from __future__ import annotations

import datetime as dt
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightshift.warehouse.binary_rows import HEADER, TRAILER, TYPES, RowReader, RowWriter, UnreadableRowsError

COLUMNS = {f"a {kind}": kind for kind in TYPES}
_DAYS = st.dates(dt.date(1900, 1, 1), dt.date(2200, 1, 1))
_TIMES = st.builds(dt.datetime.combine, _DAYS, st.times())
_TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_VALUES = {
    "bool": st.booleans(),
    "int2": st.integers(-(2**15), 2**15 - 1),
    "int4": st.integers(-(2**31), 2**31 - 1),
    "int8": st.integers(-(2**63), 2**63 - 1),
    "float4": st.floats(width=32, allow_nan=False),
    "float8": st.floats(allow_nan=False),
    "date": _DAYS,
    "timestamp": _TIMES,
    "timestamptz": _TIMES.map(lambda time: time.replace(tzinfo=dt.UTC)),
    "text": _TEXTS,
    "varchar": _TEXTS,
    "bpchar": _TEXTS,
}
ROWS = st.lists(st.tuples(*(st.none() | _VALUES[kind] for kind in TYPES)), max_size=12)


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(TYPES)
    return pa.table({name: pa.array(values, TYPES[kind][0]) for (name, kind), values in zip(COLUMNS.items(), columns, strict=True)})


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, start=st.integers(0, 5))
def test_what_was_written_is_read_again(rows, start):
    table = _table(rows).slice(start)
    written = RowWriter(COLUMNS).write(table).tobytes()

    assert pa.Table.from_batches([RowReader(COLUMNS).read(_bytes(HEADER + written + TRAILER), len(rows))]).equals(table)


def test_the_bytes_are_those_of_the_documentation():
    row = pa.table({"n": pa.array([-2, None], pa.int16()), "x": [1.5, None], "t": pa.array(["é", None]), "j": ["[]", "{}"]})
    written = RowWriter({"n": "int2", "x": "float8", "t": "text", "j": "jsonb"}).write(row).tobytes()
    first = struct.pack(">hihidi2si3s", 4, 2, -2, 8, 1.5, 2, "é".encode(), 3, b"\x01[]")

    assert written == first + struct.pack(">hiiii3s", 4, -1, -1, -1, 3, b"\x01{}")


def test_doubles_keep_their_bits():
    bits = np.array([0, 1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8000000000123, 1], np.uint64)
    table = pa.table({"x": pa.array(bits.view(np.float64))})
    read = RowReader({"x": "float8"}).read(RowWriter({"x": "float8"}).write(table), len(bits))

    assert read.column("x").to_numpy().tobytes() == bits.tobytes()


GOOD = RowWriter({"n": "int4", "t": "text"}).write(pa.table({"n": pa.array([7], pa.int32()), "t": ["abc"]})).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        *(pytest.param(GOOD[:n], id=f"{n} of {len(GOOD)} bytes") for n in range(1, len(GOOD))),
        pytest.param(b"\x00\x03" + GOOD[2:], id="another number of fields"),
        pytest.param(GOOD[:5] + b"\x05" + GOOD[6:], id="another width"),
        pytest.param(TRAILER + GOOD, id="rows behind the end"),
        pytest.param(GOOD + GOOD, id="more rows than were said"),
    ],
)
def test_bytes_that_are_no_rows_are_refused(data):
    with pytest.raises(UnreadableRowsError):
        RowReader({"n": "int4", "t": "text"}).read(_bytes(data), 1)


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63)])
def test_an_infinite_time_is_refused(value):
    with pytest.raises(UnreadableRowsError, match="infinite"):
        RowReader({"t": "timestamptz"}).read(_bytes(struct.pack(">hiq", 1, 8, value)), 1)
