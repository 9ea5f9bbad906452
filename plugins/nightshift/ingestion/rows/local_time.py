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


def to_utc(wall: Seconds, timezone: str) -> tuple[Seconds, Mask, Mask]:
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
    values, positions = np.unique(wall.astype("datetime64[s]"), return_inverse=True)
    instants = [_first_instant(value, zone) for value in values.tolist()]
    first = np.array([instant for instant, _ in instants], dtype="datetime64[s]")
    was_twice = np.array([is_twice for _, is_twice in instants], dtype=bool)
    never = np.isnat(first) & ~np.isnat(values)
    return first[positions], never[positions], was_twice[positions]


def to_wall(utc: Seconds, timezone: str) -> Seconds:
    """Convert UTC, shape (n,), ``datetime64[s]``, to the zone's clock; NaT stays NaT."""
    zone = ZoneInfo(timezone)
    values, positions = np.unique(utc.astype("datetime64[s]"), return_inverse=True)
    wall = [None if value is None else _wall(value, zone) for value in values.tolist()]
    return np.array(wall, dtype="datetime64[s]")[positions]


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
        span = f"{self.start:%Y-%m-%d %H:%M} to {self.end:%H:%M}"
        return f"{span} was there twice" if self.was_set_back else f"{span} never was"


def clock_changes(first: dt.datetime, end: dt.datetime, timezone: str) -> list[ClockChange]:
    """Return when a zone's clock was set, between two instants, to the minute."""
    zone = ZoneInfo(timezone)
    changes = []
    instant = first.astimezone(dt.UTC)
    before = _wall(instant, zone) - instant.replace(tzinfo=None)
    while instant < end:
        utc = instant.replace(tzinfo=None)
        after = _wall(instant, zone) - utc
        if after != before:
            start, stop = sorted((utc + before, utc + after))
            changes.append(ClockChange(after < before, start, stop))
        instant, before = instant + dt.timedelta(minutes=1), after
    return changes


def _first_instant(wall: dt.datetime | None, zone: ZoneInfo) -> tuple[np.datetime64, bool]:
    """Return when the clock first showed a time, NaT for never, and whether it showed it twice."""
    if wall is None:
        return _NAT, False
    before, after = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    # The clock was set forward over this time.
    if before is None or after is None or before < after:
        return _NAT, False
    # In the years 1 and 9999 the instant may not exist in Python, but it does in numpy.
    return np.datetime64(wall, "s") - np.timedelta64(before, "s"), before > after


def _wall(utc: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    return utc.replace(tzinfo=dt.UTC).astimezone(zone).replace(tzinfo=None)
