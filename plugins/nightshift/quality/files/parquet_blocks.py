"""A Parquet file as blocks of text rows, whatever its own figures say about its size.

Every number in such a file is upstream's word: rows and sizes in the footer, and again in the head
of each page. A value may be stored once and stand in a million rows. So pages are walked before
Arrow unpacks one, texts stay dictionaries until a block is made, and a block is bounded by its
text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.quality.files.block import Block
from nightshift.quality.files.decompression import OverLimitError, max_decompressed
from nightshift.quality.files.parquet_pages import unpacked_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.drop_limits import DropLimits

_BATCH_ROWS = 65_536
_TEXT_BYTES = 32 * 1024**2
"""Text of one block."""
_OTHER_BYTES = 32
"""The longest text of a value that is no text: a timestamp with its zone."""
_MOST_FOOTER_ITEMS = 1_000_000
_MOST_FOOTER_TEXT = 16 * 1024**2


def open_parquet(source: bytes | Path, limits: DropLimits) -> pa.parquet.ParquetFile:
    """Open a file and hold its footer against the limits.

    Raises:
        OverLimitError: It has too many columns, or its pages unpack to too much.
    """
    import pyarrow as pa
    from pyarrow import parquet

    place = pa.BufferReader(source) if isinstance(source, bytes) else source
    file = parquet.ParquetFile(
        place,
        thrift_string_size_limit=_MOST_FOOTER_TEXT,
        thrift_container_size_limit=_MOST_FOOTER_ITEMS,
    )
    if file.metadata.num_columns > limits.columns:
        raise OverLimitError("columns", limits.columns, str(file.metadata.num_columns))
    return file


def parquet_blocks(
    source: bytes | Path, columns: Sequence[str], limits: DropLimits
) -> Iterator[Block]:
    """Yield the rows of a file from first to last.

    Raises:
        OverLimitError: It is too large, or a value too long.
        pyarrow.ArrowException: It cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    file = open_parquet(source, limits)
    _refuse_nested(file, columns)
    _refuse_bombs(source, file, columns, limits)
    texts = [name for name in columns if _is_text(file.schema_arrow.field(name).type)]
    place = pa.BufferReader(source) if isinstance(source, bytes) else source
    file = parquet.ParquetFile(place, read_dictionary=texts)
    first = 1
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
        for part in _parts(batch, limits.cell_characters):
            yield Block(
                _as_texts(part, columns), np.arange(first, first + part.num_rows, dtype=np.int64)
            )
            first += part.num_rows


def _refuse_nested(file: pa.parquet.ParquetFile, columns: Sequence[str]) -> None:
    import pyarrow as pa

    for name in columns:
        if pa.types.is_nested(file.schema_arrow.field(name).type):
            raise pa.ArrowInvalid(
                f"column {name} holds lists or structures, expected one value for each row"
            )


def _refuse_bombs(
    source: bytes | Path, file: pa.parquet.ParquetFile, columns: Sequence[str], limits: DropLimits
) -> None:
    n_bytes = len(source) if isinstance(source, bytes) else source.stat().st_size
    most, error = max_decompressed(n_bytes, limits)
    total, largest = unpacked_bytes(source, file.metadata, set(columns))
    if total > most:
        raise error
    # Arrow unpacks a page whole, so one page is bounded like a block.
    if largest > _MOST_PAGE_BYTES:
        raise OverLimitError("decompressed_bytes of one page", _MOST_PAGE_BYTES, str(largest))


_MOST_PAGE_BYTES = 128 * 1024**2
"""Writers make pages of 1 MiB, or of a row group at most."""


def _is_text(of_type: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(of_type) or pa.types.is_binary(of_type))


def _parts(batch: pa.RecordBatch, most: int) -> Iterator[pa.RecordBatch]:
    """Yield slices of a batch whose text is bounded.

    Raises:
        OverLimitError: A value is too long.
    """
    widths = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        widths += _widths(column, most)
    block_of = np.cumsum(widths) // _TEXT_BYTES
    ends = [*(np.flatnonzero(np.diff(block_of)) + 1), batch.num_rows]
    start = 0
    for end in ends:
        if end > start:
            yield batch.slice(start, end - start)
        start = end


def _widths(column: pa.Array, most: int) -> npt.NDArray[np.int64] | int:
    """Return the bytes of each value's text, shape (n,), or one number that none exceeds."""
    import pyarrow as pa
    from pyarrow import compute as pc

    values = column.dictionary if pa.types.is_dictionary(column.type) else column
    if not (_is_text(values.type) or pa.types.is_large_string(values.type)):
        return _OTHER_BYTES
    lengths = pc.binary_length(values)
    longest = pc.max(lengths).as_py() or 0
    if longest > most:
        raise OverLimitError("cell_characters", most, f"a value of {longest}")
    of_rows = lengths.take(column.indices) if pa.types.is_dictionary(column.type) else lengths
    return np.asarray(of_rows.fill_null(0)).astype(np.int64)


def _as_texts(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import compute as pc

    texts = {}
    for name in columns:
        text = _as_text(batch.column(name))
        texts[name] = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    return pa.table(texts)


def _as_text(values: pa.Array) -> pa.Array:
    """Return values as a CSV file would have them."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.string())
