"""A delivered file as blocks of text rows: CSV, compressed CSV and Parquet, one block in memory at a time.

Everything becomes text first, so that a value means the same in every format and a refused row is
kept as it came.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.drop_limits import DropLimits
from nightshift.quality.files.block import Block
from nightshift.quality.files.csv_dialect import CheckedLines, DialectError, split_header
from nightshift.quality.files.decompression import (
    DecompressedStream,
    OverLimitError,
    max_decompressed,
)
from nightshift.quality.files.parquet_blocks import open_parquet, parquet_blocks
from nightshift.quality.files.parquet_pages import BrokenPageError
from nightshift.quality.files.parquet_sandbox import read_in_sandbox

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    from nightshift.lake.object_stream import ObjectStream

    Source = bytes | Path | ObjectStream
    """A file's bytes, the file, or one that is still coming, to be read once."""

BLOCK_BYTES = 1024**2
"""What is parsed at once; Arrow reads up to 32 of them ahead."""
BLOCK_ROWS = 65_536
"""About the rows that come together: what is done with them costs as much for a few."""
BLOCK_TEXT_BYTES = 32 * 1024**2
"""Rows of long values come together in smaller numbers: a block's text is not much larger than
this.
"""
MALFORMED_TEXT_BYTES = 16 * 1024**2
"""Text of malformed rows that is kept; more of it counts as too many malformed rows."""
_HEADER_BYTES = 1 << 20
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
SUFFIXES = (".csv", *(f".csv{suffix}" for suffix in _COMPRESSIONS), ".parquet")
"""The formats of a drop, by how its file's name ends."""


class UnreadableFileError(ValueError):
    """The bytes are not what the file's name says."""


_NO_LIMITS = DropLimits()
_ANY_CELL = _NO_LIMITS.model_copy(update={"cell_characters": BLOCK_BYTES})
"""For a person who looks at a file because a cell of it is too long."""


def read_header(source: bytes | Path, name: str, limits: DropLimits = _NO_LIMITS) -> list[str]:
    """Return the names of a file's columns, in order; none of an empty file.

    Args:
        source: The file, or its bytes.
        name: Its name: what it ends with says the format.
        limits: How large it may be.

    Raises:
        UnreadableFileError: It has no header of this format.
        OverLimitError: It is too large.
    """
    with _named_failures():
        if name.endswith(".parquet"):
            read_in_sandbox(source, limits)
            return list(open_parquet(source, limits).schema_arrow.names)
        with _open(source, name, limits) as stream:
            head = bytes(stream.read(_HEADER_BYTES))
        return split_header(head)


def read_blocks(
    source: Source,
    name: str,
    header: Sequence[str],
    columns: Sequence[str],
    set_aside: Callable[[int, str], None],
    limits: DropLimits = _NO_LIMITS,
) -> Iterator[Block]:
    """Yield a file's rows from first to last.

    Args:
        source: The file, its bytes, or one that is still coming; not for Parquet, whose end is read
            first.
        name: Its name: what it ends with says the format.
        header: What ``read_header`` gave.
        columns: The columns to read.
        set_aside: Is told position and text of each row that has another number of fields than the
            header, before the block behind it.
        limits: How large it may be.

    Raises:
        UnreadableFileError: It cannot be read to its end.
        OverLimitError: It is too large; raised where the limit is reached, not at the end.
    """
    with _named_failures():
        if isinstance(source, bytes | Path) and name.endswith(".parquet"):
            yield from parquet_blocks(source, columns, limits)
        else:
            yield from _csv_blocks(source, name, header, columns, set_aside, limits)


def count_rows(source: bytes | Path, name: str) -> int:
    """Return how many rows a file has behind its header, malformed ones too: what its manifest says.

    Args:
        source: The file, or its bytes.
        name: Its name: what it ends with says the format.

    Raises:
        UnreadableFileError: It cannot be read to its end.
    """
    header, malformed = read_header(source, name), []
    blocks = read_blocks(
        source, name, header, header[:1], lambda position, _: malformed.append(position)
    )
    return sum(len(block.row_numbers) for block in blocks) + len(malformed) if header else 0


def suffix_of(name: str) -> str:
    """Return what a file's name ends with, one of ``SUFFIXES``; empty for another format."""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def _csv_blocks(
    source: Source,
    name: str,
    header: Sequence[str],
    columns: Sequence[str],
    set_aside: Callable[[int, str], None],
    limits: DropLimits,
) -> Iterator[Block]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    with _open(source, name, limits) as stream:
        lines = CheckedLines(stream, len(header))
        malformed = _MalformedRows(set_aside, lines.original, limits.malformed_rows)
        first, n_rows = 1, 0
        try:
            reader = arrow_csv.open_csv(
                pa.PythonFile(lines, "r"),
                arrow_csv.ReadOptions(
                    use_threads=False,
                    column_names=list(header),
                    skip_rows=1,
                    block_size=BLOCK_BYTES,
                ),
                arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=malformed.skip),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(columns, pa.string()),
                    include_columns=columns,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                    null_values=[""],
                ),
            )
            for batches in _together(reader):
                texts = pa.Table.from_batches(batches)
                _check_cells(texts, limits.cell_characters)
                numbers = _numbers(first, texts.num_rows, malformed.positions)
                n_rows += len(numbers)
                first = int(numbers[-1]) + 1 if len(numbers) else first
                yield Block(texts, numbers)
        except pa.ArrowInvalid as error:
            malformed.refuse_too_many()
            if any(text in str(error) for text in _WITHOUT_ROWS):
                return
            raise
        _compare_counts(lines.n_lines - 1, n_rows + len(malformed.positions))


def _compare_counts(n_lines: int, n_rows: int) -> None:
    """Refuse a file of which the parser made another number of rows than it has lines outside of quotes.

    Raises:
        UnreadableFileError: The numbers differ.
    """
    if n_lines != n_rows:
        raise UnreadableFileError(
            f"it has {n_lines} lines of data, and was parsed as {n_rows} rows"
        )


class _MalformedRows:
    """Hands on rows with another number of fields than the header, until there are too many.

    Attributes:
        positions: Those that came so far, in order.
    """

    def __init__(
        self, set_aside: Callable[[int, str], None], original: Callable[[str], str], most: int
    ) -> None:
        self.positions: list[int] = []
        self._set_aside, self._original, self._most = set_aside, original, most
        self._n_bytes = 0

    def skip(self, row: arrow_csv.InvalidRow) -> str:
        """Tell Arrow to go on behind this row, or to stop: an exception here would be lost in Arrow."""
        text = self._original(row.text)
        self._n_bytes += len(text)
        self.positions.append(row.number - 1)
        if self._are_too_many:
            return "error"
        self._set_aside(row.number - 1, text)
        return "skip"

    def refuse_too_many(self) -> None:
        if self._are_too_many:
            raise OverLimitError("malformed_rows", self._most, f"{len(self.positions)} and more")

    @property
    def _are_too_many(self) -> bool:
        return len(self.positions) > self._most or self._n_bytes > MALFORMED_TEXT_BYTES


def _check_cells(texts: pa.Table, most: int) -> None:
    """Refuse values that are too long.

    Raises:
        OverLimitError: One is.
    """
    from pyarrow import compute as pc

    for column in texts.columns:
        longest = pc.max(pc.binary_length(column)).as_py() or 0
        if longest > most:
            raise OverLimitError("cell_characters", most, f"a value of {longest}")


def _together(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield as many batches as have rows, or bytes, for a block."""
    waiting: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch in batches:
        waiting.append(batch)
        n_rows, n_bytes = n_rows + batch.num_rows, n_bytes + batch.nbytes
        if n_rows >= BLOCK_ROWS or n_bytes >= BLOCK_TEXT_BYTES:
            yield waiting
            waiting, n_rows, n_bytes = [], 0, 0
    if waiting:
        yield waiting


_MESSAGE_CHARACTERS = 300
_WITHOUT_ROWS = ("Empty CSV", "Could not skip initial")
"""What Arrow says of a file that ends with its header."""


def _numbers(first: int, n_rows: int, malformed: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the positions of rows, those of malformed ones left out; the list may know ones that come later."""
    numbers = np.arange(first, first + n_rows, dtype=np.int64)
    for position in malformed:
        if position >= first:
            numbers[numbers >= position] += 1
    return numbers


@contextmanager
def _open(
    source: Source, name: str, limits: DropLimits
) -> Iterator[pa.NativeFile | DecompressedStream]:
    import pyarrow as pa

    compression = next(
        (kind for suffix, kind in _COMPRESSIONS.items() if name.endswith(suffix)), None
    )
    coming = None if isinstance(source, bytes | Path) else source
    place = coming or (pa.BufferReader(source) if isinstance(source, bytes) else str(source))
    with pa.input_stream(place, compression=compression) as stream:
        try:
            yield (
                DecompressedStream(stream, *max_decompressed(_n_bytes(source), limits))
                if compression
                else stream
            )
        finally:
            if coming:
                coming.close()  # Arrow's threads read in advance, and whoever closes their reader waits for them


def _n_bytes(source: Source) -> int:
    if isinstance(source, Path):
        return source.stat().st_size
    return len(source) if isinstance(source, bytes) else source.n_bytes


@contextmanager
def _named_failures() -> Iterator[None]:
    """Say of whatever Arrow cannot read that the file is wrong, in Arrow's first line and without a value of the file."""
    import pyarrow as pa

    try:
        yield
    except (BrokenPageError, DialectError) as error:
        raise UnreadableFileError(str(error)) from None
    except (pa.ArrowException, OSError) as error:
        # The machine's own troubles are not the file's: they pass, and whoever retries finds the
        # file as it was.
        if (
            isinstance(error, pa.ArrowMemoryError | InterruptedError)
            or getattr(error, "errno", None) in _OF_THE_MACHINE
        ):
            raise
        raise UnreadableFileError(_without_values(str(error))) from None


_OF_THE_MACHINE = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ENOENT, errno.EINTR,
}  # fmt: skip


def _without_values(message: str) -> str:
    """Return Arrow's first line without the row that it quotes: no message shows a value."""
    line = message.partition("\n")[0]
    if (
        "CSV parse error: Row #" in line
    ):  # our handler takes every other row with a wrong number of fields
        return f"row {line.partition('Row #')[2].partition(':')[0]} is not text in UTF-8"
    if "invalid UTF8" in line:
        return f"a value of row {line.partition('Row #')[2].partition(':')[0]} is not text in UTF-8"
    if "straddl" in line:
        return f"a row is longer than {BLOCK_BYTES:,} bytes"
    return re.sub(r"'[^']*'|\"[^\"]*\"", "…", line)[:_MESSAGE_CHARACTERS]


def read_cells(source: bytes | Path, name: str) -> tuple[list[str], list[list[str] | str]]:
    """Return header and rows of a whole file; for the few files that a person looks at.

    Args:
        source: The file, or its bytes.
        name: Its name: what it ends with says the format.

    Returns:
        The header, and the rows from first to last: their cells, empty where nothing is; of a
            malformed row its text.

    Raises:
        UnreadableFileError: It cannot be read.
    """
    header = read_header(source, name)
    if not header:
        return [], []
    # Names may be empty or there twice, positions are not.
    names = (
        header if name.endswith(".parquet") else [str(position) for position in range(len(header))]
    )
    rows: dict[int, list[str] | str] = {}
    for block in read_blocks(source, name, names, names, rows.__setitem__, _ANY_CELL):
        columns = [column.fill_null("").to_pylist() for column in block.texts.columns]
        cells = map(list, zip(*columns, strict=True))
        rows |= dict(zip(block.row_numbers.tolist(), cells, strict=True))
    return header, [rows[number] for number in sorted(rows)]
