"""Parse delivered text as integers, numbers, booleans, dates and times, a whole array at once.

A text of another form becomes null; nothing is guessed. docs/adr/0005-raw-versions.md lists
the accepted forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from nightshift.ingestion.rows.local_time import to_utc

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]

# Digits that fit 64 bits whatever they are: nearly all integers, and the fast way.
_SHORT_INTEGER = r"^-?[0-9]{1,18}$"
# An integer of up to 19 digits. Pandas writes a column of integers with one gap as 12.0.
_LONG_INTEGER = r"^(?P<sign>[+-]?)0*(?P<digits>[0-9]{1,19})(?:\.0+)?$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
_DAY = r"^(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
# A day; pandas and numpy write one as its midnight, BigQuery as its midnight in UTC.
_DATE = _DAY + r"(?:[Tt ]00:00(?::00(?:\.0{1,9})?)?(?: ?(?:[Zz]|UTC|[+-]00(?::?00)?))?)?$"
# A time as ISO 8601, PostgreSQL, BigQuery, pandas, numpy and Java write it. An offset has at most
# 15 hours, the limit of PostgreSQL.
_TIMESTAMP = (
    _DAY + r"[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?)?"
    r"(?P<zone> ?(?:[Zz]|UTC|(?P<sign>[+-])(?P<zone_hour>0[0-9]|1[0-5])"
    r"(?::?(?P<zone_minute>[0-5][0-9])(?::?(?P<zone_second>[0-5][0-9]))?)?))?$"
)
_TRUE = ("true", "t", "1", "1.0", "yes")
_FALSE = ("false", "f", "0", "0.0", "no")
# Below this magnitude a double is one integer only: 2**53 is also what 2**53 + 1 is rounded to.
_FIRST_INEXACT = float(2**53)
# Largest magnitudes of an integer of 64 bits.
_LARGEST_POSITIVE = "9223372036854775807"
_LARGEST_NEGATIVE = "9223372036854775808"
_MAX_DIGITS = 19
# The instants that Python can hold, and so every reader of the warehouse: from, and before.
_FIRST_INSTANT = np.datetime64("0001-01-01", "us")
_END_OF_TIME = np.datetime64("10000-01-01", "us")
_NO_DAY = np.datetime64("NaT", "D")
_NO_TIME = np.datetime64("NaT", "s")


@dataclass(frozen=True)
class ParsedTimes:
    """Parsed timestamps, each field of shape (n,).

    Attributes:
        values: Instants in UTC, null where there is none.
        is_nonexistent: Whether the clock never showed the time.
        was_twice: Whether the clock showed it twice, and no offset says which one is meant.
        is_too_far: Whether the instant lies outside of what a reader's clock can hold.
    """

    values: pa.Array
    is_nonexistent: Mask
    was_twice: Mask
    is_too_far: Mask


def parse_text(strings: pa.Array) -> pa.Array:
    """Return the strings without those that have a NUL, which PostgreSQL cannot store."""
    has_nul = pc.match_substring(strings, "\0")
    return where(pc.invert(has_nul), strings)


def parse_integers(strings: pa.Array) -> pa.Array:
    """Return integers of 64 bits, exact, whatever digits or zeros after a point they have."""
    is_short = pc.match_substring_regex(strings, _SHORT_INTEGER)
    values = where(is_short, strings).cast(pa.int64())
    if not values.null_count:
        return values
    rest = where(pc.invert(is_short), strings)
    return pc.coalesce(
        values,
        _parse_long_integers(rest),
        _parse_integral_doubles(rest),
    )


def parse_numbers(strings: pa.Array) -> pa.Array:
    """Return finite doubles."""
    is_number = pc.match_substring_regex(strings, _NUMBER)
    numbers = where(is_number, strings)
    # Arrow reads no leading plus sign.
    unsigned = pc.replace_substring_regex(numbers, r"^\+", "")
    values = unsigned.cast(pa.float64())
    # 1e999 has the form of a number, and no double holds it.
    return where(
        pc.is_finite(values),
        values,
    )


def parse_booleans(strings: pa.Array) -> pa.Array:
    """Return truth values."""
    lower = pc.utf8_lower(strings)
    is_true_word = pc.is_in(
        lower,
        pa.array(_TRUE),
    )
    is_false_word = pc.is_in(
        lower,
        pa.array(_FALSE),
    )
    is_word = pc.or_(is_true_word, is_false_word)
    return where(is_word, is_true_word)


def parse_dates(strings: pa.Array) -> pa.Array:
    """Return days."""
    parts = pc.extract_regex(strings, _DATE)
    return pa.array(
        _days(parts),
        pa.date32(),
    )


def parse_timestamps(
    strings: pa.Array,
    timezone: str,
) -> ParsedTimes:
    """Return instants.

    Args:
        strings: shape (n,).
        timezone: IANA name; a time without an offset is one of this zone's clock.
    """
    parts = pc.extract_regex(strings, _TIMESTAMP)
    wall = _wall_times(parts)
    zone = pc.struct_field(parts, "zone")
    has_zone = is_true(pc.not_equal(zone, ""))

    # The zone's clock decides only about times that do not say which instant they mean.
    without_zone = np.where(
        has_zone,
        _NO_TIME,
        wall,
    )
    local, is_nonexistent, was_twice = to_utc(without_zone, timezone)
    with_zone = np.subtract(
        wall,
        _offsets(parts),
    )

    seconds = np.where(
        has_zone,
        with_zone,
        local,
    )
    microseconds = _fractions(parts).astype("timedelta64[us]")
    instants = np.add(
        seconds.astype("datetime64[us]"),
        microseconds,
    )
    is_too_far = (instants < _FIRST_INSTANT) | (instants >= _END_OF_TIME)
    instants[is_too_far] = _NO_TIME
    values = pa.array(
        instants,
        pa.timestamp("us", "UTC"),
    )
    return ParsedTimes(
        values,
        is_nonexistent,
        was_twice,
        is_too_far,
    )


def where(
    condition: pa.Array,
    values: pa.Array,
) -> pa.Array:
    """Return values, null where a condition does not hold."""
    null = pa.scalar(None, values.type)
    return pc.if_else(
        condition,
        values,
        null,
    )


def is_true(mask: pa.Array) -> Mask:
    """Return a mask as numpy has it; null is false."""
    return np.asarray(mask.fill_null(False))


def _parse_long_integers(strings: pa.Array) -> pa.Array:
    """Return integers of up to 19 digits; null for other strings and beyond 64 bits."""
    parts = pc.extract_regex(strings, _LONG_INTEGER)
    digits = pc.struct_field(parts, "digits")
    sign = pc.struct_field(parts, "sign")
    is_negative = pc.equal(sign, "-")
    largest = pc.if_else(
        is_negative,
        _LARGEST_NEGATIVE,
        _LARGEST_POSITIVE,
    )
    is_shorter = pc.less(
        pc.utf8_length(digits),
        _MAX_DIGITS,
    )
    # Texts of equal length are in the order of their numbers.
    is_smaller = pc.less_equal(digits, largest)
    minus = pc.if_else(is_negative, "-", "")
    signed = pc.binary_join_element_wise(minus, digits, "")
    fitting = where(
        pc.or_(is_shorter, is_smaller),
        signed,
    )
    return fitting.cast(pa.int64())


def _parse_integral_doubles(strings: pa.Array) -> pa.Array:
    """Return integers that are written with an exponent, as a double of a Parquet file is."""
    # Only with an exponent: digits without one are exact integers, which a double may round.
    has_exponent = pc.match_substring(strings, "e", ignore_case=True)
    numbers = parse_numbers(where(has_exponent, strings))
    is_integral = pc.equal(numbers, pc.trunc(numbers))
    is_exact = pc.less(pc.abs(numbers), _FIRST_INEXACT)
    integers = where(pc.and_(is_integral, is_exact), numbers)
    return integers.cast(pa.int64())


def _offsets(parts: pa.Array) -> npt.NDArray[np.timedelta64]:
    """Return the offset from UTC that a text has, 0 where it has none.

    Args:
        parts: shape (n,), groups of ``_TIMESTAMP``.

    Returns:
        shape (n,), ``timedelta64[s]``.
    """
    # Z and UTC have no hour: their offset is 0 like that of a text without a zone.
    hours = _numbers(parts, "zone_hour")
    minutes = hours * 60 + _numbers(parts, "zone_minute")
    seconds = minutes * 60 + _numbers(parts, "zone_second")
    sign = pc.struct_field(parts, "sign")
    is_west = is_true(pc.equal(sign, "-"))
    signed = np.where(
        is_west,
        -seconds,
        seconds,
    )
    return np.asarray(signed.astype("timedelta64[s]"))


def _wall_times(parts: pa.Array) -> npt.NDArray[np.datetime64]:
    """Return the clock's times; NaT where no such time exists.

    Args:
        parts: shape (n,), groups of ``_TIMESTAMP``.

    Returns:
        shape (n,), ``datetime64[s]``.
    """
    hour = _numbers(parts, "hour")
    minute = _numbers(parts, "minute")
    second = _numbers(parts, "second")
    is_time = (hour <= 23) & (minute <= 59) & (second <= 59)  # noqa: PLR2004
    seconds = (hour * 60 + minute) * 60 + second
    times = np.add(
        _days(parts),
        seconds.astype("timedelta64[s]"),
    )
    return np.where(
        is_time,
        times,
        _NO_TIME,
    )


def _days(parts: pa.Array) -> npt.NDArray[np.datetime64]:
    """Return the dates; NaT where no such day exists.

    Args:
        parts: shape (n,), groups of ``_DATE`` or ``_TIMESTAMP``; null for a text of another form.

    Returns:
        shape (n,), ``datetime64[D]``.
    """
    year = _numbers(parts, "year")
    month = _numbers(parts, "month")
    day = _numbers(parts, "day")
    months = (year - 1970) * 12 + month - 1
    first = months.astype("datetime64[M]")
    days = (day - 1).astype("timedelta64[D]")
    dates = np.add(
        first.astype("datetime64[D]"),
        days,
    )
    is_date = np.asarray(parts.is_valid())
    is_date &= year >= 1
    is_date &= (month >= 1) & (month <= 12)  # noqa: PLR2004
    # The 31st of a month of 30 days lies in the next month.
    is_date &= dates.astype("datetime64[M]") == first
    return np.where(
        is_date,
        dates,
        _NO_DAY,
    )


def _numbers(
    parts: pa.Array,
    name: str,
) -> npt.NDArray[np.int64]:
    """Return a group as numbers, 0 where it is absent."""
    digits = pc.struct_field(parts, name)
    present = where(
        pc.not_equal(digits, ""),
        digits,
    )
    return np.asarray(present.cast(pa.int64()).fill_null(0))


def _fractions(parts: pa.Array) -> npt.NDArray[np.int64]:
    """Return microseconds, cut off and not rounded: a rounded time may belong to the next day."""
    digits = pc.struct_field(parts, "fraction")
    # .5 is half a second, so zeros are added behind.
    padded = pc.utf8_rpad(digits, 6, "0")
    microseconds = pc.utf8_slice_codeunits(padded, 0, 6).cast(pa.int64())
    return np.asarray(microseconds.fill_null(0))
