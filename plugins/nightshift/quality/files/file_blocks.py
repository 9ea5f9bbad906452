"""Read a delivered file as blocks of text rows: CSV, compressed CSV or Parquet.

One block is in memory at a time. Every value becomes text first, so that it means the same in every
format and a refused row is kept as it came.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.contracts.drop_limits import DropLimits
from nightshift.quality.files.csv_blocks import BLOCK_BYTES, COMPRESSIONS, csv_blocks, open_csv
from nightshift.quality.files.csv_dialect import DialectError, split_header
from nightshift.quality.files.parquet_blocks import (
    nested_columns,
    open_parquet,
    parquet_blocks,
)
from nightshift.quality.files.parquet_pages import BrokenPageError
from nightshift.quality.files.parquet_sandbox import read_in_sandbox

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.quality.files.block import Block, Source

_PARQUET = ".parquet"
SUFFIXES = (".csv", *(f".csv{suffix}" for suffix in COMPRESSIONS), _PARQUET)
"""The formats of a drop, by the end of its file's name."""
_HEADER_BYTES = 1 << 20
_MESSAGE_CHARACTERS = 300
_NO_LIMITS = DropLimits()
_ANY_CELL = _NO_LIMITS.model_copy(update={"cell_characters": BLOCK_BYTES})
"""For a person who looks at a file because one of its cells is too long."""
_MACHINE_ERRORS = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    errno.EACCES, errno.ENOENT, errno.EINTR,
}  # fmt: skip


class UnreadableFileError(ValueError):
    """The bytes are not what the file's name says."""


def read_header(
    source: bytes | Path,
    name: str,
    limits: DropLimits = _NO_LIMITS,
) -> list[str]:
    """Return the names of a file's columns, in order; none for an empty file.

    Args:
        source: The file, or its bytes.
        name: Its name; the end of it gives the format.
        limits: How large it may be.

    Raises:
        UnreadableFileError: It has no header of this format.
        OverLimitError: It is too large.
    """
    with _translate_errors():
        if name.endswith(_PARQUET):
            # Before anything in this process opens the file.
            read_in_sandbox(source, limits)
            return list(open_parquet(source, limits).schema_arrow.names)
        with open_csv(source, name, limits) as stream:
            head = bytes(stream.read(_HEADER_BYTES))
        return split_header(head)


def read_blocks(
    source: Source,
    name: str,
    header: Sequence[str],
    columns: Sequence[str],
    on_malformed: Callable[[int, str], None],
    limits: DropLimits = _NO_LIMITS,
) -> Iterator[Block]:
    """Yield a file's rows from first to last.

    Args:
        source: The file, its bytes, or a stream that is still being received. Parquet cannot be
            streamed, because its end is read first.
        name: Its name; the end of it gives the format.
        header: What ``read_header`` returned.
        columns: The columns to read.
        on_malformed: Called with position and text of each row that has another number of fields
            than the header, before the next block.
        limits: How large it may be.

    Raises:
        UnreadableFileError: It cannot be read to its end.
        OverLimitError: It is too large; raised where the limit is reached, not at the end.
    """
    with _translate_errors():
        if isinstance(source, bytes | Path) and name.endswith(_PARQUET):
            yield from parquet_blocks(source, columns, limits)
        else:
            yield from csv_blocks(source, name, header, columns, on_malformed, limits)


def count_rows(source: bytes | Path, name: str) -> int:
    """Return the rows of a file after its header, malformed ones too, as its manifest counts them.

    Args:
        source: The file, or its bytes.
        name: Its name; the end of it gives the format.

    Raises:
        UnreadableFileError: It cannot be read to its end.
    """
    header = read_header(source, name)
    if not header:
        return 0
    malformed: dict[int, str] = {}
    blocks = read_blocks(
        source,
        name,
        header,
        header[:1],
        malformed.__setitem__,
    )
    return sum(len(block.row_numbers) for block in blocks) + len(malformed)


def read_cells(source: bytes | Path, name: str) -> tuple[list[str], list[list[str] | str]]:
    """Return header and rows of a small file that a person looks at.

    Args:
        source: The file, or its bytes.
        name: Its name; the end of it gives the format.

    Returns:
        The header, and the rows from first to last: their cells, empty where a value is missing; of
            a malformed row its text.

    Raises:
        UnreadableFileError: It cannot be read.
    """
    header = read_header(source, name)
    if not header:
        return [], []
    names = header
    if not name.endswith(_PARQUET):
        # Names of a CSV file may be empty or repeated, positions are not.
        names = [str(position) for position in range(len(header))]
    rows: dict[int, list[str] | str] = {}
    for block in read_blocks(
        source,
        name,
        names,
        names,
        rows.__setitem__,
        _ANY_CELL,
    ):
        columns = [column.fill_null("").to_pylist() for column in block.strings.columns]
        cells = map(list, zip(*columns, strict=True))
        rows |= dict(zip(block.row_numbers.tolist(), cells, strict=True))
    return header, [rows[number] for number in sorted(rows)]


def unread_columns(
    source: bytes | Path,
    name: str,
    needed: Collection[str],
    limits: DropLimits = _NO_LIMITS,
) -> list[str]:
    """Return the columns of a file that nobody needs, and that are no column of a contract.

    Args:
        source: The file, or its bytes; ``read_header`` has accepted it.
        name: Its name; the end of it gives the format.
        needed: Columns that must be read: one among them that cannot be is no reason to go on.
        limits: How large it may be.
    """
    if not name.endswith(_PARQUET):
        return []
    return [column for column in nested_columns(source, limits) if column not in needed]


def read_first_rows(
    source: bytes | Path,
    name: str,
    header: Sequence[str],
    max_text_bytes: int,
    left_out: Collection[str] = (),
) -> tuple[pa.Table, bool]:
    """Read the rows at the beginning of a file, without malformed ones.

    Args:
        source: The file, or its bytes.
        name: Its name; the end of it gives the format.
        header: What ``read_header`` returned.
        max_text_bytes: No more is read once the rows have so much text.
        left_out: Columns that are not read.

    Returns:
        shape (n_rows, n_columns), text of each column whose name no other one has, null where a
            value is missing; and whether these are all rows.

    Raises:
        UnreadableFileError: It cannot be read.
        OverLimitError: It is larger than a contract allows by default.
    """
    import pyarrow as pa

    single = [column for column in header if header.count(column) == 1 and column not in left_out]
    # The empty table gives the columns to a file without rows.
    tables = [pa.table({column: pa.array([], pa.string()) for column in single})]
    n_bytes = 0
    is_complete = True
    for block in read_blocks(source, name, header, single, lambda *_: None, _ANY_CELL):
        if n_bytes > max_text_bytes:
            is_complete = False
            break
        tables.append(block.strings)
        n_bytes += block.strings.nbytes
    return pa.concat_tables(tables), is_complete


def suffix_of(name: str) -> str:
    """Return the end of a file's name that is one of ``SUFFIXES``; empty for another format."""
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Report whatever Arrow cannot read as an unreadable file, without a value of the file."""
    import pyarrow as pa

    try:
        yield
    except (BrokenPageError, DialectError) as error:
        raise UnreadableFileError(str(error)) from None
    except (pa.ArrowException, OSError) as error:
        # Faults of the machine are not faults of the file: a retry finds the file as it was.
        is_transient = isinstance(error, pa.ArrowMemoryError | InterruptedError)
        if is_transient or getattr(error, "errno", None) in _MACHINE_ERRORS:
            raise
        raise UnreadableFileError(_redact_message(str(error))) from None


def _redact_message(message: str) -> str:
    """Return Arrow's first line without the row that it quotes: no message shows a value."""
    line = message.partition("\n")[0]
    row_number = line.partition("Row #")[2].partition(":")[0]
    # Our handler takes every other row with a wrong number of fields.
    if "CSV parse error: Row #" in line:
        return f"row {row_number} is not text in UTF-8"
    if "invalid UTF8" in line:
        return f"a value of row {row_number} is not text in UTF-8"
    if "straddl" in line:
        return f"a row is longer than {BLOCK_BYTES:,} bytes"
    # What follows a colon may be the file's own text without quotes: a name, a zone, a value.
    stated = line.partition(": ")[0]
    return re.sub(r"'[^']*'|\"[^\"]*\"", "…", stated)[:_MESSAGE_CHARACTERS]
