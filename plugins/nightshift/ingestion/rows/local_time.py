"""Convert wall-clock time to UTC and back, many values at once, by the zone's own rules.

Python's zone data is used, so every machine agrees. A clock that is set forward skips some times;
one that is set back shows some twice. Source: docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]
    Seconds = npt.NDArray[np.datetime64]

_NAT = np.datetime64("NaT", "s")


def to_utc(
    wall: Seconds,
    timezone: str,
) -> tuple[Seconds, Mask, Mask]:
    """Convert wall-clock times.

    Args:
        wall: shape (n,), ``datetime64[s]`` on the zone's clock; NaT stays NaT.
        timezone: IANA name.

    Returns:
        shape (n,), ``datetime64[s]`` in UTC: a time that was twice means the first of the two; the
        UTC value may lie in the year 0 or 10000. shape (n,): whether the time never was (its UTC
        value is then NaT). shape (n,): whether the time was twice.
    """
    zone = ZoneInfo(timezone)
    # Python converts each distinct time once, not once for each row.
    values, positions = _distinct(wall)
    # The offsets before and after a change, if the time lies at one.
    before = _utc_offsets(values, zone, fold=0)
    after = _utc_offsets(values, zone, fold=1)
    # The clock was set forward over these times.
    never = before < after
    # In the years 1 and 9999 the instant may not exist in Python, but it does in numpy.
    first = np.where(never, _NAT, values - before)
    was_twice = before > after
    return (
        first[positions],
        never[positions],
        was_twice[positions],
    )


def to_wall(
    utc: Seconds,
    timezone: str,
) -> Seconds:
    """Convert UTC, shape (n,), ``datetime64[s]``, to the zone's clock; NaT stays NaT."""
    zone = ZoneInfo(timezone)
    # Rows share few times, and a conversion in Python is slow: each distinct time once.
    values, positions = _distinct(utc)
    wall = np.full(
        len(values),
        _NAT,
    )
    for i, value in enumerate(values.tolist()):
        if value is not None:
            wall[i] = _wall(value, zone)
    return np.asarray(wall[positions])


@dataclass(frozen=True)
class ClockChange:
    """A moment at which a zone's clock was set.

    Attributes:
        was_set_back: Whether the times between were there twice; else they never were.
        start: The first of these times on the wall's clock, included.
        end: The last, excluded.
    """

    was_set_back: bool
    start: dt.datetime
    end: dt.datetime

    def __str__(self) -> str:
        """Return a sentence for the refusal of a file."""
        span = f"{self.start:%Y-%m-%d %H:%M} to {self.end:%H:%M}"
        if self.was_set_back:
            return f"{span} was there twice"
        return f"{span} never was"


def clock_changes(
    first: dt.datetime,
    end: dt.datetime,
    timezone: str,
) -> list[ClockChange]:
    """Return when a zone's clock was set.

    Args:
        first: The first instant.
        end: The last one, excluded.
        timezone: IANA name.

    Returns:
        The changes in order, to the minute.
    """
    zone = ZoneInfo(timezone)
    changes = []
    instant = first.astimezone(dt.UTC)
    before = _utc_offset(instant, zone)
    while instant < end:
        after = _utc_offset(instant, zone)
        if after != before:
            utc = instant.replace(tzinfo=None)
            start, stop = sorted((utc + before, utc + after))
            was_set_back = after < before
            changes.append(ClockChange(was_set_back, start, stop))
        # Zone data has no list of changes in Python, so each minute is asked.
        instant += dt.timedelta(minutes=1)
        before = after
    return changes


def _distinct(times: Seconds) -> tuple[Seconds, npt.NDArray[np.int64]]:
    """Return the distinct times, and the index of each time among them; shape (n,)."""
    seconds = times.astype("datetime64[s]")
    values, positions = np.unique(seconds, return_inverse=True)
    return values, positions


def _utc_offsets(
    wall: Seconds,
    zone: ZoneInfo,
    fold: int,
) -> npt.NDArray[np.timedelta64]:
    """Return the offset from UTC at each time on a zone's clock; none at NaT. Shape (n,)."""
    # The zone reads the fields alone: a time that carries the zone takes twice as long.
    offsets = [
        None if time is None else zone.utcoffset(time.replace(fold=fold)) for time in wall.tolist()
    ]
    return np.array(offsets, dtype="timedelta64[s]")


def _wall(
    utc: dt.datetime,
    zone: ZoneInfo,
) -> dt.datetime:
    aware = utc.replace(tzinfo=dt.UTC)
    return aware.astimezone(zone).replace(tzinfo=None)


def _utc_offset(
    instant: dt.datetime,
    zone: ZoneInfo,
) -> dt.timedelta:
    offset = instant.astimezone(zone).utcoffset()
    return offset or dt.timedelta()
