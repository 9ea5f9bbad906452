"""Delivered text to typed values, one column at a time and vectorised; what cannot be used is named, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.datasets import ColumnType
from nightshift.ingestion.local_time import to_utc

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.datasets import Column

    Mask = npt.NDArray[np.bool_]

_SHORT_INTEGER = r"^-?[0-9]{1,18}$"
"""Digits that fit 64 bits however they are chosen: nearly all integers, and the fast way."""
_LONG_INTEGER = r"^(?P<sign>[+-]?)0*(?P<digits>[0-9]{1,19})(?:\.0+)?$"
"""An integer of up to 19 digits; a column of whole numbers with one gap is written as 12.0 by
pandas.
"""
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_DATE = (
    r"^(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ]00:00(?::00(?:\.0{1,9})?)?)?$"
)
"""A day; pandas and numpy write one as its midnight."""
_TIMESTAMP = (
    r"^(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?)?"
    r"(?P<zone> ?(?:[Zz]|UTC|(?P<sign>[+-])(?P<zone_hour>0[0-9]|1[0-5])"
    r"(?::?(?P<zone_minute>[0-5][0-9])(?::?(?P<zone_second>[0-5][0-9]))?)?))?$"
)
"""A time as ISO 8601, PostgreSQL, BigQuery, pandas, numpy and Java write it. An offset has at most
15 hours, the limit of PostgreSQL; digits beyond the microsecond are cut off."""
_TRUE, _FALSE = ("true", "t", "1", "1.0", "yes"), ("false", "f", "0", "0.0", "no")
_LARGEST = ("9223372036854775807", "9223372036854775808")
"""The largest magnitude of a positive and of a negative integer of 64 bits."""
_EXACT = float(2**53)
"""Up to here a double holds every whole number."""
_FIRST_INSTANT, _END_OF_TIME = np.datetime64("0001-01-01", "us"), np.datetime64("10000-01-01", "us")
"""The instants that Python can hold, and so every reader of the warehouse: from, and before."""


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


def cast_column(texts: pa.ChunkedArray, column: Column, timezone: str) -> CastColumn:
    """Read delivered texts as the contract's type and hold them against its limits.

    Args:
        texts: shape (n,), text; null where the file is empty.
        column: Type and limits.
        timezone: Zone of local timestamps without an offset: a time that was twice is its first,
            one that never was is refused.
    """
    encoded = texts.combine_chunks().dictionary_encode()
    distinct = _known_texts(column, timezone).cast(encoded.dictionary)
    problems: dict[Reason, Mask] = {}
    was_twice: Mask | None = None
    wrong = {reason: mask for reason, mask in distinct.problems.items() if mask.any()}
    if wrong or (encoded.null_count and not column.is_nullable):
        is_empty = np.asarray(encoded.indices.is_null())
        places = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        problems = {reason: ~is_empty & _at(mask, places) for reason, mask in wrong.items()}
        # A time that was twice is refused only where it is part of a key that is there twice.
        was_twice = problems.pop(Reason.REPEATED_HOUR, None)
        if encoded.null_count and not column.is_nullable:
            problems[Reason.MISSING_VALUE] = is_empty
    return CastColumn(distinct.values.take(encoded.indices), problems, was_twice)


def arrow_type(column_type: ColumnType) -> pa.DataType:
    """Return the Arrow type of a contract's type."""
    import pyarrow as pa

    return {
        ColumnType.TEXT: pa.string(),
        ColumnType.INTEGER: pa.int64(),
        ColumnType.NUMBER: pa.float64(),
        ColumnType.BOOLEAN: pa.bool_(),
        ColumnType.DATE: pa.date32(),
        ColumnType.UTC_TIMESTAMP: pa.timestamp("us", "UTC"),
        ColumnType.LOCAL_TIMESTAMP: pa.timestamp("us", "UTC"),
    }[column_type]


def _at(mask: Mask, places: npt.NDArray[np.int32]) -> Mask:
    return mask[places] if len(mask) else np.zeros(len(places), dtype=bool)


class _KnownTexts:
    """Casts each text of a column once, however many blocks of a file, or files, have it."""

    def __init__(self, column: Column, timezone: str) -> None:
        self._column, self._timezone = column, timezone
        self._known: tuple[pa.Array, CastColumn] | None = None

    def cast(self, texts: pa.Array) -> CastColumn:
        """Return what texts become, each of them there once; threads that come at the same time do at worst something twice."""
        from pyarrow import compute as pc

        if len(texts) > _MOST_KNOWN:
            return _cast_distinct(texts, self._column, self._timezone)
        known, cast = self._known or (
            texts.slice(0, 0),
            _cast_distinct(texts.slice(0, 0), self._column, self._timezone),
        )
        places = pc.index_in(texts, value_set=known)
        if places.null_count:
            new = texts.filter(places.is_null())
            if len(known) + len(new) > _MOST_KNOWN:
                known, cast = texts, _cast_distinct(texts, self._column, self._timezone)
            else:
                known, cast = (
                    _together(known, new),
                    _casts_together(cast, _cast_distinct(new, self._column, self._timezone)),
                )
            self._known = known, cast
            places = pc.index_in(texts, value_set=known)
        return CastColumn(
            cast.values.take(places),
            {reason: mask[np.asarray(places)] for reason, mask in cast.problems.items()},
        )


_known_texts = lru_cache(maxsize=256)(_KnownTexts)
_MOST_KNOWN = 1 << 14
"""Distinct texts of a column that are remembered; a column with more is text that hardly
repeats.
"""


def _together(first: pa.Array, second: pa.Array) -> pa.Array:
    import pyarrow as pa

    return pa.concat_arrays([first, second])


def _casts_together(first: CastColumn, second: CastColumn) -> CastColumn:
    problems = {
        reason: np.concatenate([mask, second.problems[reason]])
        for reason, mask in first.problems.items()
    }
    return CastColumn(_together(first.values, second.values), problems)


def _cast_distinct(texts: pa.Array, column: Column, timezone: str) -> CastColumn:
    import pyarrow as pa
    from pyarrow import compute as pc

    times = _Times.none(len(texts))
    delivered = column.delivered_as or column.type
    match delivered:
        case ColumnType.TEXT:
            values = _text(texts)
        case ColumnType.INTEGER | ColumnType.NUMBER:
            values = _numeric(texts, delivered)
        case ColumnType.BOOLEAN:
            values = _boolean(texts)
        case ColumnType.DATE:
            values = _date(texts)
        case ColumnType.UTC_TIMESTAMP | ColumnType.LOCAL_TIMESTAMP:
            is_utc = delivered is ColumnType.UTC_TIMESTAMP
            values, times = _timestamp(texts, "UTC" if is_utc else timezone)
    values = values if delivered is column.type else _converted(values, texts, column.type)
    is_known = times.never | times.too_far
    problems = {
        Reason.WRONG_TYPE: np.asarray(values.is_null()) & ~is_known,
        Reason.NONEXISTENT_TIME: times.never,
        Reason.REPEATED_HOUR: times.was_twice,
        Reason.OUT_OF_RANGE: times.too_far | _outside(values, column),
    }
    if column.levels:
        known_level = pc.is_in(values, pa.array(column.levels))
        problems[Reason.UNKNOWN_LEVEL] = _true(pc.invert(known_level))
    return CastColumn(values, problems)


@dataclass(frozen=True)
class _Times:
    """What is special about times, each shape (n,).

    Attributes:
        never: The clock never showed it.
        was_twice: The clock showed it twice, and no offset says which of the two is meant.
        too_far: The instant lies outside of what a reader's clock can hold.
    """

    never: Mask
    was_twice: Mask
    too_far: Mask

    @classmethod
    def none(cls, n: int) -> _Times:
        """Return that nothing is special about any of n values."""
        nothing = np.zeros(n, dtype=bool)
        return cls(nothing, nothing, nothing)


def _converted(values: pa.Array, texts: pa.Array, wanted: ColumnType) -> pa.Array:
    """Return values of another type, null where one has no counterpart: 12.5 is no integer."""
    import pyarrow as pa

    if wanted is ColumnType.TEXT:
        return _where(values.is_valid(), texts)
    try:
        return values.cast(arrow_type(wanted))
    except pa.ArrowInvalid:
        return pa.concat_arrays(
            [_converted_one(values.slice(i, 1), arrow_type(wanted)) for i in range(len(values))]
        )


def _converted_one(value: pa.Array, wanted: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return value.cast(wanted)
    except pa.ArrowInvalid:
        return pa.nulls(1, wanted)


def _outside(values: pa.Array, column: Column) -> Mask:
    """Return whether a value is outside of the contract's limits."""
    from pyarrow import compute as pc

    outside = np.zeros(len(values), dtype=bool)
    if column.minimum is not None:
        outside |= _true(pc.less(values, column.minimum))
    if column.maximum is not None:
        outside |= _true(pc.greater(values, column.maximum))
    return outside


def _true(mask: pa.Array) -> Mask:
    return np.asarray(mask.fill_null(False))


def _text(texts: pa.Array) -> pa.Array:
    """Refuse the one character that PostgreSQL cannot store."""
    from pyarrow import compute as pc

    return _where(pc.invert(pc.match_substring(texts, "\0")), texts)


def _numeric(texts: pa.Array, column_type: ColumnType) -> pa.Array:
    from pyarrow import compute as pc

    if column_type is ColumnType.INTEGER:
        return _integer(texts)
    # Arrow reads no leading plus sign.
    is_number = pc.match_substring_regex(texts, _NUMBER)
    unsigned = pc.replace_substring_regex(_where(is_number, texts), r"^\+", "")
    values = unsigned.cast(arrow_type(column_type))
    return _where(pc.is_finite(values), values)


def _integer(texts: pa.Array) -> pa.Array:
    """Return whole numbers of 64 bits, exact, however many digits or zeros behind a point."""
    import pyarrow as pa
    from pyarrow import compute as pc

    is_short = pc.match_substring_regex(texts, _SHORT_INTEGER)
    values = _where(is_short, texts).cast(pa.int64())
    if not values.null_count:
        return values
    rest = _where(pc.invert(is_short), texts)
    return pc.coalesce(values, _long_integer(rest), _whole_double(rest))


def _long_integer(texts: pa.Array) -> pa.Array:
    """Return integers of up to 19 digits; null for other texts and beyond 64 bits."""
    import pyarrow as pa
    from pyarrow import compute as pc

    parts = _parts(texts, _LONG_INTEGER)
    digits = pc.struct_field(parts, "digits")
    is_negative = pc.equal(pc.struct_field(parts, "sign"), "-")
    # Texts of equal length are in the order of their numbers.
    fits_digits = pc.less(pc.utf8_length(digits), 19)
    fits = pc.or_(
        fits_digits, pc.less_equal(digits, pc.if_else(is_negative, _LARGEST[1], _LARGEST[0]))
    )
    signed = pc.binary_join_element_wise(pc.if_else(is_negative, "-", ""), digits, "")
    return _where(fits, signed).cast(pa.int64())


def _whole_double(texts: pa.Array) -> pa.Array:
    """Return whole numbers that are written with an exponent, as a double of a Parquet file is."""
    import pyarrow as pa
    from pyarrow import compute as pc

    has_exponent = pc.match_substring(texts, "e", ignore_case=True)
    numbers = _numeric(_where(has_exponent, texts), ColumnType.NUMBER)
    is_whole = pc.and_(pc.equal(numbers, pc.trunc(numbers)), pc.less_equal(pc.abs(numbers), _EXACT))
    return _where(is_whole, numbers).cast(pa.int64())


def _boolean(texts: pa.Array) -> pa.Array:
    import pyarrow as pa
    from pyarrow import compute as pc

    lower = pc.utf8_lower(texts)
    return _where(pc.is_in(lower, pa.array(_TRUE + _FALSE)), pc.is_in(lower, pa.array(_TRUE)))


def _where(condition: pa.Array, values: pa.Array) -> pa.Array:
    import pyarrow as pa
    from pyarrow import compute as pc

    return pc.if_else(condition, values, pa.scalar(None, values.type))


def _date(texts: pa.Array) -> pa.Array:
    import pyarrow as pa

    return pa.array(_days(_parts(texts, _DATE)), pa.date32())


def _timestamp(texts: pa.Array, timezone: str) -> tuple[pa.Array, _Times]:
    """Return instants in UTC, null where there is none, and what is special about them."""
    import pyarrow as pa

    parts = _parts(texts, _TIMESTAMP)
    wall = _clock(parts)
    has_zone = _group(texts, parts, "zone") != ""
    without_zone = np.where(has_zone, np.datetime64("NaT", "s"), wall)
    local, never, was_twice = to_utc(without_zone, timezone)
    utc = np.where(has_zone, np.subtract(wall, _offset(texts, parts)), local)
    instants = np.add(utc.astype("datetime64[us]"), _fraction(parts).astype("timedelta64[us]"))
    too_far = (instants < _FIRST_INSTANT) | (instants >= _END_OF_TIME)
    instants[too_far] = np.datetime64("NaT")
    return pa.array(instants, pa.timestamp("us", "UTC")), _Times(never, was_twice, too_far)


def _offset(texts: pa.Array, parts: pa.Array) -> npt.NDArray[np.timedelta64]:
    """Return the offset from UTC that a text has, shape (n,), 0 where it has none."""
    minutes = _number(parts, "zone_hour") * 60 + _number(parts, "zone_minute")
    seconds = minutes * 60 + _number(parts, "zone_second")
    is_west = _group(texts, parts, "sign") == "-"
    offset: npt.NDArray[np.timedelta64] = np.where(is_west, -seconds, seconds).astype(
        "timedelta64[s]"
    )
    return offset


def _clock(parts: pa.Array) -> npt.NDArray[np.datetime64]:
    """Return the clock's time, shape (n,), ``datetime64[s]``; NaT where the text is none or no such time exists."""
    hour, minute, second = (_number(parts, name) for name in ("hour", "minute", "second"))
    is_time = (hour <= 23) & (minute <= 59) & (second <= 59)  # noqa: PLR2004
    seconds = ((hour * 60 + minute) * 60 + second).astype("timedelta64[s]")
    wall: npt.NDArray[np.datetime64] = np.add(_days(parts), seconds)
    return np.where(is_time, wall, np.datetime64("NaT", "s"))


def _days(parts: pa.Array) -> npt.NDArray[np.datetime64]:
    """Return the date, shape (n,), ``datetime64[D]``; NaT where the text is none or no such day exists."""
    year, month, day = (_number(parts, name) for name in ("year", "month", "day"))
    first = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    date: npt.NDArray[np.datetime64] = np.add(
        first.astype("datetime64[D]"), (day - 1).astype("timedelta64[D]")
    )
    is_date = (
        np.asarray(parts.is_valid())
        & (month >= 1)
        & (month <= 12)  # noqa: PLR2004
        & (date.astype("datetime64[M]") == first)
        & (year >= 1)
    )
    return np.where(is_date, date, np.datetime64("NaT", "D"))


def _parts(texts: pa.Array, pattern: str) -> pa.Array:
    from pyarrow import compute as pc

    return pc.extract_regex(texts, pattern)


def _number(parts: pa.Array, name: str) -> npt.NDArray[np.int64]:
    """Return a group as numbers, 0 where it is absent."""
    import pyarrow as pa
    from pyarrow import compute as pc

    digits = pc.struct_field(parts, name)
    return np.asarray(_where(pc.not_equal(digits, ""), digits).cast(pa.int64()).fill_null(0))


def _group(texts: pa.Array, parts: pa.Array, name: str) -> npt.NDArray[np.str_]:
    from pyarrow import compute as pc

    return np.asarray(pc.struct_field(parts, name).fill_null("").to_pylist(), dtype=str).reshape(
        len(texts)
    )


def _fraction(parts: pa.Array) -> npt.NDArray[np.int64]:
    """Return microseconds, cut off and not rounded: a rounded time may belong to the next day."""
    import pyarrow as pa
    from pyarrow import compute as pc

    digits = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.struct_field(parts, "fraction"), 6, "0"), 0, 6)
    return np.asarray(digits.cast(pa.int64()).fill_null(0))
