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

_INTEGER = r"^-?[0-9]{1,18}$"
_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_DATE = r"^(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})$"
_TIMESTAMP = (
    r"^(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[T ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,6}))?)?(?P<zone>Z|(?P<sign>[+-])(?P<zone_hour>[0-9]{2}):?(?P<zone_minute>[0-9]{2}))?$"
)
_TRUE, _FALSE = ("true", "t", "1", "yes"), ("false", "f", "0", "no")


class Reason(StrEnum):
    """Why a row is refused; the first that applies is recorded."""

    MALFORMED_ROW = "malformed_row"
    MISSING_VALUE = "missing_value"
    WRONG_TYPE = "wrong_type"
    NONEXISTENT_TIME = "nonexistent_time"
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
    """

    values: pa.Array
    problems: Mapping[Reason, Mask]


def cast_column(texts: pa.ChunkedArray, column: Column, timezone: str) -> CastColumn:
    """Read delivered texts as the contract's type and hold them against its limits.

    Args:
        texts: shape (n,), text; null where the file is empty.
        column: Type and limits.
        timezone: Zone of local timestamps without an offset: a time that was twice is its first, one that never was is refused.
    """
    encoded = texts.combine_chunks().dictionary_encode()
    distinct = _known_texts(column, timezone).cast(encoded.dictionary)
    problems: dict[Reason, Mask] = {}
    wrong = {reason: mask for reason, mask in distinct.problems.items() if mask.any()}
    if wrong or (encoded.null_count and not column.is_nullable):
        is_empty = np.asarray(encoded.indices.is_null())
        places = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        problems = {reason: ~is_empty & _at(mask, places) for reason, mask in wrong.items()}
        if encoded.null_count and not column.is_nullable:
            problems[Reason.MISSING_VALUE] = is_empty
    return CastColumn(distinct.values.take(encoded.indices), problems)


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
        known, cast = self._known or (texts.slice(0, 0), _cast_distinct(texts.slice(0, 0), self._column, self._timezone))
        places = pc.index_in(texts, value_set=known)
        if places.null_count:
            new = texts.filter(places.is_null())
            if len(known) + len(new) > _MOST_KNOWN:
                known, cast = texts, _cast_distinct(texts, self._column, self._timezone)
            else:
                known, cast = _together(known, new), _casts_together(cast, _cast_distinct(new, self._column, self._timezone))
            self._known = known, cast
            places = pc.index_in(texts, value_set=known)
        return CastColumn(cast.values.take(places), {reason: mask[np.asarray(places)] for reason, mask in cast.problems.items()})


_known_texts = lru_cache(maxsize=256)(_KnownTexts)
_MOST_KNOWN = 1 << 14
"""Distinct texts of a column that are remembered; a column with more is text that hardly repeats."""


def _together(first: pa.Array, second: pa.Array) -> pa.Array:
    import pyarrow as pa

    return pa.concat_arrays([first, second])


def _casts_together(first: CastColumn, second: CastColumn) -> CastColumn:
    problems = {reason: np.concatenate([mask, second.problems[reason]]) for reason, mask in first.problems.items()}
    return CastColumn(_together(first.values, second.values), problems)


def _cast_distinct(texts: pa.Array, column: Column, timezone: str) -> CastColumn:
    never = np.zeros(len(texts), dtype=bool)
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
            values, never = _timestamp(texts, "UTC" if delivered is ColumnType.UTC_TIMESTAMP else timezone)
    values = values if delivered is column.type else _converted(values, texts, column.type)
    problems = {Reason.WRONG_TYPE: np.asarray(values.is_null()) & ~never, Reason.NONEXISTENT_TIME: never}
    return CastColumn(values, problems | _limits(values, column))


def _converted(values: pa.Array, texts: pa.Array, wanted: ColumnType) -> pa.Array:
    """Return values of another type, null where one has no counterpart: 12.5 is no integer."""
    import pyarrow as pa

    if wanted is ColumnType.TEXT:
        return _where(values.is_valid(), texts)
    try:
        return values.cast(arrow_type(wanted))
    except pa.ArrowInvalid:
        return pa.concat_arrays([_converted_one(values.slice(i, 1), arrow_type(wanted)) for i in range(len(values))])


def _converted_one(value: pa.Array, wanted: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        return value.cast(wanted)
    except pa.ArrowInvalid:
        return pa.nulls(1, wanted)


def _limits(values: pa.Array, column: Column) -> dict[Reason, Mask]:
    import pyarrow as pa
    from pyarrow import compute as pc

    outside = np.zeros(len(values), dtype=bool)
    if column.minimum is not None:
        outside |= _true(pc.less(values, column.minimum))
    if column.maximum is not None:
        outside |= _true(pc.greater(values, column.maximum))
    limits = {Reason.OUT_OF_RANGE: outside}
    if column.levels:
        limits[Reason.UNKNOWN_LEVEL] = _true(pc.invert(pc.is_in(values, pa.array(column.levels))))
    return limits


def _true(mask: pa.Array) -> Mask:
    return np.asarray(mask.fill_null(False))


def _text(texts: pa.Array) -> pa.Array:
    """Refuse the one character that PostgreSQL cannot store."""
    from pyarrow import compute as pc

    return _where(pc.invert(pc.match_substring(texts, "\0")), texts)


def _numeric(texts: pa.Array, column_type: ColumnType) -> pa.Array:
    from pyarrow import compute as pc

    pattern = _INTEGER if column_type is ColumnType.INTEGER else _NUMBER
    values = _where(pc.match_substring_regex(texts, pattern), texts).cast(arrow_type(column_type))
    return values if column_type is ColumnType.INTEGER else _where(pc.is_finite(values), values)


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


def _timestamp(texts: pa.Array, timezone: str) -> tuple[pa.Array, Mask]:
    """Return instants in UTC, null where there is none, and whether a time never was."""
    import pyarrow as pa

    parts = _parts(texts, _TIMESTAMP)
    wall = _clock(parts)
    has_zone = _group(texts, parts, "zone") != ""
    offset = (_number(parts, "zone_hour") * 60 + _number(parts, "zone_minute")) * 60
    signed = np.where(_group(texts, parts, "sign") == "-", -offset, offset).astype("timedelta64[s]")
    local, never = to_utc(np.where(has_zone, np.datetime64("NaT", "s"), wall), timezone)
    utc = np.where(has_zone, np.subtract(wall, signed), local).astype("datetime64[us]")
    instants = np.add(utc, _fraction(parts).astype("timedelta64[us]"))
    return pa.array(instants, pa.timestamp("us", "UTC")), never


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
    date: npt.NDArray[np.datetime64] = np.add(first.astype("datetime64[D]"), (day - 1).astype("timedelta64[D]"))
    is_date = np.asarray(parts.is_valid()) & (month >= 1) & (month <= 12) & (date.astype("datetime64[M]") == first) & (year >= 1)  # noqa: PLR2004
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

    return np.asarray(pc.struct_field(parts, name).fill_null("").to_pylist(), dtype=str).reshape(len(texts))


def _fraction(parts: pa.Array) -> npt.NDArray[np.int64]:
    """Return microseconds."""
    import pyarrow as pa
    from pyarrow import compute as pc

    digits = pc.utf8_rpad(pc.struct_field(parts, "fraction"), 6, "0")
    return np.asarray(digits.cast(pa.int64()).fill_null(0))
