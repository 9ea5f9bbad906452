"""Binary rows: what the server sends is read in every bit; bytes that are no rows are refused."""

from __future__ import annotations

import datetime as dt
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightshift.warehouse.fast_io.binary_rows import (
    HEADER,
    TRAILER,
    TYPES,
    RowReader,
    UnreadableRowsError,
)

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
    return pa.table(
        {
            name: pa.array(values, TYPES[kind][0])
            for (name, kind), values in zip(COLUMNS.items(), columns, strict=True)
        }
    )


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _field(kind: str, value: object) -> bytes:
    """Return a value as PostgreSQL's documentation has it."""
    if value is None:
        return struct.pack(">i", -1)
    match value:
        case str():
            data = value.encode()
        case dt.datetime():
            since = value.replace(tzinfo=dt.UTC) - dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
            data = struct.pack(">q", since // dt.timedelta(microseconds=1))
        case dt.date():
            data = struct.pack(">i", (value - dt.date(2000, 1, 1)).days)
        case _:
            data = struct.pack(
                ">"
                + {
                    "bool": "?",
                    "int2": "h",
                    "int4": "i",
                    "int8": "q",
                    "float4": "f",
                    "float8": "d",
                }[kind],
                value,
            )
    return struct.pack(">i", len(data)) + data


def _rows(columns: dict[str, str], rows: list[tuple[object, ...]]) -> bytes:
    return b"".join(
        struct.pack(">h", len(columns))
        + b"".join(_field(kind, value) for kind, value in zip(columns.values(), row, strict=True))
        for row in rows
    )


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_the_rows_are_those_that_the_bytes_are(rows):
    read = RowReader(COLUMNS).read(_bytes(HEADER + _rows(COLUMNS, rows) + TRAILER), len(rows))

    assert pa.Table.from_batches([read]).equals(_table(rows))


def test_doubles_keep_their_bits():
    bits = [0, 1 << 63, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8000000000123, 1]
    read = RowReader({"x": "float8"}).read(
        _bytes(b"".join(struct.pack(">hiQ", 1, 8, n) for n in bits)), len(bits)
    )

    assert read.column("x").to_numpy().tobytes() == np.array(bits, np.uint64).tobytes()


GOOD = _rows({"n": "int4", "t": "text"}, [(7, "abc")])


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
