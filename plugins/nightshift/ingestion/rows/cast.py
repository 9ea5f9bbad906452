"""Cast delivered text to typed values, one column at a time; unusable values get a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from nightshift.contracts.datasets import Column, ColumnType
from nightshift.ingestion.rows.text_parsers import (
    is_true,
    parse_booleans,
    parse_dates,
    parse_integers,
    parse_numbers,
    parse_text,
    parse_timestamps,
    where,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]

ARROW_TYPES = {
    ColumnType.TEXT: pa.string(),
    ColumnType.INTEGER: pa.int64(),
    ColumnType.NUMBER: pa.float64(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.DATE: pa.date32(),
    ColumnType.UTC_TIMESTAMP: pa.timestamp("us", "UTC"),
    ColumnType.LOCAL_TIMESTAMP: pa.timestamp("us", "UTC"),
}
_PARSERS = {
    ColumnType.TEXT: parse_text,
    ColumnType.INTEGER: parse_integers,
    ColumnType.NUMBER: parse_numbers,
    ColumnType.BOOLEAN: parse_booleans,
    ColumnType.DATE: parse_dates,
}
# Distinct strings of a column that are remembered; a column with more is text that hardly repeats.
MAX_KNOWN_TEXTS = 1 << 14
# Their bytes: a value may have 64 KiB, and what is remembered outlives its file.
_MAX_KNOWN_BYTES = 1 << 22


class Reason(StrEnum):
    """Why a row is refused; the first that applies is recorded."""

    MALFORMED_ROW = "malformed_row"
    MISSING_VALUE = "missing_value"
    WRONG_TYPE = "wrong_type"
    NONEXISTENT_TIME = "nonexistent_time"
    REPEATED_HOUR = "repeated_hour"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_LEVEL = "unknown_level"
    OUTSIDE_PARTITION = "outside_partition"
    CONFLICTING_KEY = "conflicting_key"


@dataclass(frozen=True)
class CastColumn:
    """The values of one column.

    Attributes:
        values: shape (n,), of the column's type, timestamps in UTC; null where a problem says so.
        problems: shape (n,) by reason, whether the value is refused for it.
        was_twice: shape (n,), whether it is a wall-clock time without an offset that the clock
            showed twice; None if none is.
    """

    values: pa.Array
    problems: Mapping[Reason, Mask]
    was_twice: Mask | None = None


def cast_column(
    strings: pa.ChunkedArray,
    column: Column,
    timezone: str,
) -> CastColumn:
    """Read delivered strings as the contract's type and check the contract's limits.

    Args:
        strings: shape (n,), text; null where the file is empty.
        column: Type and limits.
        timezone: Zone of local timestamps without an offset: a time that was twice is its first,
            one that never was is refused.

    Returns:
        Values and problems in the order of the strings.
    """
    # Few values of a column differ: only the distinct ones are parsed.
    encoded = strings.combine_chunks().dictionary_encode()
    cache = _cached_cast(column, timezone)
    distinct = cache.cast(encoded.dictionary)
    values = distinct.values.take(encoded.indices)
    wrong = {reason: mask for reason, mask in distinct.problems.items() if mask.any()}
    refuses_null = encoded.null_count > 0 and not column.is_nullable
    if not wrong and not refuses_null:
        return CastColumn(values, {})

    indices = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    problems: dict[Reason, Mask] = {}
    for reason, mask in wrong.items():
        # The appended False is the element at -1: a null has no other problem than being null.
        with_null = np.append(mask, False)
        problems[reason] = with_null[indices]
    if refuses_null:
        problems[Reason.MISSING_VALUE] = indices < 0
    # A time that was twice is refused only where it is part of a key that is there twice.
    was_twice = problems.pop(Reason.REPEATED_HOUR, None)
    return CastColumn(values, problems, was_twice)


def cast_texts(
    strings: Sequence[str | None],
    column: Column,
    timezone: str,
) -> CastColumn:
    """Cast strings of a Python list, as ``cast_column`` does.

    Args:
        strings: shape (n,).
        column: Type and limits.
        timezone: Zone of local timestamps without an offset.
    """
    array = pa.array(
        strings,
        pa.string(),
    )
    return cast_column(
        pa.chunked_array([array]),
        column,
        timezone,
    )


class _CachedCast:
    """Casts each distinct text of a column once, whatever file or block has it."""

    def __init__(
        self,
        column: Column,
        timezone: str,
    ) -> None:
        self._column = column
        self._timezone = timezone
        no_texts = pa.array(
            [],
            pa.string(),
        )
        self._empty = (no_texts, self._cast_distinct(no_texts))
        self._known = self._empty

    def cast(self, strings: pa.Array) -> CastColumn:
        """Return the values of distinct strings.

        Args:
            strings: shape (n,), text without nulls.
        """
        if _is_too_much(strings):
            return self._cast_distinct(strings)
        # Threads may replace the known strings at the same time: at worst some are cast twice.
        known, cast = self._known
        positions = pc.index_in(strings, value_set=known)
        if positions.null_count:
            known, cast = self._with_new(strings, positions)
            self._known = (known, cast)
            positions = pc.index_in(strings, value_set=known)
        chosen = np.asarray(positions)
        problems = {reason: mask[chosen] for reason, mask in cast.problems.items()}
        return CastColumn(
            cast.values.take(positions),
            problems,
        )

    def _with_new(
        self,
        strings: pa.Array,
        positions: pa.Array,
    ) -> tuple[pa.Array, CastColumn]:
        """Return the known strings and their values, those that are new included.

        Args:
            strings: shape (n,), distinct strings.
            positions: shape (n,), index of each among the known ones; null for a new one.
        """
        known, cast = self._known
        new = strings.filter(positions.is_null())
        if _is_too_much(known, new):
            # All known ones are forgotten, so that memory stays bounded.
            known, cast = self._empty
            new = strings
        return (
            pa.concat_arrays([known, new]),
            _concat(
                cast,
                self._cast_distinct(new),
            ),
        )

    def _cast_distinct(self, strings: pa.Array) -> CastColumn:
        """Return the values of strings that nobody has cast before.

        Args:
            strings: shape (n,), text without nulls.
        """
        column = self._column
        delivered_type = column.delivered_as or column.type
        is_explained = is_too_far = np.zeros(
            len(strings),
            dtype=bool,
        )
        problems: dict[Reason, Mask] = {}
        if delivered_type in _PARSERS:
            parse = _PARSERS[delivered_type]
            values = parse(strings)
        else:
            is_utc = delivered_type is ColumnType.UTC_TIMESTAMP
            timezone = "UTC" if is_utc else self._timezone
            times = parse_timestamps(strings, timezone)
            values = times.values
            is_too_far = times.is_too_far
            # Such a time has the form of a time, so its type is not wrong.
            is_explained = times.is_nonexistent | is_too_far
            problems[Reason.NONEXISTENT_TIME] = times.is_nonexistent
            problems[Reason.REPEATED_HOUR] = times.was_twice
        if delivered_type is not column.type:
            values = _convert(
                values,
                strings,
                column.type,
            )
        is_null = np.asarray(values.is_null())
        problems[Reason.WRONG_TYPE] = is_null & ~is_explained
        problems[Reason.OUT_OF_RANGE] = is_too_far | _is_outside_limits(values, column)
        if column.levels:
            is_known = pc.is_in(
                values,
                pa.array(column.levels),
            )
            problems[Reason.UNKNOWN_LEVEL] = is_true(pc.invert(is_known))
        return CastColumn(values, problems)


def _is_too_much(*strings: pa.Array) -> bool:
    """Return whether these strings together are more than a column remembers."""
    n_strings = sum(len(part) for part in strings)
    n_bytes = sum(part.nbytes for part in strings)
    return n_strings > MAX_KNOWN_TEXTS or n_bytes > _MAX_KNOWN_BYTES


_cached_cast = lru_cache(maxsize=256)(_CachedCast)


def _concat(
    first: CastColumn,
    second: CastColumn,
) -> CastColumn:
    """Return the values of both, in order."""
    problems = {}
    # Both were cast for the same column, so they have the same reasons.
    for reason, mask in first.problems.items():
        problems[reason] = np.concatenate([mask, second.problems[reason]])
    values = pa.concat_arrays([first.values, second.values])
    return CastColumn(values, problems)


def _convert(
    values: pa.Array,
    strings: pa.Array,
    column_type: ColumnType,
) -> pa.Array:
    """Return values as another type, null where one has no counterpart: 12.5 is no integer.

    Args:
        values: shape (n,), of the delivered type.
        strings: shape (n,), the same as delivered.
        column_type: Type of the contract's column.
    """
    if column_type is ColumnType.TEXT:
        # The text itself: 1.50 stays 1.50.
        return where(values.is_valid(), strings)
    arrow_type = ARROW_TYPES[column_type]
    try:
        return values.cast(arrow_type)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, arrow_type)
    # Arrow does not say which value it is, so each is tried.
    singles = [values.slice(i, 1) for i in range(len(values))]
    return pa.concat_arrays([_convert(single, strings, column_type) for single in singles])


def _is_outside_limits(
    values: pa.Array,
    column: Column,
) -> Mask:
    """Return whether each value is below the contract's minimum or above its maximum.

    A missing value lies within any limits.
    """
    is_outside = np.zeros(
        len(values),
        dtype=bool,
    )
    if column.minimum is not None:
        is_below = pc.less(values, column.minimum)
        is_outside |= is_true(is_below)
    if column.maximum is not None:
        is_above = pc.greater(values, column.maximum)
        is_outside |= is_true(is_above)
    return is_outside
