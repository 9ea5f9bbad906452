"""Read CSV files, plain or compressed, as blocks of text rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightshift.quality.files.block import BLOCK_ROWS, BLOCK_TEXT_BYTES, Block
from nightshift.quality.files.csv_dialect import CheckedLines, DialectError
from nightshift.quality.files.decompression import (
    DecompressedStream,
    OverLimitError,
    max_decompressed,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    from nightshift.contracts.drop_limits import DropLimits
    from nightshift.quality.files.block import Source

BLOCK_BYTES = 1024**2
"""What is parsed at once; Arrow reads up to 32 of them in advance."""
MALFORMED_TEXT_BYTES = 16 * 1024**2
"""Text of malformed rows that is kept; more of it counts as too many malformed rows."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_NO_ROWS_MESSAGES = ("Empty CSV", "Could not skip initial")
"""What Arrow reports about a file that ends with its header."""


def csv_blocks(
    source: Source,
    name: str,
    header: Sequence[str],
    columns: Sequence[str],
    on_malformed: Callable[[int, str], None],
    limits: DropLimits,
) -> Iterator[Block]:
    """Yield the rows of a CSV file; the arguments are those of ``read_blocks``.

    Raises:
        DialectError: A line is too long, or the parser made another number of rows than expected.
        OverLimitError: The file, a value, or the malformed rows are too large.
        pyarrow.ArrowException: It cannot be read.
    """
    import pyarrow as pa

    with open_csv(source, name, limits) as stream:
        lines = CheckedLines(stream, len(header))
        malformed = _MalformedRows(on_malformed, lines.original, limits.malformed_rows)
        first, n_rows = 1, 0
        try:
            # This name keeps the parser alive until the source is closed: freeing it waits for its
            # threads, which wait for bytes.
            parser = _open_parser(lines, header, columns, malformed)
            for batches in _group_batches(parser):
                lines.raise_error()
                strings = pa.Table.from_batches(batches)
                _check_cells(strings, limits.cell_characters)
                numbers = _row_numbers(first, strings.num_rows, malformed.positions)
                n_rows += len(numbers)
                first = int(numbers[-1]) + 1 if len(numbers) else first
                yield Block(strings, numbers)
        except pa.ArrowInvalid as error:
            lines.raise_error()
            malformed.refuse_too_many()
            if any(message in str(error) for message in _NO_ROWS_MESSAGES):
                return
            raise
        lines.raise_error()
        # The lines are counted without a parser: a row that the parser swallowed is noticed.
        n_lines, n_parsed = lines.n_lines - 1, n_rows + len(malformed.positions)
        if n_lines != n_parsed:
            raise DialectError(f"it has {n_lines} lines of data, and was parsed as {n_parsed} rows")


@contextmanager
def open_csv(
    source: Source,
    name: str,
    limits: DropLimits,
) -> Iterator[pa.NativeFile | DecompressedStream]:
    """Open a file's uncompressed bytes, bounded by the limits."""
    import pyarrow as pa

    compression = COMPRESSIONS.get(Path(name).suffix)
    opened = pa.BufferReader(source) if isinstance(source, bytes) else source
    file = str(opened) if isinstance(opened, Path) else opened
    with pa.input_stream(file, compression=compression) as stream:
        try:
            if compression:
                maximum, error = max_decompressed(_n_bytes(source), limits)
                yield DecompressedStream(stream, maximum, error)
            else:
                yield stream
        finally:
            # Arrow's threads read in advance, and closing their reader waits for them: end the
            # transfer first.
            if not isinstance(source, bytes | Path):
                source.close()


def _n_bytes(source: Source) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.stat().st_size if isinstance(source, Path) else source.n_bytes


def _open_parser(
    lines: CheckedLines,
    header: Sequence[str],
    columns: Sequence[str],
    malformed: _MalformedRows,
) -> arrow_csv.CSVStreamingReader:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    read_options = arrow_csv.ReadOptions(
        use_threads=False, column_names=list(header), skip_rows=1, block_size=BLOCK_BYTES
    )
    parse_options = arrow_csv.ParseOptions(
        newlines_in_values=True, invalid_row_handler=malformed.skip
    )
    convert_options = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        include_columns=columns,
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=[""],
    )
    file = pa.PythonFile(lines, "r")
    return arrow_csv.open_csv(file, read_options, parse_options, convert_options)


class _MalformedRows:
    """Reports rows with another number of fields than the header, until there are too many.

    Attributes:
        positions: Those that came so far, in order.
    """

    def __init__(
        self,
        on_malformed: Callable[[int, str], None],
        original: Callable[[str], str],
        max_rows: int,
    ) -> None:
        self.positions: list[int] = []
        self._on_malformed, self._original, self._max_rows = on_malformed, original, max_rows
        self._n_bytes = 0

    def skip(self, row: arrow_csv.InvalidRow) -> str:
        """Return Arrow's word for going on or stopping; Arrow would lose an exception."""
        text = self._original(row.text)
        self._n_bytes += len(text)
        self.positions.append(row.number - 1)
        if self._are_too_many:
            return "error"
        self._on_malformed(row.number - 1, text)
        return "skip"

    def refuse_too_many(self) -> None:
        if self._are_too_many:
            got = f"{len(self.positions)} and more"
            raise OverLimitError("malformed_rows", self._max_rows, got)

    @property
    def _are_too_many(self) -> bool:
        return len(self.positions) > self._max_rows or self._n_bytes > MALFORMED_TEXT_BYTES


def _check_cells(
    strings: pa.Table,
    max_bytes: int,
) -> None:
    """Refuse values that are too long.

    Raises:
        OverLimitError: A value is too long.
    """
    from pyarrow import compute as pc

    for column in strings.columns:
        longest = pc.max(pc.binary_length(column)).as_py() or 0
        if longest > max_bytes:
            raise OverLimitError("cell_characters", max_bytes, f"a value of {longest}")


def _group_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield as many batches as have the rows, or the bytes, of a block."""
    group: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch in batches:
        group.append(batch)
        n_rows += batch.num_rows
        n_bytes += batch.nbytes
        if n_rows >= BLOCK_ROWS or n_bytes >= BLOCK_TEXT_BYTES:
            yield group
            group, n_rows, n_bytes = [], 0, 0
    if group:
        yield group


def _row_numbers(
    first: int,
    n_rows: int,
    malformed: Sequence[int],
) -> npt.NDArray[np.int64]:
    """Return the positions of rows, without those of malformed ones; the list may be ahead."""
    numbers = np.arange(first, first + n_rows, dtype=np.int64)
    for position in malformed:
        if position >= first:
            numbers[numbers >= position] += 1
    return numbers
