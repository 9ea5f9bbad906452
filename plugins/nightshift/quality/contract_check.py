"""Compare a delivered file with its contract before any of its rows is used.

A refusal prints the difference. The order of the checks: digest, format, columns, number of rows;
after the rows were converted, types and the share of refused rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.datasets import Column, DatasetContract
from nightshift.quality.contract_errors import (
    ColumnsError,
    RefusedRatioError,
    TypeChangedError,
    UnreadableError,
    accepted_form,
    describe_file,
    digest_error,
    over_limit,
    row_count_error,
    schema_todo,
    unreadable_error,
)
from nightshift.quality.files.decompression import OverLimitError
from nightshift.quality.files.file_blocks import (
    SUFFIXES,
    UnreadableFileError,
    read_blocks,
    read_header,
    suffix_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.drop_limits import DropLimits
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.files.block import Block, Source

WRONG_TYPE_RATIO = 0.5
"""Share of a column's values, 0 to 1, above which wrong values mean a changed schema and no longer
single bad rows. Source: ADR 0005.
"""
_EVIDENCE_RATIO = 0.01
"""Share of a file's rows, 0 to 1, that must have a wrong value before a column's type counts as
changed. Source: ADR 0041.
"""
_EVIDENCE_VALUES = 2
"""Number of wrong values that must exist as well."""
SIMILARITY = 0.6
"""How alike a missing and an unknown column are called when one is suggested as the other.
Source: difflib's default.
"""
IN_MEMORY_BYTES = 32 * 1024**2
"""Text of a file that is checked in memory. Its rows need about ten times as much until they are
staged; a larger file streams.
"""
_MAX_EXTRA_ROWS = 1_000_000
"""Rows beyond those of the manifest that are still counted, to report how many came."""
_MAX_NAME_BYTES = 255
"""Names of PostgreSQL have at most 63 bytes, those of files a few more."""
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What other tools put between columns, in words. Source: docs/values.md."""


class LargeFileError(Exception):
    """The text of a file is too large for memory, whatever its manifest says: it must stream."""


@dataclass(frozen=True)
class DeliveredFile:
    """A file that keeps its contract; its single rows are still to be checked.

    Attributes:
        strings: shape (n_rows, n_columns), text, one column per contract column that the schema
            version has, by its warehouse name.
        row_numbers: Position of each row in the file, 1 for the first after the header.
        malformed: Position and text of rows with another number of fields than the header.
        notes: Columns that the contract does not know and does not need.
    """

    strings: pa.Table
    row_numbers: npt.NDArray[np.int64]
    malformed: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FileHead:
    """What is known of a file before its rows are read.

    Attributes:
        header: Its columns, in order.
        columns: The contract's columns of its schema version.
        notes: Columns that the contract does not know and does not need.
        limits: How large the file may be.
    """

    header: tuple[str, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...]
    limits: DropLimits


def check_file(contract: DatasetContract, drop: DropManifest, data: bytes) -> DeliveredFile:
    """Check digest, columns and number of rows of a file, and return its rows as text.

    Raises:
        DigestError: The bytes are not those of the manifest.
        ColumnsError: A column is missing, renamed or there twice.
        RowCountError: The number of rows is not that of the manifest.
        UnreadableError: It is no text in UTF-8, or its schema version is unknown.
        LimitError: It is larger than the contract allows.
        LargeFileError: It may keep its contract, but its text is larger than ``IN_MEMORY_BYTES``.
    """
    import pyarrow as pa

    _check_digest(drop, data)
    head = check_head(contract, drop, data)
    malformed: list[tuple[int, str]] = []
    blocks: list[Block] = []
    n_bytes = 0
    for block in read_rows(drop, head, data, malformed):
        # Counted while it is read: the size in the manifest cannot be trusted.
        n_bytes += block.strings.nbytes
        if n_bytes > IN_MEMORY_BYTES:
            raise LargeFileError
        blocks.append(block)

    names = [column.name for column in head.columns]
    # The empty table gives the columns and their types to a file without rows.
    empty = pa.table({name: pa.array([], pa.string()) for name in names})
    strings = pa.concat_tables([empty, *(block.strings.rename_columns(names) for block in blocks)])
    no_numbers = np.empty(0, dtype=np.int64)
    row_numbers = np.concatenate([no_numbers, *(block.row_numbers for block in blocks)])
    return DeliveredFile(strings, row_numbers, tuple(malformed), head.notes)


def check_head(contract: DatasetContract, drop: DropManifest, source: bytes | Path) -> FileHead:
    """Check the columns of a file whose digest is right.

    Args:
        contract: What upstream promised.
        drop: The manifest.
        source: The file, or its bytes.

    Raises:
        ColumnsError: A column is missing, renamed or there twice.
        UnreadableError: It has no header, or its schema version is unknown.
        LimitError: It is larger than the contract allows.
    """
    version = contract.version_for(drop.partition, drop.schema_version)
    columns = contract.columns_of(version)
    if columns is None:
        raise UnreadableError(
            f"{describe_file(drop)} follows an unknown schema version.",
            expected=f"1 to {contract.schema_version}",
            got=str(drop.schema_version),
            todo=schema_todo(drop),
        )
    if not suffix_of(drop.data_key):
        reason = f"a file whose name ends with none of {', '.join(SUFFIXES)}"
        raise unreadable_error(drop, reason)
    with _refusing(drop):
        header = read_header(source, drop.data_key, contract.limits)
        check_names(header, contract.limits.columns)
    expected = [column.delivered_name for column in columns]
    _check_columns(drop, expected, header, version)
    added = [name for name in header if name not in expected]
    notes = tuple(f"added column ignored: {_shown_name(name)}" for name in added)
    return FileHead(tuple(header), tuple(columns), notes, contract.limits)


def read_rows(
    drop: DropManifest, head: FileHead, source: Source, malformed: list[tuple[int, str]]
) -> Iterator[Block]:
    """Yield the rows of a file, columns as delivered.

    Args:
        drop: The manifest.
        head: What ``check_head`` returned.
        source: The file, its bytes, or a stream that is still being received.
        malformed: Is filled with position and text of rows with another number of fields than the
            header.

    Raises:
        RowCountError: The number of rows is not that of the manifest; raised at the end, or when
            far too many came.
        UnreadableError: The file cannot be read to its end.
        LimitError: The file is larger than the contract allows.
    """
    n_rows = n_malformed = 0

    def keep_malformed(position: int, text: str) -> None:
        nonlocal n_malformed
        n_malformed += 1
        # More than the manifest has rows are only counted, so that memory stays bounded.
        if n_malformed <= drop.n_rows:
            malformed.append((position, text))

    names = [column.delivered_name for column in head.columns]
    with _refusing(drop):
        for block in read_blocks(
            source, drop.data_key, head.header, names, keep_malformed, head.limits
        ):
            n_rows += len(block.row_numbers)
            # Excess rows are counted to report them, and none is kept in memory.
            if n_rows + n_malformed <= drop.n_rows:
                yield block
            elif n_rows > drop.n_rows + _MAX_EXTRA_ROWS:
                raise row_count_error(drop, f"more than {n_rows}")
    if n_rows + n_malformed != drop.n_rows:
        raise row_count_error(drop, str(n_rows + n_malformed))


def check_types(
    drop: DropManifest,
    columns: Sequence[Column],
    n_values: Mapping[str, int],
    n_wrong: Mapping[str, int],
) -> None:
    """Refuse a file in which most values of a column have another type.

    Args:
        drop: The file.
        columns: The contract's columns.
        n_values: Values that are not empty, by column.
        n_wrong: Those among them that cannot be read as the column's type.

    Raises:
        TypeChangedError: In at least one column.
    """
    lines = []
    for column in columns:
        n_wrong_values, n_all = n_wrong.get(column.name, 0), n_values.get(column.name, 0)
        if is_other_type(n_wrong_values, n_all, drop.n_rows):
            delivered_type = column.delivered_as or column.type
            lines.append(
                f"{column.name}: expected {delivered_type}, {n_wrong_values} of {n_all} values are"
                f" something else; accepted: {accepted_form(delivered_type)}"
            )
    if lines:
        message = [f"{describe_file(drop)} has columns of another type:", *lines]
        raise TypeChangedError("\n    ".join(message), todo=schema_todo(drop))


def is_other_type(n_wrong: int, n_values: int, n_rows: int) -> bool:
    """Return whether a column's values show that its type has changed.

    Args:
        n_wrong: Values that cannot be read as the type.
        n_values: All values that are not empty.
        n_rows: Rows of the file, empty values too.
    """
    # Both: one odd value of a column that is otherwise empty shows nothing. Source: ADR 0041.
    is_majority = n_wrong > WRONG_TYPE_RATIO * n_values
    return is_majority and n_wrong >= max(_EVIDENCE_VALUES, _EVIDENCE_RATIO * n_rows)


def check_refused(
    contract: DatasetContract,
    drop: DropManifest,
    n_good: int,
    reasons: Mapping[str, int],
    hint: str = "",
) -> None:
    """Refuse a file with more bad rows, or fewer good ones, than the contract allows.

    Args:
        contract: The limits.
        drop: The file.
        n_good: Accepted rows, duplicates counted once.
        reasons: Refused rows by reason, equal ones counted as often as they came.
        hint: More for a person to know about these reasons.

    Raises:
        RefusedRatioError: A limit is exceeded.
    """
    n_refused = sum(reasons.values())
    if n_refused > contract.maximum_refused_ratio * (n_good + n_refused):
        expected = f"at most {contract.maximum_refused_ratio:.1%} of the rows refused"
    elif n_good < contract.minimum_rows:
        expected = f"at least {contract.minimum_rows} good rows"
    else:
        return
    counts = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
    raise RefusedRatioError(
        f"{describe_file(drop)} does not have enough good rows.",
        expected=expected,
        got=f"{n_good} good, {n_refused} refused: {counts or 'none refused'}",
        todo=f"Ask upstream for a corrected file.{hint}"
        "\n      Only if such rows are normal, change the limit in the contract, then:"
        f'\n      nightshift redo --dataset {drop.dataset} --from {drop.partition} --reason "…"',
    )


@contextmanager
def _refusing(drop: DropManifest) -> Iterator[None]:
    """Turn a reader's errors into refusals of the file."""
    try:
        yield
    except UnreadableFileError as error:
        raise unreadable_error(drop, str(error)) from None
    except OverLimitError as error:
        raise over_limit(drop, error) from None


def _check_digest(drop: DropManifest, data: bytes) -> None:
    digest = sha256(data).hexdigest()
    if digest != drop.sha256:
        n_lines = max(data.count(b"\n") - 1, 0)
        raise digest_error(drop, f"sha256 {digest}, {n_lines} lines, {len(data)} bytes")


def check_names(header: Sequence[str], max_columns: int) -> None:
    """Refuse names that cannot be stored or shown.

    Raises:
        UnreadableFileError: There is no name, or a name cannot be used.
        OverLimitError: There are too many names.
    """
    if not header:
        raise UnreadableFileError("it is empty")
    if len(header) > max_columns:
        raise OverLimitError("columns", max_columns, str(len(header)))
    for number, name in enumerate(header, 1):
        # PostgreSQL has no NUL, and a line of a log no line end.
        is_long = len(name.encode(errors="replace")) > _MAX_NAME_BYTES
        # A header that tabs divide is refused later, in words about its separator.
        if is_long or not name.replace("\t", "").isprintable():
            raise UnreadableFileError(
                f"the name of column {number} is longer than {_MAX_NAME_BYTES} bytes, or has"
                " control characters"
            )


def _check_columns(
    drop: DropManifest, expected: Sequence[str], header: Sequence[str], version: int
) -> None:
    """Refuse a file whose columns are not those of its schema version; added ones are allowed."""
    # Added names are counted and not shown: a file without a header has a row in its place, so an
    # unknown name may be a person's. `contract diff` shows them on request.
    added = [name for name in header if name not in expected]
    n_added_twice = len({name for name in added if header.count(name) > 1})
    lines = [f"- {name}  (missing)" for name in expected if name not in header]
    lines += [
        f"! {name}  (delivered {header.count(name)} times)"
        for name in expected
        if header.count(name) > 1
    ]
    if n_added_twice:
        lines.append(f"! {n_added_twice} unknown name(s) delivered more than once")
    if not lines:
        return
    title = f"{describe_file(drop)} has other columns than schema version {version}:"
    raise ColumnsError(
        "\n    ".join([title, *lines]),
        expected=", ".join(expected),
        got=f"{len(header) - len(added)} of them, and {len(added)} column(s) that the contract does"
        f" not know; {_guess_cause(header)}",
        todo=schema_todo(drop),
    )


def _guess_cause(header: Sequence[str]) -> str:
    """Return what may be wrong with a header in which columns are missing; no name is shown."""
    text = ",".join(header)
    separator = max(_OTHER_SEPARATORS, key=text.count)
    n_separators = text.count(separator)
    if n_separators >= max(len(header), 1):
        words = _OTHER_SEPARATORS[separator]
        return f"its header has {n_separators} {words}: a CSV file has commas between its columns"
    return "is there a header?"


def _shown_name(name: str) -> str:
    """Return the name of an added column if it is a word."""
    # Names may be shown here: all names of the contract are in the file, so it has a header.
    return name if _IDENTIFIER.fullmatch(name) else "one whose name is no identifier"
