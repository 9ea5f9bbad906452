"""Split the rows of many files into good ones and refused ones, all files at once.

A row that is there twice with the same content counts once. Rows of one file with the same key and
different content are all refused: nobody can say which is right. So are rows whose keys differ only
by which of two equal hours is meant, on the day the clock is set back. Every delivered row is
accepted, repeated or refused. Source: docs/adr/0041-values-and-counts.md.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.contracts.datasets import ColumnType
from nightshift.contracts.partitions import Partition
from nightshift.ingestion.cast import CastColumn, Reason, arrow_type, cast_column
from nightshift.ingestion.local_time import clock_changes
from nightshift.quality.contract_check import check_refused, check_types
from nightshift.quality.contract_errors import ContractError
from nightshift.quality.quarantine import RefusedRow

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.datasets import Column, DatasetContract
    from nightshift.lake.drops import DropManifest
    from nightshift.quality.contract_check import DeliveredFile

    Mask = npt.NDArray[np.bool_]

_REASONS = tuple(Reason)
GOOD, DUPLICATE = -1, -2
"""What a row's verdict is beside the place of a reason."""


@dataclass(frozen=True)
class CheckedRows:
    """The rows of several files.

    Attributes:
        values: shape (n_good, n_columns), the contract's columns, typed, good rows only, in the
            order of files and rows.
        places: shape (n_good,), index of each row's file.
        row_numbers: shape (n_good,), position of each row in its file.
        refused: Distinct refused rows of each file, to be kept.
        n_refused: Refused rows of each file, equal ones counted as often as they came.
        n_duplicated: Rows of each file that repeat an earlier one.
        errors: What is wrong with a file as a whole, by its index.
    """

    values: pa.Table
    places: npt.NDArray[np.int64]
    row_numbers: npt.NDArray[np.int64]
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
    """Type the rows, hold them against the contract, and judge each file by its rows.

    Args:
        contract: What upstream promised.
        drops: The manifests of the files.
        files: The files, at least one.
        lists_all: List the refused rows also of a file that is refused as a whole.
    """
    rows = type_rows(contract, drops, files)
    settle_repeated_keys(contract, rows)
    is_good = rows.verdict == GOOD
    n_good = np.bincount(rows.places[is_good], minlength=len(files)).tolist()
    reasons = reasons_by_file(files, rows)
    judged = [
        judge(contract, drop, counted_of(rows, i), n_good[i], reasons[i])
        for i, drop in enumerate(drops)
    ]
    errors = {i: error for i, error in enumerate(judged) if error}
    # Nobody keeps the rows of a refused file, and a hostile one has millions of them.
    refused = refused_by_file(files, rows, set() if lists_all else errors.keys())
    n_duplicated = np.bincount(rows.places[rows.verdict == DUPLICATE], minlength=len(files))
    return CheckedRows(
        values=rows.values.filter(is_good),
        places=rows.places[is_good],
        row_numbers=rows.numbers[is_good],
        refused=tuple(refused),
        n_refused=tuple(of_file.total() for of_file in reasons),
        n_duplicated=tuple(n_duplicated.tolist()),
        errors=errors,
    )


@dataclass
class TypedRows:
    """Delivered rows of some files; ``verdict`` is the place of a reason, or good, or duplicate.

    ``was_twice`` says whether a time in the row's key was there twice on the clock, and no offset
    says which is meant.
    """

    texts: pa.Table
    values: pa.Table
    places: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    verdict: npt.NDArray[np.int64]
    culprit: npt.NDArray[np.int64]
    was_twice: Mask
    n_values: dict[str, npt.NDArray[np.int64]]
    n_wrong: dict[str, npt.NDArray[np.int64]]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return the typed values of one column."""
        return self.values.column(name)

    def take(self, chosen: npt.NDArray[np.int64]) -> TypedRows:
        """Return only these rows; what was counted of columns stays."""
        return replace(
            self,
            texts=self.texts.take(chosen),
            values=self.values.take(chosen),
            places=self.places[chosen],
            numbers=self.numbers[chosen],
            verdict=self.verdict[chosen],
            culprit=self.culprit[chosen],
            was_twice=self.was_twice[chosen],
        )

    @classmethod
    def together(cls, parts: Sequence[TypedRows]) -> TypedRows:
        """Return the rows of all parts, one behind the other; what was counted of columns is that of the first."""
        import pyarrow as pa

        return replace(
            parts[0],
            texts=pa.concat_tables([part.texts for part in parts]),
            values=pa.concat_tables([part.values for part in parts]).combine_chunks(),
            places=np.concatenate([part.places for part in parts]),
            numbers=np.concatenate([part.numbers for part in parts]),
            verdict=np.concatenate([part.verdict for part in parts]),
            culprit=np.concatenate([part.culprit for part in parts]),
            was_twice=np.concatenate([part.was_twice for part in parts]),
        )

    def refuse(self, mask: Mask, reason: Reason, culprit: int) -> None:
        """Refuse rows that are good so far; ``culprit`` is the place of the column at fault, -1 for the whole row."""
        first = mask & (self.verdict == GOOD)
        self.verdict[first] = _REASONS.index(reason)
        self.culprit[first] = culprit


def type_rows(
    contract: DatasetContract, drops: Sequence[DropManifest], files: Sequence[DeliveredFile]
) -> TypedRows:
    """Type all rows and hold each by itself against the contract; a schema version without a column has its default, or null."""
    import pyarrow as pa

    version_of = [contract.version_for(drop.partition, drop.schema_version) for drop in drops]
    versions = sorted(set(version_of))
    members = [
        [i for i, of_drop in enumerate(version_of) if of_drop == version] for version in versions
    ]
    order = [place for places in members for place in places]
    lengths = [files[place].texts.num_rows for place in order]
    names = [column.name for column in contract.columns]
    n, n_files = sum(lengths), len(files)
    rows = TypedRows(
        texts=pa.concat_tables([_with_all_columns(files[place].texts, names) for place in order]),
        values=pa.table({}),
        places=np.repeat(np.array(order, dtype=np.int64), lengths),
        numbers=np.concatenate(
            [np.asarray(files[place].row_numbers, dtype=np.int64) for place in order]
        ),
        verdict=np.full(n, GOOD),
        culprit=np.full(n, -1),
        was_twice=np.zeros(n, dtype=bool),
        n_values={name: np.zeros(n_files, dtype=np.int64) for name in names},
        n_wrong={name: np.zeros(n_files, dtype=np.int64) for name in names},
    )
    parts, start = [], 0
    for version, places in zip(versions, members, strict=True):
        length = sum(files[place].texts.num_rows for place in places)
        parts.append(_cast_version(contract, version, rows, slice(start, start + length)))
        start += length
    rows.values = pa.concat_tables(parts).combine_chunks()
    _refuse_outside_partition(contract, drops, rows)
    return rows


def _with_all_columns(texts: pa.Table, names: Iterable[str]) -> pa.Table:
    import pyarrow as pa

    there = set(texts.column_names)
    return pa.table(
        {
            name: texts[name] if name in there else pa.nulls(texts.num_rows, pa.string())
            for name in names
        }
    )


def _cast_version(
    contract: DatasetContract, version: int, rows: TypedRows, part: slice
) -> pa.Table:
    import pyarrow as pa

    then = {column.name: column for column in contract.columns_of(version) or ()}
    texts = rows.texts.slice(part.start, part.stop - part.start)
    columns: dict[str, pa.Array] = {}
    for number, now in enumerate(contract.columns):
        if now.name not in then:
            columns[now.name] = _defaults(now, texts.num_rows, contract.timezone)
            continue
        cast = cast_column(texts[now.name], then[now.name], contract.timezone)
        columns[now.name] = cast.values.cast(arrow_type(now.type))
        if cast.was_twice is not None and now.name in contract.key:
            rows.was_twice[part] |= cast.was_twice
        _record_problems(rows, part, number, now, texts, cast)
    return pa.table(columns)


def _defaults(column: Column, n_rows: int, timezone: str) -> pa.Array:
    import pyarrow as pa

    if column.default is None:
        return pa.nulls(n_rows, arrow_type(column.type))
    return cast_column(
        pa.chunked_array([pa.repeat(column.default, n_rows)]), column, timezone
    ).values


def _record_problems(
    rows: TypedRows, part: slice, number: int, column: Column, texts: pa.Table, cast: CastColumn
) -> None:
    places, n_files = rows.places[part], len(rows.n_values[column.name])
    delivered = texts[column.name]
    has_value = np.asarray(delivered.is_valid()) if delivered.null_count else slice(None)
    rows.n_values[column.name] += np.bincount(places[has_value], minlength=n_files)
    if (wrong := cast.problems.get(Reason.WRONG_TYPE)) is not None:
        rows.n_wrong[column.name] += np.bincount(places[wrong], minlength=n_files)
    for reason in _REASONS:
        if (mask := cast.problems.get(reason)) is not None:
            everywhere = np.zeros(len(rows.verdict), dtype=bool)
            everywhere[part] = mask
            rows.refuse(everywhere, reason, number)


def _refuse_outside_partition(
    contract: DatasetContract, drops: Sequence[DropManifest], rows: TypedRows
) -> None:
    names = [column.name for column in contract.columns]
    days = [Partition(drop.partition, contract.timezone) for drop in drops]
    if contract.event_timestamp:
        starts, ends = _naive([day.start for day in days]), _naive([day.end for day in days])
        at = _column(rows, contract.event_timestamp).astype("datetime64[us]")
        outside = (at < starts[rows.places]) | (at >= ends[rows.places])
        rows.refuse(outside, Reason.OUTSIDE_PARTITION, names.index(contract.event_timestamp))
    if contract.day_column:
        wanted = np.array(
            [day.shift(contract.day_offset_days).day for day in days], dtype="datetime64[D]"
        )
        outside = _column(rows, contract.day_column).astype("datetime64[D]") != wanted[rows.places]
        rows.refuse(outside, Reason.OUTSIDE_PARTITION, names.index(contract.day_column))


def _naive(edges: Sequence[dt.datetime]) -> npt.NDArray[np.datetime64]:
    return np.array([edge.replace(tzinfo=None) for edge in edges], dtype="datetime64[us]")


def _column(rows: TypedRows, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = rows.column(name).to_numpy()
    return values


def settle_repeated_keys(contract: DatasetContract, rows: TypedRows) -> None:
    """Keep the first of equal rows; refuse the rest of the rows whose key is there more than once in a file.

    Rows that share a key because the clock showed its time twice are no duplicates, even if they
    are equal: all are refused.
    """
    repeated = _with_repeated_key(contract, rows)
    if rows.was_twice[repeated].any():
        in_repeated_hour = np.zeros(len(rows.verdict), dtype=bool)
        in_repeated_hour[repeated] = rows.was_twice[repeated]
        rows.refuse(in_repeated_hour, Reason.REPEATED_HOUR, _local_time_of_key(contract))
        repeated = _with_repeated_key(contract, rows)
    if not len(repeated):
        return
    again = _is_repeated(_codes(rows, repeated, rows.values.column_names), "first")
    rows.verdict[repeated[again]] = DUPLICATE
    rest = repeated[~again]
    conflicting = np.zeros(len(rows.verdict), dtype=bool)
    conflicting[rest[_is_repeated(_codes(rows, rest, contract.key), "any")]] = True
    rows.refuse(conflicting, Reason.CONFLICTING_KEY, -1)


def _with_repeated_key(contract: DatasetContract, rows: TypedRows) -> npt.NDArray[np.int64]:
    """Return the good rows whose key another good row of their file has."""
    good = np.flatnonzero(rows.verdict == GOOD)
    return good[_is_repeated(_codes(rows, good, contract.key), "any")]


def _local_time_of_key(contract: DatasetContract) -> int:
    """Return the position of the key's first column with local times, -1 for none."""
    names = [column.name for column in contract.columns]
    local = [
        names.index(column.name)
        for column in contract.columns
        if column.name in contract.key and column.type is ColumnType.LOCAL_TIMESTAMP
    ]
    return local[0] if local else -1


def _is_repeated(codes: npt.NDArray[np.int64], keep: str) -> Mask:
    import pandas as pd

    return pd.Series(codes).duplicated(keep="first" if keep == "first" else False).to_numpy()


def _codes(
    rows: TypedRows, chosen: npt.NDArray[np.int64], names: Iterable[str]
) -> npt.NDArray[np.int64]:
    """Return one number per chosen row, equal for rows of one file that are equal in these columns."""
    import pandas as pd

    codes = rows.places[chosen]
    for name in names:
        column = rows.column(name).take(chosen).combine_chunks()
        indices = (
            column.dictionary_encode(null_encoding="encode")
            .indices.to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )
        codes = pd.factorize(codes * (indices.max(initial=0) + 1) + indices)[0]
    return codes


def refused_by_file(
    files: Sequence[DeliveredFile], rows: TypedRows, left_out: Collection[int] = ()
) -> list[tuple[RefusedRow, ...]]:
    """Return the distinct refused rows of each file, with their text; none of the files left out."""
    names = rows.texts.column_names
    found: list[dict[tuple[Any, ...], RefusedRow]] = [{} for _ in files]
    for place, file in enumerate(files):
        if place in left_out:
            continue
        for number, text in file.malformed:
            found[place].setdefault(
                (text,), RefusedRow(number, Reason.MALFORMED_ROW, None, {"line": text})
            )
    is_listed = (rows.verdict >= 0) & ~np.isin(rows.places, list(left_out))
    chosen = np.flatnonzero(is_listed)
    for i, delivered in zip(chosen.tolist(), rows.texts.take(chosen).to_pylist(), strict=True):
        place, culprit = int(rows.places[i]), int(rows.culprit[i])
        row = RefusedRow(
            int(rows.numbers[i]),
            _REASONS[rows.verdict[i]],
            names[culprit] if culprit >= 0 else None,
            delivered,
        )
        found[place].setdefault(tuple(delivered.values()), row)
    return [tuple(by_content.values()) for by_content in found]


def reasons_by_file(files: Sequence[DeliveredFile], rows: TypedRows) -> list[Counter[str]]:
    """Return how many rows of each file are refused, by reason; equal rows count as often as they came."""
    found: list[Counter[str]] = [Counter() for _ in files]
    for position, file in enumerate(files):
        if file.malformed:
            found[position][Reason.MALFORMED_ROW] += len(file.malformed)
    refused = np.flatnonzero(rows.verdict >= 0)
    pairs = np.stack([rows.places[refused], rows.verdict[refused]], axis=1)
    for (position, reason), n_rows in zip(
        *np.unique(pairs, axis=0, return_counts=True), strict=True
    ):
        found[position][_REASONS[reason]] += int(n_rows)
    return found


ByColumn = Mapping[str, int]


def counted_of(rows: TypedRows, place: int) -> tuple[ByColumn, ByColumn]:
    """Return how many values each column of a file has, and how many of another type."""
    n_values, n_wrong = (
        {name: int(n[place]) for name, n in by_name.items()}
        for by_name in (rows.n_values, rows.n_wrong)
    )
    return n_values, n_wrong


def judge(
    contract: DatasetContract,
    drop: DropManifest,
    counted: tuple[ByColumn, ByColumn],
    n_good: int,
    reasons: Mapping[str, int],
) -> ContractError | None:
    """Return what is wrong with a file as a whole, None if nothing is.

    Args:
        contract: What upstream promised.
        drop: The file.
        counted: Values by column, and those of another type.
        n_good: Accepted rows.
        reasons: Refused rows by reason.
    """
    try:
        columns = (
            contract.columns_of(contract.version_for(drop.partition, drop.schema_version)) or ()
        )
        check_types(drop, columns, *counted)
        check_refused(contract, drop, n_good, reasons, _about_the_clock(contract, drop, reasons))
    except ContractError as error:
        return error
    return None


def _about_the_clock(
    contract: DatasetContract, drop: DropManifest, reasons: Mapping[str, int]
) -> str:
    """Return what a person needs to know of a day on which the clock was set; empty if no row suffers from it."""
    if not {Reason.REPEATED_HOUR, Reason.NONEXISTENT_TIME} & reasons.keys():
        return ""
    day = Partition(drop.partition, contract.timezone)
    changes = "; ".join(map(str, clock_changes(day.start, day.end, contract.timezone)))
    return (
        f"\n      The clock of {contract.timezone} was set: {changes or 'not on this day'}."
        "\n      Ask for times with their offset (2013-11-03T01:00:00-05:00), or in UTC for a column of type utc_timestamp."
    )
