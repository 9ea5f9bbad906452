"""docs/values.md holds: each spelling means what the page says, the same in CSV and in Parquet."""

import datetime as dt
import io
import re
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


def contract(column_type: str) -> DatasetContract:
    return DatasetContract(
        name="values",
        description="d",
        schema_version=1,
        timezone="America/New_York",
        delivery="daily",
        history_start="2013-01-01",
        grain="g",
        key=("id",),
        columns=(
            {"name": "id", "type": "text"},
            {"name": "v", "type": column_type, "is_nullable": True},
        ),
        maximum_refused_ratio=1.0,
        minimum_rows=0,
    )


def read(column_type: str, data: bytes, suffix: str) -> str:
    """Return how the only value of a file is read, in the words of the page."""
    drop = DropManifest(
        dataset="values",
        partition="2013-09-05",
        delivered_at=dt.datetime(2013, 9, 6, 4, tzinfo=dt.UTC),
        data_key=f"landing/values/dt=2013-09-05/a{suffix}",
        sha256=sha256(data).hexdigest(),
        n_rows=1,
        schema_version=1,
    )
    rows = check_rows(
        contract(column_type), [drop], [check_file(contract(column_type), drop, data)]
    )
    if rows.refused[0]:
        reason = rows.refused[0][0].reason
        return "refused" if reason == "wrong_type" else f"refused: {reason}"
    return str(rows.values.column("v")[0].as_py())


def as_csv(text: str) -> bytes:
    quoted = '"' + text.replace('"', '""') + '"'
    return f"id,v\n1,{quoted if ',' in text else text}\n".encode()


def as_parquet(values: pa.Array) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.table({"id": ["1"], "v": values}), sink, version="2.6")
    return sink.getvalue()


def test_the_page_has_spellings_of_all_types_but_text():
    assert {column_type for column_type, *_ in SPELLINGS} == {
        "integer", "number", "boolean", "date", "utc_timestamp", "local_timestamp",
    }  # fmt: skip
    assert len(SPELLINGS) > 60
    assert len(ARROW) == 25


@pytest.mark.parametrize(("column_type", "text", "meaning"), SPELLINGS)
def test_a_spelling_means_the_same_in_both_formats(column_type, text, meaning):
    assert read(column_type, as_csv(text), ".csv") == meaning
    assert read(column_type, as_parquet(pa.array([text])), ".parquet") == meaning


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


@pytest.mark.parametrize(("column_type", "arrow_type", "value", "text"), ARROW)
def test_a_typed_parquet_value_means_what_its_text_means(column_type, arrow_type, value, text):
    assert read(column_type, as_parquet(array(arrow_type, value)), ".parquet") == read(
        column_type, as_csv(text), ".csv"
    )
