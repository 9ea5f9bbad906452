"""A delivered file as blocks of text rows: CSV, compressed CSV and Parquet, one block in memory at a time.

Everything becomes text first, so that a value means the same in every format and a refused row is kept as it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightshift.quality.csv_dialect import CheckedLines, DialectError, split_header

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.lake.object_stream import ObjectStream

    Source = bytes | Path | ObjectStream
    """A file's bytes, the file, or one that is still coming, to be read once."""

BLOCK_BYTES = 1024**2
"""What is parsed at once; Arrow reads up to 32 of them ahead."""
BLOCK_ROWS = 65_536
"""About the rows that come together: what is done with them costs as much for a few."""
_HEADER_BYTES = 1 << 20
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
SUFFIXES = (".csv", *(f".csv{suffix}" for suffix in _COMPRESSIONS), ".parquet")
"""The formats of a drop, by how its file's name ends."""


class UnreadableFileError(ValueError):
    """The bytes are not what the file's name says."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file.

    Attributes:
        texts: shape (n, n_columns), text as delivered; null where the file is empty.
        row_numbers: shape (n,), position of each row in the file, 1 for the first behind the header.
    """

    texts: pa.Table
    row_numbers: npt.NDArray[np.int64]


def read_header(source: bytes | Path, name: str) -> list[str]:
    """Return the names of a file's columns, in order; none of an empty file.

    Args:
        source: The file, or its bytes.
        name: Its name: what it ends with says the format.

    Raises:
        UnreadableFileError: It has no header of this format.
    """
    with _named_failures():
        if name.endswith(".parquet"):
            return list(_parquet(source).schema_arrow.names)
        with _open(source, name) as stream:
            head: bytes = stream.read(_HEADER_BYTES)
        return split_header(head)


def read_blocks(
    source: Source, name: str, header: Sequence[str], columns: Sequence[str], set_aside: Callable[[int, str], None]
) -> Iterator[Block]:
    """Yield a file's rows from first to last.

    Args:
        source: The file, its bytes, or one that is still coming; not for Parquet, whose end is read first.
        name: Its name: what it ends with says the format.
        header: What ``read_header`` gave.
        columns: The columns to read.
        set_aside: Is told position and text of each row that has another number of fields than the header, before the block behind it.

    Raises:
        UnreadableFileError: It cannot be read to its end.
    """
    with _named_failures():
        if isinstance(source, bytes | Path) and name.endswith(".parquet"):
            yield from _parquet_blocks(source, columns)
        else:
            yield from _csv_blocks(source, name, header, columns, set_aside)


def count_rows(source: bytes | Path, name: str) -> int:
    """Return how many rows a file has behind its header, malformed ones too: what its manifest says.

    Args:
        source: The file, or its bytes.
        name: Its name: what it ends with says the format.

    Raises:
        UnreadableFileError: It cannot be read to its end.
    """
    header, malformed = read_header(source, name), []
    blocks = read_blocks(source, name, header, header[:1], lambda position, _: malformed.append(position))
    return sum(len(block.row_numbers) for block in blocks) + len(malformed) if header else 0


def suffix_of(name: str) -> str:
    """Return what a file's name ends with, one of ``SUFFIXES``; empty for another format."""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def _csv_blocks(
    source: Source, name: str, header: Sequence[str], columns: Sequence[str], set_aside: Callable[[int, str], None]
) -> Iterator[Block]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    malformed: list[int] = []
    with _open(source, name) as stream:
        lines = CheckedLines(stream, len(header))

        def skip(row: arrow_csv.InvalidRow) -> str:
            malformed.append(row.number - 1)
            set_aside(row.number - 1, lines.original(row.text))
            return "skip"

        try:
            reader = arrow_csv.open_csv(
                pa.PythonFile(lines, "r"),
                arrow_csv.ReadOptions(use_threads=False, column_names=list(header), skip_rows=1, block_size=BLOCK_BYTES),
                arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()),
                    include_columns=columns,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                    null_values=[""],
                ),
            )
        except pa.ArrowInvalid as error:
            if any(text in str(error) for text in _WITHOUT_ROWS):
                return
            raise
        first, n_rows = 1, 0
        for batches in _together(reader):
            texts = pa.Table.from_batches(batches)
            numbers = _numbers(first, texts.num_rows, malformed)
            n_rows += len(numbers)
            first = int(numbers[-1]) + 1 if len(numbers) else first
            yield Block(texts, numbers)
        _compare_counts(lines.n_lines - 1, n_rows + len(malformed))


def _compare_counts(n_lines: int, n_rows: int) -> None:
    """Refuse a file of which the parser made another number of rows than it has lines outside of quotes.

    Raises:
        UnreadableFileError: The numbers differ.
    """
    if n_lines != n_rows:
        raise UnreadableFileError(f"it has {n_lines} lines of data, and was parsed as {n_rows} rows")


def _together(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield as many batches as have rows for a block."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(one.num_rows for one in waiting) >= BLOCK_ROWS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


_WITHOUT_ROWS = ("Empty CSV", "Could not skip initial")
"""What Arrow says of a file that ends with its header."""


def _numbers(first: int, n_rows: int, malformed: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the positions of rows, those of malformed ones left out; the list may know ones that come later."""
    numbers = np.arange(first, first + n_rows, dtype=np.int64)
    for position in malformed:
        if position >= first:
            numbers[numbers >= position] += 1
    return numbers


def _parquet_blocks(source: bytes | Path, columns: Sequence[str]) -> Iterator[Block]:
    import pyarrow as pa
    from pyarrow import compute as pc

    first = 1
    for batch in _parquet(source).iter_batches(BLOCK_ROWS, columns=list(columns), use_threads=False):
        texts = {}
        for name in columns:
            text = _as_text(batch.column(name))
            texts[name] = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        yield Block(pa.table(texts), np.arange(first, first + batch.num_rows, dtype=np.int64))
        first += batch.num_rows


def _as_text(values: pa.Array) -> pa.Array:
    """Return values as a CSV file would have them."""
    import pyarrow as pa

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    return values.cast(pa.string())


def _parquet(source: bytes | Path) -> pa.parquet.ParquetFile:
    import pyarrow as pa
    from pyarrow import parquet

    return parquet.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)


@contextmanager
def _open(source: Source, name: str) -> Iterator[pa.NativeFile]:
    import pyarrow as pa

    compression = next((kind for suffix, kind in _COMPRESSIONS.items() if name.endswith(suffix)), None)
    coming = None if isinstance(source, bytes | Path) else source
    place = coming or (pa.BufferReader(source) if isinstance(source, bytes) else str(source))
    with pa.input_stream(place, compression=compression) as stream:
        try:
            yield stream
        finally:
            if coming:
                coming.close()  # Arrow's threads read in advance, and whoever closes their reader waits for them


@contextmanager
def _named_failures() -> Iterator[None]:
    """Say of whatever Arrow cannot read that the file is wrong, in Arrow's first line."""
    import pyarrow as pa

    try:
        yield
    except DialectError as error:
        raise UnreadableFileError(str(error)) from None
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFileError(_without_values(str(error))) from None


def _without_values(message: str) -> str:
    """Return Arrow's first line without the row that it quotes: no message shows a value."""
    line = message.partition("\n")[0]
    if "CSV parse error: Row #" in line:  # our handler takes every other row with a wrong number of fields
        return f"row {line.partition('Row #')[2].partition(':')[0]} is not text in UTF-8"
    if "invalid UTF8" in line:
        return f"a value of row {line.partition('Row #')[2].partition(':')[0]} is not text in UTF-8"
    if "straddl" in line:
        return f"a row is longer than {BLOCK_BYTES:,} bytes"
    return line


def read_cells(source: bytes | Path, name: str) -> tuple[list[str], list[list[str] | str]]:
    """Return header and rows of a whole file; for the few files that a person looks at.

    Args:
        source: The file, or its bytes.
        name: Its name: what it ends with says the format.

    Returns:
        The header, and the rows from first to last: their cells, empty where nothing is; of a malformed row its text.

    Raises:
        UnreadableFileError: It cannot be read.
    """
    header = read_header(source, name)
    if not header:
        return [], []
    # Names may be empty or there twice, positions are not.
    names = header if name.endswith(".parquet") else [str(position) for position in range(len(header))]
    rows: dict[int, list[str] | str] = {}
    for block in read_blocks(source, name, names, names, rows.__setitem__):
        columns = [column.fill_null("").to_pylist() for column in block.texts.columns]
        cells = map(list, zip(*columns, strict=True))
        rows |= dict(zip(block.row_numbers.tolist(), cells, strict=True))
    return header, [rows[number] for number in sorted(rows)]
