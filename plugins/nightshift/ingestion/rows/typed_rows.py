"""Type the rows of many files at once, and refuse each row that breaks the contract by itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightshift.contracts.partitions import Partition
from nightshift.errors import SpecError
from nightshift.ingestion.rows.cast import ARROW_TYPES, CastColumn, Reason, cast_column, cast_texts
from nightshift.quality.contract_errors import accepted_form

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.contracts.datasets import Column, DatasetContract
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.contract_check import DeliveredFile

    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]

REASONS = tuple(Reason)
# Verdicts of a row that is not refused; a refused row has the index of its reason.
GOOD, DUPLICATE = -1, -2
_ROW_ARRAYS = ("file_index", "row_numbers", "verdict", "culprit", "was_twice")


@dataclass
class TypedRows:
    """Rows of some files: as delivered, typed, and each with a verdict.

    Attributes:
        strings: shape (n, n_columns), the contract's columns as delivered.
        values: shape (n, n_columns), the same, typed.
        file_index: shape (n,), index of each row's file.
        row_numbers: shape (n,), position of each row in its file.
        verdict: shape (n,), ``GOOD``, ``DUPLICATE`` or the index in ``REASONS``.
        culprit: shape (n,), index of the column at fault, -1 for the whole row.
        was_twice: shape (n,), whether the clock showed a time of the row's key twice, and no offset
            says which one is meant.
        n_values: By column, shape (n_files,), values of each file.
        n_wrong: By column, shape (n_files,), those among them of another type.
    """

    strings: pa.Table
    values: pa.Table
    file_index: Numbers
    row_numbers: Numbers
    verdict: Numbers
    culprit: Numbers
    was_twice: Mask
    n_values: dict[str, Numbers]
    n_wrong: dict[str, Numbers]

    def take(self, indices: Numbers) -> TypedRows:
        """Return only these rows; the counts of columns stay those of all rows."""
        arrays: dict[str, Any] = {name: getattr(self, name)[indices] for name in _ROW_ARRAYS}
        return replace(
            self,
            strings=self.strings.take(indices),
            values=self.values.take(indices),
            **arrays,
        )

    @classmethod
    def concat(cls, parts: Sequence[TypedRows]) -> TypedRows:
        """Return the rows of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        arrays: dict[str, Any] = {}
        for name in _ROW_ARRAYS:
            of_parts = [getattr(part, name) for part in parts]
            arrays[name] = np.concatenate(of_parts)
        strings = pa.concat_tables([part.strings for part in parts])
        values = pa.concat_tables([part.values for part in parts])
        return cls(
            strings=strings,
            values=values.combine_chunks(),
            n_values=_sum_by_column([part.n_values for part in parts]),
            n_wrong=_sum_by_column([part.n_wrong for part in parts]),
            **arrays,
        )

    def refuse(
        self,
        indices: Numbers,
        reason: Reason,
        culprit: int,
    ) -> None:
        """Refuse those of some rows that are good so far; the first reason is the one recorded.

        Args:
            indices: The rows.
            reason: Why.
            culprit: Index of the column at fault, -1 for the whole row.
        """
        is_good = self.verdict[indices] == GOOD
        still_good = indices[is_good]
        self.verdict[still_good] = REASONS.index(reason)
        self.culprit[still_good] = culprit


def type_rows(
    contract: DatasetContract,
    drops: Sequence[DropManifest],
    files: Sequence[DeliveredFile],
) -> TypedRows:
    """Type all rows and refuse those that break the contract by themselves.

    Rows are in the order of schema versions, files and positions.

    Args:
        contract: What upstream promised; a column that a schema version lacks has its default, or
            null.
        drops: The manifests of the files.
        files: The files, at least one.

    Raises:
        SpecError: The default of such a column is no value of its type.
    """
    by_version: dict[int, list[int]] = {}
    for index, drop in enumerate(drops):
        version = contract.version_for(drop.partition, drop.schema_version)
        by_version.setdefault(version, []).append(index)
    parts = []
    for version, indices in sorted(by_version.items()):
        part = _type_version(contract, version, files, indices)
        parts.append(part)
    rows = TypedRows.concat(parts)
    _refuse_outside_partition(contract, drops, rows)
    return rows


def _type_version(
    contract: DatasetContract,
    version: int,
    files: Sequence[DeliveredFile],
    indices: list[int],
) -> TypedRows:
    """Type the rows of those files that have one schema version."""
    names = [column.name for column in contract.columns]
    rows = _untyped_rows(names, files, indices)
    n_rows = len(rows.verdict)
    delivered = {column.name: column for column in contract.columns_of(version) or ()}
    values = {}
    for index, column in enumerate(contract.columns):
        if column.name not in delivered:
            values[column.name] = _defaults(column, n_rows, contract.timezone)
            continue
        strings = rows.strings[column.name]
        cast = cast_column(strings, delivered[column.name], contract.timezone)
        values[column.name] = cast.values.cast(ARROW_TYPES[column.type])
        if cast.was_twice is not None and column.name in contract.key:
            rows.was_twice |= cast.was_twice
        _record_problems(rows, index, column.name, cast)
    rows.values = pa.table(values)
    return rows


def _untyped_rows(
    names: Sequence[str],
    files: Sequence[DeliveredFile],
    indices: Sequence[int],
) -> TypedRows:
    """Return the rows of some files as delivered, all of them good so far."""
    members = [files[index] for index in indices]
    lengths = [member.strings.num_rows for member in members]
    row_numbers = [np.asarray(member.row_numbers, dtype=np.int64) for member in members]
    n_rows = sum(lengths)
    n_files = len(files)
    file_numbers = np.array(indices, dtype=np.int64)
    return TypedRows(
        strings=pa.concat_tables([_with_all_columns(member.strings, names) for member in members]),
        values=pa.table({}),
        file_index=np.repeat(file_numbers, lengths),
        row_numbers=np.concatenate(row_numbers),
        verdict=np.full(n_rows, GOOD),
        culprit=np.full(n_rows, -1),
        was_twice=np.zeros(n_rows, dtype=bool),
        n_values={name: np.zeros(n_files, dtype=np.int64) for name in names},
        n_wrong={name: np.zeros(n_files, dtype=np.int64) for name in names},
    )


def _with_all_columns(
    strings: pa.Table,
    names: Sequence[str],
) -> pa.Table:
    """Return the contract's columns; one that the file lacks is null."""
    delivered = set(strings.column_names)
    for name in names:
        if name not in delivered:
            nulls = pa.nulls(strings.num_rows, pa.string())
            strings = strings.append_column(name, nulls)
    return strings.select(names)


def _defaults(
    column: Column,
    n_rows: int,
    timezone: str,
) -> pa.Array:
    """Return the values of a column that a schema version lacks."""
    if column.default is None:
        return pa.nulls(n_rows, ARROW_TYPES[column.type])
    value = cast_texts([column.default], column, timezone).values[0]
    # Rows without a value would be stored silently, also in a column that has one in each row.
    if column.default and not value.is_valid:
        delivered_type = column.delivered_as or column.type
        raise SpecError(
            f"The default of column {column.name} is no {delivered_type}.",
            expected=accepted_form(delivered_type),
            got=repr(column.default),
            todo="Correct it in the dataset's contract.",
        )
    return pa.repeat(value, n_rows)


def _record_problems(
    rows: TypedRows,
    index: int,
    name: str,
    cast: CastColumn,
) -> None:
    """Count the values of a column and refuse the rows with a problem."""
    n_files = len(rows.n_values[name])
    strings = rows.strings[name]
    with_value = rows.file_index
    if strings.null_count:
        is_present = np.asarray(strings.is_valid())
        with_value = with_value[is_present]
    rows.n_values[name] += np.bincount(with_value, minlength=n_files)
    # In the order of the reasons: of several problems of a row the first one is recorded.
    for reason in REASONS:
        mask = cast.problems.get(reason)
        if mask is None:
            continue
        if reason is Reason.WRONG_TYPE:
            with_wrong = rows.file_index[mask]
            rows.n_wrong[name] += np.bincount(with_wrong, minlength=n_files)
        rows.refuse(np.flatnonzero(mask), reason, index)


def _refuse_outside_partition(
    contract: DatasetContract,
    drops: Sequence[DropManifest],
    rows: TypedRows,
) -> None:
    """Refuse rows whose time or day lies outside of the partition of their file."""
    names = [column.name for column in contract.columns]
    partitions = [Partition(drop.partition, contract.timezone) for drop in drops]
    if contract.event_timestamp:
        starts = _naive([partition.start for partition in partitions])
        ends = _naive([partition.end for partition in partitions])
        times = rows.values.column(contract.event_timestamp).to_numpy()
        times = times.astype("datetime64[us]")
        is_early = times < starts[rows.file_index]
        is_late = times >= ends[rows.file_index]
        outside = np.flatnonzero(is_early | is_late)
        culprit = names.index(contract.event_timestamp)
        rows.refuse(outside, Reason.OUTSIDE_PARTITION, culprit)
    if contract.day_column:
        due = [partition.shift(contract.day_offset_days).day for partition in partitions]
        due_days = np.array(due, dtype="datetime64[D]")
        days = rows.values.column(contract.day_column).to_numpy()
        is_other_day = days.astype("datetime64[D]") != due_days[rows.file_index]
        outside = np.flatnonzero(is_other_day)
        culprit = names.index(contract.day_column)
        rows.refuse(outside, Reason.OUTSIDE_PARTITION, culprit)


def _naive(instants: Sequence[dt.datetime]) -> npt.NDArray[np.datetime64]:
    """Return instants as numpy has them, without a timezone."""
    without_zone = [instant.replace(tzinfo=None) for instant in instants]
    return np.array(without_zone, dtype="datetime64[us]")


def _sum_by_column(counts: Sequence[dict[str, Numbers]]) -> dict[str, Numbers]:
    """Return the sums of counts by file, by column."""
    total = {}
    for name in counts[0]:
        total[name] = np.sum([part[name] for part in counts], axis=0)
    return total
