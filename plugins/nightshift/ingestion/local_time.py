"""Wall-clock time to UTC, many values at once, by the zone's own rules; Python's zone data, so every machine agrees.

A clock that is set forward has times that never were; one that is set back has times that were twice.
Source: docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Seconds = npt.NDArray[np.datetime64]


def to_utc(wall: Seconds, timezone: str) -> tuple[Seconds, npt.NDArray[np.bool_]]:
    """Convert wall-clock times.

    Args:
        wall: shape (n,), ``datetime64[s]`` on the zone's clock; NaT stays NaT.
        timezone: IANA name.

    Returns:
        shape (n,), ``datetime64[s]`` in UTC: a time that was twice means the first of the two; and shape (n,), whether the time never was
        (its UTC value is then NaT).
    """
    values, places = np.unique(wall, return_inverse=True)
    zone = ZoneInfo(timezone)
    utc = np.array([_instant(value, zone) for value in values.astype("datetime64[s]").tolist()], dtype="datetime64[s]")
    never = np.isnat(utc) & ~np.isnat(values)
    return utc[places].reshape(wall.shape), never[places].reshape(wall.shape)


def to_wall(utc: Seconds, timezone: str) -> Seconds:
    """Convert UTC, shape (n,), ``datetime64[s]``, to the zone's clock; NaT stays NaT."""
    values, places = np.unique(utc, return_inverse=True)
    zone = ZoneInfo(timezone)
    wall = [None if value is None else _wall(value, zone) for value in values.astype("datetime64[s]").tolist()]
    return np.array(wall, dtype="datetime64[s]")[places].reshape(utc.shape)


def _instant(wall: dt.datetime | None, zone: ZoneInfo) -> dt.datetime | None:
    if wall is None:
        return None
    utc = wall.replace(tzinfo=zone, fold=0).astimezone(dt.UTC)
    return utc.replace(tzinfo=None) if utc.astimezone(zone).replace(tzinfo=None) == wall else None


def _wall(utc: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    return utc.replace(tzinfo=dt.UTC).astimezone(zone).replace(tzinfo=None)
