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
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.datasets import DatasetContract
from nightshift.contracts.partitions import Partition
from nightshift.ingestion.rows.cast import Reason
from nightshift.ingestion.rows.local_time import clock_changes
from nightshift.ingestion.rows.refused_rows import RefusedRows
from nightshift.ingestion.rows.repeated_keys import codes_of, is_repeated, resolve_repeated_keys
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
    refused: tuple[RefusedRows, ...]
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
) -> list[RefusedRows]:
    """Return the distinct refused rows of each file, with their text.

    Args:
        malformed: Malformed rows of each file.
        rows: All other rows.
        left_out: Indices of files whose rows are not listed.
    """
    all_refused = np.flatnonzero(rows.verdict >= 0)
    file_index = rows.file_index[all_refused]
    refused = []
    for index, lines in enumerate(malformed):
        if index in left_out:
            refused.append(RefusedRows())
            continue
        chosen = all_refused[file_index == index]
        of_file = None
        # Most files have none.
        if len(chosen):
            codes = codes_of(rows.strings.take(chosen), rows.file_index[chosen])
            is_copy = is_repeated(codes, keeps_first=True)
            of_file = rows.take(chosen[~is_copy])
        refused.append(RefusedRows(malformed_rows(lines), of_file))
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
        check_types(drop, columns, n_values, n_wrong)
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
