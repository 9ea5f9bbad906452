"""Wall-clock time to UTC, many values at once, by the zone's own rules; Python's zone data, so every machine agrees.

A clock that is set forward has times that never were; one that is set back has times that were
twice. Source: docs/adr/0005-raw-versions.md.
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
    values, positions = np.unique(wall, return_inverse=True)
    zone = ZoneInfo(timezone)
    found = [_instants(value, zone) for value in values.astype("datetime64[s]").tolist()]
    first = np.array([instants[0] for instants in found], dtype="datetime64[s]")
    was_twice = np.array([len(instants) > 1 for instants in found], dtype=bool)
    never = np.isnat(first) & ~np.isnat(values)
    shaped = [part[positions].reshape(wall.shape) for part in (first, never, was_twice)]
    return shaped[0], shaped[1], shaped[2]


def to_wall(utc: Seconds, timezone: str) -> Seconds:
    """Convert UTC, shape (n,), ``datetime64[s]``, to the zone's clock; NaT stays NaT."""
    values, places = np.unique(utc, return_inverse=True)
    zone = ZoneInfo(timezone)
    wall = [
        None if value is None else _wall(value, zone)
        for value in values.astype("datetime64[s]").tolist()
    ]
    return np.array(wall, dtype="datetime64[s]")[places].reshape(utc.shape)


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
    changes: list[ClockChange] = []
    minute = dt.timedelta(minutes=1)
    instant, before = first.astimezone(dt.UTC), first.astimezone(zone).utcoffset()
    while instant < end:
        after = instant.astimezone(zone).utcoffset()
        if after != before and before is not None and after is not None:
            walls = [instant.replace(tzinfo=None) + offset for offset in (before, after)]
            changes.append(ClockChange(after < before, min(walls), max(walls)))
        instant, before = instant + minute, after
    return changes


def _instants(wall: dt.datetime | None, zone: ZoneInfo) -> list[np.datetime64]:
    """Return the instants at which the clock showed a time, the earlier first; NaT for none."""
    offsets = (
        []
        if wall is None
        else [wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1)]
    )
    # In the years 1 and 9999 the instant may not exist in Python, but it does in numpy.
    instants = [
        np.datetime64(wall, "s") - np.timedelta64(offset or dt.timedelta(), "s")
        for offset in offsets
    ]
    if len(instants) == 2 and offsets[0] == offsets[1]:  # noqa: PLR2004
        return instants[:1]
    if not instants or instants[0] > instants[1]:  # the clock was set forward over this time
        return [np.datetime64("NaT", "s")]
    return instants


def _wall(utc: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    return utc.replace(tzinfo=dt.UTC).astimezone(zone).replace(tzinfo=None)
