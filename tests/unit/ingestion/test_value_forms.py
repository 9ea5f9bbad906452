"""docs/values.md holds: each spelling means what the page says, the same in CSV and in Parquet."""

import csv
import datetime as dt
import io
import re
from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256

import pyarrow as pa
import pytest
from pyarrow import parquet

from nightshift.contracts.datasets import DatasetContract
from nightshift.ingestion.rows.row_check import check_rows
from nightshift.lake.drops import DropManifest
from nightshift.quality.contract_check import check_file
from nightshift.settings import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "docs" / "values.md").read_text()
SPELLINGS = re.findall(r"^\| (\w+) \| `(.+?)` \| (.+?) \|$", PAGE, re.MULTILINE)
ARROW = re.findall(r"^\| (\w+) \| (\S.*?) \| (.+?) \| `(.+?)` \|$", PAGE, re.MULTILINE)


def contract(column_types: Sequence[str]) -> DatasetContract:
    values = [
        {"name": f"v{place}", "type": column_type, "is_nullable": True}
        for place, column_type in enumerate(column_types)
    ]
    return DatasetContract(
        name="values",
        description="d",
        schema_version=1,
        timezone="America/New_York",
        delivery="daily",
        history_start="2013-01-01",
        grain="g",
        key=("id",),
        columns=({"name": "id", "type": "text"}, *values),
        maximum_refused_ratio=1.0,
        minimum_rows=0,
    )


def read(column_types: Sequence[str], data: bytes, suffix: str) -> list[str]:
    """Return how each value of a file is read, in the words of the page.

    Row *i* has a value in column *i* only: each value is alone in its column, and alone decides
    whether its row is refused. One file for all, since each Parquet file is read by a process of
    its own.
    """
    drop = DropManifest(
        dataset="values",
        partition="2013-09-05",
        delivered_at=dt.datetime(2013, 9, 6, 4, tzinfo=dt.UTC),
        data_key=f"landing/values/dt=2013-09-05/a{suffix}",
        sha256=sha256(data).hexdigest(),
        n_rows=len(column_types),
        schema_version=1,
    )
    agreed = contract(column_types)
    rows = check_rows(agreed, [drop], [check_file(agreed, drop, data)])
    meanings = {
        number: str(rows.values.column(f"v{number - 1}")[at].as_py())
        for at, number in enumerate(rows.row_numbers.tolist())
    }
    for row in rows.refused[0]:
        is_plain = row.reason == "wrong_type"
        meanings[row.row_number] = "refused" if is_plain else f"refused: {row.reason}"
    return [meanings[number] for number in range(1, len(column_types) + 1)]


def as_csv(texts: Sequence[str]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["id", *(f"v{place}" for place in range(len(texts)))])
    for place, text in enumerate(texts):
        writer.writerow([place, *[""] * place, text, *[""] * (len(texts) - place - 1)])
    return sink.getvalue().encode()


def as_parquet(arrays: Sequence[pa.Array], *, is_int96: bool = False) -> bytes:
    """Write arrays of one value each, times as Spark and Impala write them if asked."""
    columns = {"id": [str(place) for place in range(len(arrays))]}
    for place, value in enumerate(arrays):
        before, after = pa.nulls(place, value.type), pa.nulls(len(arrays) - place - 1, value.type)
        columns[f"v{place}"] = pa.chunked_array([before, value, after])
    sink = io.BytesIO()
    options = {"use_deprecated_int96_timestamps": True} if is_int96 else {"version": "2.6"}
    parquet.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def test_the_page_has_spellings_of_all_types_but_text():
    assert {column_type for column_type, *_ in SPELLINGS} == {
        "integer", "number", "boolean", "date", "utc_timestamp", "local_timestamp",
    }  # fmt: skip
    assert len(SPELLINGS) > 60
    assert len(ARROW) == 25


@pytest.fixture(scope="module")
def spellings() -> dict[str, list[str]]:
    """Return how each spelling of the page is read, by format."""
    column_types, texts = [case[0] for case in SPELLINGS], [case[1] for case in SPELLINGS]
    return {
        "csv": read(column_types, as_csv(texts), ".csv"),
        "parquet": read(column_types, as_parquet([pa.array([t]) for t in texts]), ".parquet"),
    }


@pytest.mark.parametrize("place", range(len(SPELLINGS)), ids=[f"{c}-{t}" for c, t, _ in SPELLINGS])
def test_a_spelling_means_the_same_in_both_formats(spellings, place):
    meaning = SPELLINGS[place][2]
    assert spellings["csv"][place] == meaning
    assert spellings["parquet"][place] == meaning


def array(arrow_type: str, value: str) -> pa.Array:
    """Return one value of the type that the page names."""
    if arrow_type.startswith("dictionary"):
        return pa.array([int(value) if "int64" in arrow_type else value]).dictionary_encode()
    if arrow_type.startswith("decimal"):
        return pa.array([Decimal(value)], pa.decimal128(10, 2))
    if arrow_type.startswith("timestamp"):
        unit, _, zone = arrow_type[10:-1].partition(", tz=")
        if value.startswith("10000"):  # 8,029 years of seconds: Python has no such time
            return pa.array([253402300800], pa.timestamp(unit))
        text = pa.array([value])
        return (
            text.cast(pa.timestamp(unit, "UTC")).cast(pa.timestamp(unit, zone))
            if zone
            else text.cast(pa.timestamp(unit))
        )
    if arrow_type in ("float", "double"):
        return pa.array([float(value)], pa.float32() if arrow_type == "float" else pa.float64())
    return pa.array([value]).cast(pa.type_for_alias(arrow_type))


@pytest.fixture(scope="module")
def typed_and_as_text() -> tuple[list[str], list[str]]:
    """Return how each typed value of the page is read, and how its text is."""
    column_types = [case[0] for case in ARROW]
    arrays = [array(arrow_type, value) for _, arrow_type, value, _ in ARROW]
    return (
        read(column_types, as_parquet(arrays), ".parquet"),
        read(column_types, as_csv([text for *_, text in ARROW]), ".csv"),
    )


@pytest.mark.parametrize("place", range(len(ARROW)), ids=[f"{c}-{a}" for c, a, *_ in ARROW])
def test_a_typed_parquet_value_means_what_its_text_means(typed_and_as_text, place):
    typed, as_text = typed_and_as_text
    assert typed[place] == as_text[place]


def test_an_int96_time_of_any_year_is_read_and_never_wrapped_around():
    """Nanoseconds of 64 bits end in 2262: Spark's `9999-12-31` has been read as a day of 1816."""
    days = ["9999-12-31", "2262-04-12", "1582-10-15", "0001-01-01", "2013-09-05"]
    arrays = [pa.array([day]).cast(pa.timestamp("us")) for day in days]

    meanings = read(["utc_timestamp"] * len(days), as_parquet(arrays, is_int96=True), ".parquet")

    assert meanings == [f"{day} 00:00:00+00:00" for day in days]


def test_a_zone_whose_offset_has_seconds_moves_no_instant():
    """Local mean time: New York was 4:56:02 behind until 1883, Monrovia 44:30 until 1972."""
    instants = [
        ("America/New_York", "1811-07-23 15:06:40"),
        ("Africa/Monrovia", "1971-05-05 12:00:00"),
    ]
    arrays = [
        pa.array([f"{at}Z"]).cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone))
        for zone, at in instants
    ]

    meanings = read(["utc_timestamp", "local_timestamp"], as_parquet(arrays), ".parquet")

    assert meanings == [f"{at}+00:00" for _, at in instants]
