"""Split the rows of many files into good and refused ones, all files at once.

A row that is there twice with the same content counts once. Rows of one file with the same key and
different content are all refused: nobody can tell which is right. So are rows whose keys differ
only by which of two equal hours is meant, on the day the clock is set back. Every delivered row is
accepted, repeated or refused. Source: docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nightshift.contracts.datasets import ColumnType, DatasetContract
from nightshift.contracts.partitions import Partition
from nightshift.ingestion.rows.cast import Reason
from nightshift.ingestion.rows.local_time import clock_changes
from nightshift.ingestion.rows.typed_rows import DUPLICATE, GOOD, REASONS, TypedRows, type_rows
from nightshift.quality.contract_check import DeliveredFile, check_refused, check_types
from nightshift.quality.contract_errors import ContractError
from nightshift.quality.quarantine import RefusedRow

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.lake.drops import DropManifest

    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]

ByColumn = Mapping[str, int]
# Position and text of each row with another number of fields than the header.
MalformedRows = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class CheckedRows:
    """The rows of several files.

    Attributes:
        values: shape (n_good, n_columns), the contract's columns, typed, good rows only, in the
            order of schema versions, files and rows.
        file_index: shape (n_good,), index of each row's file.
        row_numbers: shape (n_good,), position of each row in its file.
        refused: Distinct refused rows of each file, to be kept.
        n_refused: Refused rows of each file, equal ones counted as often as they came.
        n_duplicated: Rows of each file that repeat an earlier one.
        errors: Refusal of a complete file, by its index.
    """

    values: pa.Table
    file_index: Numbers
    row_numbers: Numbers
    refused: tuple[tuple[RefusedRow, ...], ...]
    n_refused: tuple[int, ...]
    n_duplicated: tuple[int, ...]
    errors: dict[int, ContractError]


def check_rows(
    contract: DatasetContract,
    drops: Sequence[DropManifest],
    files: Sequence[DeliveredFile],
    *,
    lists_all: bool = False,
) -> CheckedRows:
    """Type the rows, check them against the contract, and decide on each file by its rows.

    Args:
        contract: What upstream promised.
        drops: The manifests of the files.
        files: The files, at least one.
        lists_all: List the refused rows also of a file that is refused completely.
    """
    rows = type_rows(contract, drops, files)
    # After each row was checked by itself: a refused row takes no key from a good one.
    resolve_repeated_keys(contract, rows)

    n_files = len(files)
    is_good = rows.verdict == GOOD
    is_duplicate = rows.verdict == DUPLICATE
    n_good = _count_by_file(rows, is_good, n_files)
    n_duplicated = _count_by_file(rows, is_duplicate, n_files)
    malformed = [file.malformed for file in files]
    reasons = reasons_by_file(malformed, rows)
    errors = {}
    for i, drop in enumerate(drops):
        counts = count_values(rows, i)
        error = find_file_error(
            contract,
            drop,
            counts,
            n_good[i],
            reasons[i],
        )
        if error is not None:
            errors[i] = error
    # Nobody keeps the rows of a refused file, and a hostile one has millions of them.
    left_out = [] if lists_all else [*errors]
    return CheckedRows(
        values=rows.values.filter(is_good),
        file_index=rows.file_index[is_good],
        row_numbers=rows.row_numbers[is_good],
        refused=tuple(refused_by_file(malformed, rows, left_out)),
        n_refused=tuple(of_file.total() for of_file in reasons),
        n_duplicated=tuple(n_duplicated),
        errors=errors,
    )


def _count_by_file(
    rows: TypedRows,
    chosen: Mask,
    n_files: int,
) -> list[int]:
    """Return the chosen rows of each file."""
    index = rows.file_index[chosen]
    counts: list[int] = np.bincount(index, minlength=n_files).tolist()
    return counts


def resolve_repeated_keys(
    contract: DatasetContract,
    rows: TypedRows,
) -> None:
    """Keep the first of equal rows; refuse rows that share a key in a file but differ.

    Rows that share a key because the clock showed its time twice are no duplicates, even if they
    are equal: all are refused.

    Args:
        contract: Its key.
        rows: All rows of the files; their verdicts change.
    """
    repeated = _rows_with_repeated_key(contract, rows)
    in_repeated_hour = repeated[rows.was_twice[repeated]]
    if len(in_repeated_hour):
        culprit = _local_time_of_key(contract)
        rows.refuse(
            in_repeated_hour,
            Reason.REPEATED_HOUR,
            culprit,
        )
        # A key of which one row is left is repeated no more.
        repeated = _rows_with_repeated_key(contract, rows)
    if not len(repeated):
        return
    contents = _row_codes(
        rows,
        repeated,
        rows.values.column_names,
    )
    is_copy = _is_repeated(contents, keeps_first=True)
    rows.verdict[repeated[is_copy]] = DUPLICATE

    # What still shares a key differs in another column.
    distinct = repeated[~is_copy]
    keys = _row_codes(
        rows,
        distinct,
        contract.key,
    )
    conflicting = distinct[_is_repeated(keys)]
    rows.refuse(
        conflicting,
        Reason.CONFLICTING_KEY,
        -1,
    )


def _rows_with_repeated_key(
    contract: DatasetContract,
    rows: TypedRows,
) -> Numbers:
    """Return the good rows whose key another good row of their file has."""
    good = np.flatnonzero(rows.verdict == GOOD)
    keys = _row_codes(
        rows,
        good,
        contract.key,
    )
    return good[_is_repeated(keys)]


def _local_time_of_key(contract: DatasetContract) -> int:
    """Return the index of the key's first column with local times, -1 for none."""
    for index, column in enumerate(contract.columns):
        is_local_time = column.type is ColumnType.LOCAL_TIMESTAMP
        if is_local_time and column.name in contract.key:
            return index
    return -1


def _is_repeated(
    codes: Numbers,
    *,
    keeps_first: bool = False,
) -> Mask:
    """Return whether each code is there more than once; the first one may be left out."""
    import pandas as pd

    keep: Literal["first", False] = "first" if keeps_first else False
    return pd.Series(codes).duplicated(keep=keep).to_numpy()


def _row_codes(
    rows: TypedRows,
    chosen: Numbers,
    names: Sequence[str],
) -> Numbers:
    """Return one number per chosen row, equal for rows of a file that are equal in some columns.

    Args:
        rows: The rows.
        chosen: shape (n,), indices of rows.
        names: Columns to compare.

    Returns:
        shape (n,).
    """
    import pandas as pd

    codes = rows.file_index[chosen]
    compared = rows.values.select(list(names)).take(chosen)  # noqa: PD011
    for column in compared.columns:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        n_distinct = indices.max(initial=0) + 1
        # Renumbered after each column, so that the product never overflows.
        codes = pd.factorize(codes * n_distinct + indices)[0]
    return codes


def malformed_rows(lines: MalformedRows) -> list[RefusedRow]:
    """Return the distinct rows among the malformed ones of a file."""
    distinct: dict[str, RefusedRow] = {}
    for number, text in lines:
        row = RefusedRow(
            number,
            Reason.MALFORMED_ROW,
            None,
            {"line": text},
        )
        distinct.setdefault(text, row)
    return list(distinct.values())


def refused_by_file(
    malformed: Sequence[MalformedRows],
    rows: TypedRows,
    left_out: Collection[int] = (),
) -> list[tuple[RefusedRow, ...]]:
    """Return the distinct refused rows of each file, with their text.

    Args:
        malformed: Malformed rows of each file.
        rows: All other rows.
        left_out: Indices of files whose rows are not listed.
    """
    distinct: list[dict[tuple[Any, ...], RefusedRow]] = [{} for _ in malformed]
    names = rows.strings.column_names
    is_listed = (rows.verdict >= 0) & ~np.isin(
        rows.file_index,
        list(left_out),
    )
    listed = rows.take(np.flatnonzero(is_listed))
    for i, delivered in enumerate(listed.strings.to_pylist()):
        culprit = listed.culprit[i]
        row = RefusedRow(
            row_number=int(listed.row_numbers[i]),
            reason=REASONS[listed.verdict[i]],
            column=names[culprit] if culprit >= 0 else None,
            delivered=delivered,
        )
        distinct[listed.file_index[i]].setdefault(
            tuple(delivered.values()),
            row,
        )

    refused = []
    for index, of_file in enumerate(distinct):
        first = [] if index in left_out else malformed_rows(malformed[index])
        refused.append((*first, *of_file.values()))
    return refused


def reasons_by_file(
    malformed: Sequence[MalformedRows],
    rows: TypedRows,
) -> list[Counter[str]]:
    """Count the refused rows of each file by reason; equal rows count as often as they came."""
    is_refused = rows.verdict >= 0
    counts = np.zeros((len(malformed), len(REASONS)), dtype=np.int64)
    np.add.at(
        counts,
        (rows.file_index[is_refused], rows.verdict[is_refused]),
        1,
    )
    # Malformed rows have no cells, so they are none of the rows above.
    n_malformed = [len(of_file) for of_file in malformed]
    counts[:, REASONS.index(Reason.MALFORMED_ROW)] += n_malformed
    reasons = []
    for of_file in counts.tolist():
        by_reason = zip(REASONS, of_file, strict=True)
        reasons.append(Counter[str]({reason: n for reason, n in by_reason if n}))
    return reasons


def count_values(
    rows: TypedRows,
    index: int,
) -> tuple[ByColumn, ByColumn]:
    """Return how many values each column of a file has, and how many of another type.

    Args:
        rows: Rows of several files.
        index: The file.
    """
    n_values = {name: int(by_file[index]) for name, by_file in rows.n_values.items()}
    n_wrong = {name: int(by_file[index]) for name, by_file in rows.n_wrong.items()}
    return n_values, n_wrong


def find_file_error(
    contract: DatasetContract,
    drop: DropManifest,
    counts: tuple[ByColumn, ByColumn],
    n_good: int,
    reasons: Mapping[str, int],
) -> ContractError | None:
    """Return why a complete file is refused, None if it is not.

    Args:
        contract: What upstream promised.
        drop: The file.
        counts: Values by column, and those of another type.
        n_good: Accepted rows.
        reasons: Refused rows by reason.
    """
    columns = contract.columns_for(drop.partition, drop.schema_version) or ()
    n_values, n_wrong = counts
    try:
        # Types first: a changed type refuses most rows, and is the better explanation.
        check_types(
            drop,
            columns,
            n_values,
            n_wrong,
        )
        hint = _clock_hint(contract, drop, reasons)
        check_refused(
            contract,
            drop,
            n_good,
            reasons,
            hint,
        )
    except ContractError as error:
        return error
    return None


def _clock_hint(
    contract: DatasetContract,
    drop: DropManifest,
    reasons: Mapping[str, int],
) -> str:
    """Return when the clock was set on the day of a file; empty if no row suffers from it."""
    suffered = reasons.keys() & {Reason.REPEATED_HOUR, Reason.NONEXISTENT_TIME}
    if not suffered:
        return ""
    day = Partition(drop.partition, contract.timezone)
    changes = clock_changes(
        day.start,
        day.end,
        contract.timezone,
    )
    times = "; ".join(map(str, changes)) or "not on this day"
    return (
        f"\n      The clock of {contract.timezone} was set: {times}."
        "\n      Ask for times with their offset (2013-11-03T01:00:00-05:00),"
        " or in UTC for a column of type utc_timestamp."
    )
