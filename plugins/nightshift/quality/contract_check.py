"""Compare a delivered file with its contract before any of its rows is used; a refusal prints the difference."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.datasets import ColumnType
from nightshift.errors import NightshiftError
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

    from nightshift.contracts.datasets import Column, DatasetContract
    from nightshift.contracts.drop_limits import DropLimits
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.files.block import Block
    from nightshift.quality.files.file_blocks import Source

WRONG_TYPE_RATIO = 0.5
"""Share of a column's values, 0 to 1, above which a wrong type is a changed schema and no longer
single bad rows. Source: ADR 0005.
"""
_EVIDENCE_RATIO, _EVIDENCE_VALUES = 0.01, 2
"""Share of a file's rows, 0 to 1, and number of them, that must have a wrong value before a
column's type counts as changed: one odd value of a column that is otherwise empty says nothing.
Source: ADR 0041.
"""
SIMILARITY = 0.6
"""How alike a missing and an unknown column are called when one is suggested as the other.
Source: difflib's default.
"""
IN_MEMORY_BYTES = 32 * 1024**2
"""Text of a file that is checked as a whole. Its rows need about ten times as much until they
are staged; a larger one streams.
"""
_MOST_COUNTED_ROWS = 1_000_000
"""Rows beyond those of the manifest that are still counted, to say how many came."""
_LONGEST_NAME = 255
"""Bytes of a column's name. Names of PostgreSQL have 63, those of files a few more."""


class ContractError(NightshiftError):
    """A delivered file does not keep its contract; none of its rows is visible."""

    code = "NS-CONTRACT-001"


class DigestError(ContractError):
    """The file is not the one that the manifest describes."""

    code = "NS-CONTRACT-002"


class RowCountError(ContractError):
    """The file has another number of rows than the manifest says: it is truncated, or was written to again."""

    code = "NS-CONTRACT-003"


class ColumnsError(ContractError):
    """Columns are missing, renamed or delivered twice."""

    code = "NS-CONTRACT-004"


class TypeChangedError(ContractError):
    """Most values of a column have another type than the contract says."""

    code = "NS-CONTRACT-005"


class RefusedRatioError(ContractError):
    """More rows were refused than the contract allows, or fewer were good than it demands."""

    code = "NS-CONTRACT-006"


class UnreadableError(ContractError):
    """The file is no text in UTF-8, or follows a schema version that the contract does not know."""

    code = "NS-CONTRACT-007"


class ReaderFailedError(ContractError):
    """The file made its reader, or the warehouse that was to store a value, fail in a way that nobody foresaw."""

    code = "NS-CONTRACT-008"


class LimitError(ContractError):
    """The file is larger than its contract allows, in whatever way."""

    code = "NS-CONTRACT-009"


class BackdatedError(ContractError):
    """The file says that it was delivered long before we received it, and its partition was known already."""

    code = "NS-CONTRACT-010"


class LargeFileError(Exception):
    """The text of a file is too large to be checked as a whole, whatever its manifest says: it must stream."""


@dataclass(frozen=True)
class DeliveredFile:
    """A file that keeps its contract as a whole; its rows are still to be checked.

    Attributes:
        texts: shape (n_rows, n_columns), text, one column per contract column that the schema
            version has, by its warehouse name.
        row_numbers: Position of each row in the file, 1 for the first behind the header.
        malformed: Position and text of rows with another number of fields than the header.
        notes: What the contract does not know and does not need: added columns.
    """

    texts: pa.Table
    row_numbers: npt.NDArray[np.int64]
    malformed: tuple[tuple[int, str], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class FileHead:
    """What is known of a file before its rows are read.

    Attributes:
        header: Its columns, in order.
        columns: Those of its schema version.
        notes: What the contract does not know and does not need: added columns.
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
        n_bytes += block.texts.nbytes
        if n_bytes > IN_MEMORY_BYTES:
            raise LargeFileError
        blocks.append(block)
    names = [column.name for column in head.columns]
    nothing = pa.table({name: pa.array([], pa.string()) for name in names})
    texts = pa.concat_tables([nothing, *(block.texts.rename_columns(names) for block in blocks)])
    numbers = np.concatenate(
        [np.empty(0, dtype=np.int64), *(block.row_numbers for block in blocks)]
    )
    return DeliveredFile(texts, numbers, tuple(malformed), head.notes)


def check_head(contract: DatasetContract, drop: DropManifest, source: bytes | Path) -> FileHead:
    """Check the columns of a file whose bytes are the right ones.

    Args:
        contract: What upstream promised.
        drop: The manifest.
        source: The file, or its bytes.

    Raises:
        ColumnsError: A column is missing, renamed or there twice.
        UnreadableError: It has no header, or its schema version is unknown.
    """
    columns = _columns_of(contract, drop)
    if not suffix_of(drop.data_key):
        raise _unreadable(drop, f"a file whose name ends with none of {', '.join(SUFFIXES)}")
    try:
        header = read_header(source, drop.data_key, contract.limits)
    except UnreadableFileError as error:
        raise _unreadable(drop, str(error)) from None
    except OverLimitError as error:
        raise over_limit(drop, error) from None
    if not header:
        raise _unreadable(drop, "it is empty")
    _check_names(contract, drop, header)
    notes = _check_columns(
        drop, columns, header, contract.version_for(drop.partition, drop.schema_version)
    )
    return FileHead(tuple(header), columns, notes, contract.limits)


def read_rows(
    drop: DropManifest,
    head: FileHead,
    source: Source,
    malformed: list[tuple[int, str]],
    names: Sequence[str] | None = None,
) -> Iterator[Block]:
    """Yield the rows of a file, columns as delivered; of more rows than the manifest says none is kept in memory.

    Args:
        drop: The manifest.
        head: What ``check_head`` gave.
        source: The file, its bytes, or one that is still coming.
        malformed: Is filled with position and text of rows with another number of fields than the
            header.
        names: Columns to read, as delivered; None reads all of the schema version.

    Raises:
        RowCountError: The number of rows is not that of the manifest; raised at the end, or when
            far too many came.
        UnreadableError: The file cannot be read to its end.
        LimitError: The file is larger than the contract allows.
    """
    n_rows = n_malformed = 0

    def set_aside(position: int, text: str) -> None:
        nonlocal n_malformed
        n_malformed += 1
        if n_malformed <= drop.n_rows:
            malformed.append((position, text))

    wanted = [column.delivered_name for column in head.columns] if names is None else names
    try:
        for block in read_blocks(
            source, drop.data_key, head.header, wanted, set_aside, head.limits
        ):
            n_rows += len(block.row_numbers)
            if n_rows + n_malformed <= drop.n_rows:
                yield block
            elif n_rows > drop.n_rows + _MOST_COUNTED_ROWS:
                raise _row_count(drop, f"more than {n_rows}")
    except UnreadableFileError as error:
        raise _unreadable(drop, str(error)) from None
    except OverLimitError as error:
        raise over_limit(drop, error) from None
    if n_rows + n_malformed != drop.n_rows:
        raise _row_count(drop, str(n_rows + n_malformed))


def _row_count(drop: DropManifest, got: str) -> RowCountError:
    return RowCountError(
        f"{_name(drop)} has another number of rows than its manifest says.",
        expected=f"{drop.n_rows} rows",
        got=f"{got} rows",
        todo="Ask upstream to deliver it again; a truncated file is never used.",
    )


def _columns_of(contract: DatasetContract, drop: DropManifest) -> tuple[Column, ...]:
    columns = contract.columns_of(contract.version_for(drop.partition, drop.schema_version))
    if columns is None:
        raise UnreadableError(
            f"{_name(drop)} follows an unknown schema version.",
            expected=f"1 to {contract.schema_version}",
            got=str(drop.schema_version),
            todo=allowed_commands(drop),
        )
    return tuple(columns)


def allowed_commands(drop: DropManifest) -> str:
    """Return what a person may do about a file whose schema is not the contract's."""
    return (
        "Nothing was written. By mistake: ask upstream to deliver it again, the next run takes the newer file. On purpose:"
        f"\n      nightshift contract diff {drop.dataset} {drop.partition}    # prints the difference and what to edit in the contract"
        "\n      nightshift migrate                                # after the edit"
        f"\n      nightshift redo --dataset {drop.dataset} --from {drop.partition}"
    )


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
    changed = [
        column
        for column in columns
        if is_other_type(n_wrong.get(column.name, 0), n_values.get(column.name, 0), drop.n_rows)
    ]
    if changed:
        lines = [
            f"{c.name}: expected {c.delivered_as or c.type}, {n_wrong[c.name]} of {n_values[c.name]} values are something else;"
            f" accepted: {accepted_form(c.delivered_as or c.type)}"
            for c in changed
        ]
        raise TypeChangedError(
            f"{_name(drop)} has columns of another type:\n    " + "\n    ".join(lines),
            todo=allowed_commands(drop),
        )


def is_other_type(n_wrong: int, n_values: int, n_rows: int) -> bool:
    """Return whether a column's values say that its type has changed.

    Args:
        n_wrong: Values that cannot be read as the type.
        n_values: All values that are not empty.
        n_rows: Rows of the file, empty values too.
    """
    is_most = n_wrong > WRONG_TYPE_RATIO * n_values
    return is_most and n_wrong >= max(_EVIDENCE_VALUES, _EVIDENCE_RATIO * n_rows)


def accepted_form(column_type: ColumnType) -> str:
    """Return in words how a value of a type is written; docs/values.md has every form."""
    return _ACCEPTED_FORMS[column_type]


_ACCEPTED_FORMS = {
    ColumnType.TEXT: "text in UTF-8 without NUL characters",
    ColumnType.INTEGER: "whole numbers of 64 bits, like 1200 or 12.0, without thousands separators",
    ColumnType.NUMBER: "numbers with a decimal point, like 12.5 or 1e-3, without thousands separators",
    ColumnType.BOOLEAN: "true or false, t or f, yes or no, 1 or 0",
    ColumnType.DATE: "YYYY-MM-DD",
    ColumnType.UTC_TIMESTAMP: "YYYY-MM-DD HH:MM[:SS[.ffffff]] in UTC, or with an offset like +02:00",
    ColumnType.LOCAL_TIMESTAMP: "YYYY-MM-DD HH:MM[:SS[.ffffff]] on the zone's clock, or with an offset like +02:00",
}


def check_refused(
    contract: DatasetContract,
    drop: DropManifest,
    n_good: int,
    reasons: Mapping[str, int],
    hint: str = "",
) -> None:
    """Refuse a file with more bad rows, or fewer good ones, than the contract allows.

    Args:
        contract: Whose limits count.
        drop: The file.
        n_good: Accepted rows, duplicates counted once.
        reasons: Refused rows by reason, equal ones counted as often as they came.
        hint: More for a person to know about these reasons.

    Raises:
        RefusedRatioError: A limit is exceeded.
    """
    n_refused = sum(reasons.values())
    said = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items())) or "none refused"
    if n_refused > contract.maximum_refused_ratio * (n_good + n_refused):
        expected = f"at most {contract.maximum_refused_ratio:.1%} of the rows refused"
    elif n_good < contract.minimum_rows:
        expected = f"at least {contract.minimum_rows} good rows"
    else:
        return
    raise RefusedRatioError(
        f"{_name(drop)} does not have enough good rows.",
        expected=expected,
        got=f"{n_good} good, {n_refused} refused: {said}",
        todo="Ask upstream for a corrected file; change the limit in the contract only if such rows are normal."
        + hint,
    )


def _name(drop: DropManifest) -> str:
    return f"{drop.dataset} of {drop.partition} ({drop.data_key})"


def _check_digest(drop: DropManifest, data: bytes) -> None:
    if (got := sha256(data).hexdigest()) != drop.sha256:
        n_lines = max(data.count(b"\n") - 1, 0)
        raise digest_error(drop, f"sha256 {got}, {n_lines} lines, {len(data)} bytes")


def digest_error(drop: DropManifest, got: str) -> DigestError:
    """Return the refusal of a file that is not the one of its manifest."""
    return DigestError(
        f"{_name(drop)} is not the file that its manifest describes: it is corrupt or truncated.",
        expected=f"sha256 {drop.sha256}, {drop.n_rows} rows",
        got=got,
        todo="Ask upstream to deliver it again.",
    )


def _unreadable(drop: DropManifest, why: str) -> UnreadableError:
    return UnreadableError(
        f"{_name(drop)} cannot be read.",
        expected="CSV text in UTF-8 with a header, plain or compressed, or Parquet",
        got=why,
        todo="Ask for it again.",
    )


def over_limit(drop: DropManifest, error: OverLimitError) -> LimitError:
    """Return the refusal of a file that is larger than its contract allows."""
    return LimitError(
        f"{_name(drop)} is larger than its contract allows.",
        expected=f"at most {error.most:g} by limits.{error.limit}",
        got=error.got,
        todo="Nothing was written. Ask upstream whether the file is right; if it is, raise the limit in the contract, then:"
        f"\n      nightshift redo --dataset {drop.dataset} --from {drop.partition}",
    )


def _check_names(contract: DatasetContract, drop: DropManifest, header: Sequence[str]) -> None:
    """Refuse names that nobody can store or show: PostgreSQL has no NUL, and a log line no line end."""
    if len(header) > contract.limits.columns:
        raise over_limit(drop, OverLimitError("columns", contract.limits.columns, str(len(header))))
    for place, name in enumerate(header, 1):
        if len(name.encode(errors="replace")) > _LONGEST_NAME or (name and not name.isprintable()):
            raise _unreadable(
                drop,
                f"the name of column {place} is longer than {_LONGEST_NAME} bytes, or has control characters",
            )


def _check_columns(
    drop: DropManifest, columns: Sequence[Column], header: Sequence[str], version: int
) -> tuple[str, ...]:
    """Return notes on added columns.

    A file without a header has a row in its place, so a name that the contract does not know may be
    a person's. It is counted, not told; `contract diff` shows it to whoever asks.
    """
    expected = [column.delivered_name for column in columns]
    missing = [name for name in expected if name not in header]
    n_added = sum(name not in expected for name in header)
    repeated = [name for name in expected if header.count(name) > 1]
    n_repeated = len({name for name in header if name not in expected and header.count(name) > 1})
    if missing or repeated or n_repeated:
        lines = [f"- {name}  (missing)" for name in missing]
        lines += [f"! {name}  (delivered {header.count(name)} times)" for name in repeated]
        lines += [f"! {n_repeated} unknown name(s) delivered more than once"] if n_repeated else []
        raise ColumnsError(
            f"{_name(drop)} has other columns than schema version {version}:\n    "
            + "\n    ".join(lines),
            expected=", ".join(expected),
            got=f"{len(header) - n_added} of them, and {n_added} column(s) that the contract does not know; is there a header?",
            todo=allowed_commands(drop),
        )
    return tuple(f"added column ignored: {_told(name)}" for name in header if name not in expected)


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def _told(name: str) -> str:
    """Return the name of an added column if it is a word; the file has a header, for all names of the contract are in it."""
    return name if _IDENTIFIER.fullmatch(name) else "one whose name is no identifier"
