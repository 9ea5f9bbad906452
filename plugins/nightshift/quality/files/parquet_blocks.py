"""Read a Parquet file as blocks of text rows, without trusting its own figures about its size.

Upstream wrote every number in such a file: rows and sizes in the footer, and again in the head of
each page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.quality.files.block import BLOCK_ROWS, BLOCK_TEXT_BYTES, Block
from nightshift.quality.files.decompression import (
    OverLimitError,
    max_decompressed,
    max_text,
)
from nightshift.quality.files.parquet_pages import unpacked_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.drop_limits import DropLimits

_MAX_PAGE_BYTES = 128 * 1024**2
"""Arrow unpacks a complete page at once. Writers make pages of 1 MiB, or of a row group at most."""
_MAX_VALUE_CHARACTERS = 36
"""The longest text of a value that is no text: a UUID; a timestamp with its zone is shorter."""
_UNREAD_ENCODINGS = frozenset({"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"})
"""Text encodings of writers of version 2 of the format."""
_MAX_FOOTER_ITEMS = 1_000_000
_MAX_FOOTER_TEXT = 16 * 1024**2


def open_parquet(source: bytes | Path, limits: DropLimits) -> pa.parquet.ParquetFile:
    """Open a file and compare its footer with the limits.

    Raises:
        OverLimitError: It has too many columns.
    """
    from pyarrow import parquet

    file = parquet.ParquetFile(
        _as_file(source),
        thrift_string_size_limit=_MAX_FOOTER_TEXT,
        thrift_container_size_limit=_MAX_FOOTER_ITEMS,
    )
    n_columns = file.metadata.num_columns
    if n_columns > limits.columns:
        raise OverLimitError("columns", limits.columns, str(n_columns))
    return file


def parquet_blocks(
    source: bytes | Path,
    columns: Sequence[str],
    limits: DropLimits,
) -> Iterator[Block]:
    """Yield the rows of a file from first to last.

    Raises:
        OverLimitError: It is too large, or a value too long.
        BrokenPageError: Its pages are damaged.
        pyarrow.ArrowException: It cannot be read.
    """
    from pyarrow import parquet

    file = open_parquet(source, limits)
    _refuse_unusable(file, columns)
    _refuse_bombs(source, file, columns, limits)
    # A value may be stored once and repeated in a million rows: strings stay dictionaries until a
    # block is made, and a block is bounded by its text.
    _refuse_unread_encodings(file, columns)
    strings = [name for name in columns if _is_text(file.schema_arrow.field(name).type)]
    file = parquet.ParquetFile(
        _as_file(source),
        read_dictionary=strings,
        # Nanoseconds, the default, wrap around: the year 9999 of Spark and Impala becomes 1816.
        coerce_int96_timestamp_unit="us",
    )
    remaining, over_limit = max_text(_n_bytes(source), limits)
    first = 1
    for batch in file.iter_batches(BLOCK_ROWS, columns=list(columns), use_threads=False):
        for part in _split_by_text(batch, limits.cell_characters):
            numbers = np.arange(first, first + part.num_rows, dtype=np.int64)
            strings_of_part = _as_strings(part, columns)
            remaining -= strings_of_part.nbytes
            if remaining < 0:
                raise over_limit
            yield Block(strings_of_part, numbers)
            first += part.num_rows


def nested_columns(source: bytes | Path, limits: DropLimits) -> list[str]:
    """Return the columns that hold lists or structures, which no contract has."""
    import pyarrow as pa

    schema = open_parquet(source, limits).schema_arrow
    return [field.name for field in schema if pa.types.is_nested(field.type)]


def _as_file(source: bytes | Path) -> pa.BufferReader | Path:
    import pyarrow as pa

    return pa.BufferReader(source) if isinstance(source, bytes) else source


def _refuse_unusable(file: pa.parquet.ParquetFile, columns: Sequence[str]) -> None:
    import pyarrow as pa

    names = file.schema_arrow.names
    for name in columns:
        if names.count(name) > 1:
            raise pa.ArrowInvalid(f"column {name} is there {names.count(name)} times")
        if pa.types.is_nested(file.schema_arrow.field(name).type):
            raise pa.ArrowInvalid(
                f"column {name} holds lists or structures, expected one value for each row"
            )


def _refuse_unread_encodings(file: pa.parquet.ParquetFile, columns: Sequence[str]) -> None:
    """Refuse text in an encoding that Arrow cannot read as a dictionary, by its name."""
    import pyarrow as pa

    for group in range(file.metadata.num_row_groups):
        metadata = file.metadata.row_group(group)
        for index in range(metadata.num_columns):
            column = metadata.column(index)
            unread = sorted(_UNREAD_ENCODINGS.intersection(column.encodings))
            if unread and column.path_in_schema in columns:
                raise pa.ArrowInvalid(
                    f"column {column.path_in_schema} has the encoding {unread[0]}, expected PLAIN"
                    " or a dictionary"
                )


def _refuse_bombs(
    source: bytes | Path,
    file: pa.parquet.ParquetFile,
    columns: Sequence[str],
    limits: DropLimits,
) -> None:
    # The heads of the pages are read before Arrow unpacks one.
    maximum, error = max_decompressed(_n_bytes(source), limits)
    total, largest = unpacked_bytes(source, file.metadata, set(columns))
    if total > maximum:
        raise error
    if largest > _MAX_PAGE_BYTES:
        raise OverLimitError("decompressed_bytes of one page", _MAX_PAGE_BYTES, str(largest))


def _n_bytes(source: bytes | Path) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _is_text(data_type: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(data_type) or pa.types.is_binary(data_type))


def _split_by_text(batch: pa.RecordBatch, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """Yield slices of a batch whose text is bounded.

    Raises:
        OverLimitError: A value is longer than ``max_bytes``.
    """
    widths = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        widths += _widths(column, max_bytes)
    block_of_row = np.cumsum(widths) // BLOCK_TEXT_BYTES
    # A block ends where the running sum of the text passes a multiple of the limit.
    ends = [*(np.flatnonzero(np.diff(block_of_row)) + 1), batch.num_rows]
    start = 0
    for end in ends:
        if end > start:
            yield batch.slice(start, end - start)
        start = end


def _widths(column: pa.Array, max_bytes: int) -> npt.NDArray[np.int64] | int:
    """Return the bytes of each value's text, shape (n,), or one number that none exceeds."""
    import pyarrow as pa
    from pyarrow import compute as pc

    is_dictionary = pa.types.is_dictionary(column.type)
    values = column.dictionary if is_dictionary else column
    if not (_is_text(values.type) or pa.types.is_large_string(values.type)):
        return _MAX_VALUE_CHARACTERS
    lengths = pc.binary_length(values)
    longest = pc.max(lengths).as_py() or 0
    if longest > max_bytes:
        raise OverLimitError("cell_characters", max_bytes, f"a value of {longest}")
    row_lengths = lengths.take(column.indices) if is_dictionary else lengths
    return np.asarray(row_lengths.fill_null(0)).astype(np.int64)


def _as_strings(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.Table:
    """Return the columns as a CSV file would have them; an empty text is missing."""
    import pyarrow as pa
    from pyarrow import compute as pc

    strings = {}
    for name in columns:
        values = batch.column(name)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        text = _as_text(values)
        strings[name] = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    return pa.table(strings)


def _as_text(values: pa.Array) -> pa.Array:
    import pyarrow as pa

    if values.type == pa.uuid():
        return _uuid_texts(values)
    if pa.types.is_timestamp(values.type) and values.type.tz:
        return _zoned_texts(values)
    return values.cast(pa.string())


def _zoned_texts(values: pa.Array) -> pa.Array:
    """Return times with their offset.

    A local mean time of before 1972 has seconds in its offset, which a text of Arrow lacks: such a
    time is written in UTC.
    """
    import pyarrow as pa
    from pyarrow import compute as pc

    unit = values.type.unit
    # The zone's name is upstream's text, and Arrow's message would show it.
    try:
        clock = pc.local_timestamp(values)
    except pa.ArrowInvalid:
        raise pa.ArrowInvalid("a column of times has a zone that is not known") from None
    utc = values.cast(pa.timestamp(unit, "UTC"))
    offset = pc.subtract(clock, utc.cast(pa.timestamp(unit))).cast(pa.duration("s"), safe=False)
    seconds = offset.cast(pa.int64())
    minutes = pc.multiply(pc.divide(seconds, 60), 60)
    return pc.if_else(pc.equal(seconds, minutes), values.cast(pa.string()), utc.cast(pa.string()))


def _uuid_texts(values: pa.Array) -> pa.Array:
    """Return UUIDs, which Parquet stores as 16 bytes, as other tools write them."""
    import pyarrow as pa

    return pa.array([None if uuid is None else str(uuid) for uuid in values.to_pylist()])
