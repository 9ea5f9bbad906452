"""The virtual clock of the upstream system, and the time of each delivery."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings

DELIVERY_MINUTES = {
    "carriers": 1,
    "airports": 2,
    "planes": 3,
    "flight_outcomes": 5,
    "weather": 10,
    "flight_schedules": 15,
}
"""Minutes after the end of the operating day; all lie before the cut-off of 00:30. Source:
chosen, as an airline would.
"""


class ClockError(NightshiftError):
    """The file of the virtual clock is damaged."""

    code = "NS-REPLAY-001"


def delivery_time(dataset: str, partition: Partition) -> dt.datetime:
    """Return the time at which a dataset's file of a day is delivered, UTC."""
    return partition.end + dt.timedelta(minutes=DELIVERY_MINUTES[dataset])


def read_clock(settings: Settings) -> dt.datetime | None:
    """Return the virtual now, UTC; None before the first delivery.

    Raises:
        ClockError: Its file does not hold a time.
    """
    path = settings.home / "replay_clock"
    if not path.is_file():
        return None
    try:
        return dt.datetime.fromisoformat(path.read_text().strip()).astimezone(dt.UTC)
    except ValueError:
        raise ClockError(
            f"{path} does not hold a time.",
            expected="an ISO time with offset",
            todo=f"Delete {path.name} and deliver again.",
        ) from None


def advance_clock(settings: Settings, now: dt.datetime) -> dt.datetime:
    """Move the virtual now forward and return it; an earlier time changes nothing."""
    before = read_clock(settings)
    after = now if before is None else max(before, now)
    settings.home.mkdir(parents=True, exist_ok=True)
    # Replaced in one step: a killed delivery leaves the old time and no empty file.
    partial = settings.home / ".replay_clock.partial"
    partial.write_text(after.isoformat() + "\n")
    partial.replace(settings.home / "replay_clock")
    return after
