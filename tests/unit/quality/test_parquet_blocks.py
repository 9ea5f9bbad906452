"""Text columns of a Parquet file in the types and encodings of other tools."""

from __future__ import annotations

import io
import uuid
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from nightshift.contracts.drop_limits import DropLimits
from nightshift.quality.files.decompression import OverLimitError
from nightshift.quality.files.file_blocks import UnreadableFileError, count_rows
from nightshift.quality.files.parquet_blocks import parquet_blocks

KEY = uuid.UUID("12345678-1234-5678-9abc-def012345678")
STORED_UUIDS = pa.array([KEY.bytes, None], pa.binary(16))
TEXTS = pa.array(["shared prefix 1", "shared prefix 2"])


def read(values: pa.Array, **options: Any) -> list[str | None]:
    """Return the texts that a file with one column has."""
    file = io.BytesIO()
    parquet.write_table(pa.table({"v": values}), file, **options)
    blocks = parquet_blocks(file.getvalue(), ["v"], DropLimits())
    return [text for block in blocks for text in block.strings["v"].to_pylist()]


@pytest.mark.parametrize("stores_schema", [True, False], ids=["by Arrow", "by another writer"])
def test_a_uuid_is_the_text_that_other_tools_write(stores_schema):
    values = pa.ExtensionArray.from_storage(pa.uuid(), STORED_UUIDS)
    assert read(values, store_schema=stores_schema) == [str(KEY), None]


def test_text_without_a_dictionary_is_read():
    options = {"use_dictionary": False, "column_encoding": {"v": "PLAIN"}}
    assert read(TEXTS, **options) == TEXTS.to_pylist()


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_text_in_an_encoding_that_is_not_read_is_refused_by_its_name(encoding):
    options = {"use_dictionary": False, "column_encoding": {"v": encoding}}
    with pytest.raises(pa.ArrowInvalid, match=f"column v has the encoding {encoding}, expected"):
        read(TEXTS, **options)


def test_numbers_in_an_encoding_of_differences_are_read():
    options = {"use_dictionary": False, "column_encoding": {"v": "DELTA_BINARY_PACKED"}}
    assert read(pa.array([7, 8, None]), **options) == ["7", "8", None]


def repeated(value: str, n_rows: int) -> pa.Array:
    """Return one value so often, stored once."""
    positions = pa.array([0] * n_rows, pa.int32())
    return pa.DictionaryArray.from_arrays(positions, [value])


def test_a_value_that_is_stored_once_and_repeated_to_gigabytes_is_refused_early():
    """Pages count it once: 12 KB have become 30 GB of text a column, read for minutes."""
    sink = io.BytesIO()
    parquet.write_table(pa.table({"v": repeated("x" * 50_000, 50_000)}), sink)
    blocks = parquet_blocks(sink.getvalue(), ["v"], DropLimits())
    n_read = 0

    def read_all() -> None:
        nonlocal n_read
        for block in blocks:
            n_read += block.strings.num_rows

    with pytest.raises(OverLimitError, match=r"decompression_ratio.*bytes of text out of"):
        read_all()
    assert n_read < 10_000


def test_a_column_with_one_value_is_read_however_many_rows_it_has():
    assert read(repeated("New York", 300_000)) == ["New York"] * 300_000


def test_a_name_that_is_there_twice_is_refused_when_its_rows_are_counted():
    sink = io.BytesIO()
    columns = [pa.array(["a"]), pa.array(["b"])]
    parquet.write_table(pa.Table.from_arrays(columns, ["shop", "shop"]), sink)

    with pytest.raises(UnreadableFileError, match="column shop is there 2 times"):
        count_rows(sink.getvalue(), "a.parquet")
