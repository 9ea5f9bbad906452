"""Partition and PartitionRange: one operating day of one dataset, and several.

A day is 23, 24 or 25 hours long in its own timezone, so its edges are computed there and compared
in UTC, half-open.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, total_ordering
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from nightshift.contracts.dbt_variables import dbt_folder, dbt_variable
from nightshift.errors import NightshiftError

# Local time on the day after at which the knowledge of a partition ends at the earliest. Source:
# docs/adr/0001-time.md.
CUTOFF = dt.time(0, 30)
# Days that every library here can hold with its zone, its look-back and its nanoseconds (1677 to
# 2262).
EARLIEST_DAY, LATEST_DAY = dt.date(1900, 1, 1), dt.date(2199, 12, 31)
# Files next to the zones: the machine's own zone, none at all, and copies with other rules.
_OF_ONE_MACHINE = re.compile(r"localtime|Factory|posixrules|(posix|right)/.*")


class TimezoneError(NightshiftError):
    """The project's operating timezone is no timezone."""

    code = "NS-TIME-002"


class PartitionKeyError(NightshiftError):
    """A partition key is not a day ``YYYY-MM-DD``."""

    code = "NS-TIME-001"


class CalendarError(PartitionKeyError):
    """A partition key is a day beyond the calendar that we can compute with."""

    code = "NS-TIME-004"


def operating_timezone() -> str:
    """Return the IANA zone whose midnight begins a partition, for all datasets and models.

    ``dbt_project.yml`` names it, the one place for SQL and Python. It is read at the first call.

    Raises:
        TimezoneError: It names none that exists.
    """
    return _timezone_of(dbt_folder())


@cache
def _timezone_of(folder: Path) -> str:
    name = str(dbt_variable("operating_timezone") or "")
    if not is_timezone(name):
        raise TimezoneError(
            "The operating timezone does not exist.",
            expected="vars.operating_timezone with a name of the IANA database (Europe/Berlin)",
            got=name or "none",
            todo=f"Correct it in {folder / 'dbt_project.yml'}.",
        )
    return name


def is_timezone(name: str) -> bool:
    """Return whether a name is one of the IANA database, with the same rules on every machine."""
    if _OF_ONE_MACHINE.fullmatch(name):
        return False
    try:
        ZoneInfo(name)
    # A folder of the database, such as Europe, is an OSError.
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


@total_ordering
@dataclass(frozen=True)
class Partition:
    """All rows of one operating day.

    Attributes:
        day: The operating day.
        timezone: IANA name of the zone whose midnight bounds the day.
    """

    day: dt.date
    timezone: str = field(default_factory=operating_timezone)

    @classmethod
    def parse(cls, key: str, timezone: str | None = None) -> Partition:
        """Read a partition key.

        Raises:
            PartitionKeyError: The key is not ``YYYY-MM-DD``.
            CalendarError: It is a day that no dataset can have.
        """
        try:
            day = dt.date.fromisoformat(key)
        except ValueError:
            day = None
        # Python reads other forms of ISO 8601 too, such as 20130105.
        if day is None or day.isoformat() != key:
            raise PartitionKeyError(
                f"Not a partition key: {key!r}.",
                expected="YYYY-MM-DD",
                got=repr(key),
                todo="Give the operating day.",
            )
        if not EARLIEST_DAY <= day <= LATEST_DAY:
            raise CalendarError(
                f"The partition key {key} lies beyond the calendar.",
                expected=f"{EARLIEST_DAY} to {LATEST_DAY}",
                got=key,
                todo="Give the operating day that you meant, and delete the run with this key.",
            )
        return cls(day, timezone or operating_timezone())

    @property
    def key(self) -> str:
        """Return the key ``YYYY-MM-DD``."""
        return self.day.isoformat()

    @property
    def start(self) -> dt.datetime:
        """Return the first instant of the day in UTC (included)."""
        return self._instant(self.day, dt.time(0))

    @property
    def end(self) -> dt.datetime:
        """Return the first instant after the day in UTC (excluded)."""
        return self._instant(self.day + dt.timedelta(days=1), dt.time(0))

    @property
    def cutoff(self) -> dt.datetime:
        """Return the earliest knowledge cut-off of this partition, in UTC (included)."""
        return self._instant(self.day + dt.timedelta(days=1), CUTOFF)

    def shift(self, days: int) -> Partition:
        """Return the partition that many operating days later (negative: earlier)."""
        return Partition(self.day + dt.timedelta(days=days), self.timezone)

    def _instant(self, day: dt.date, time: dt.time) -> dt.datetime:
        # Computed on the wall clock: 24 hours after a midnight need not be the next one.
        local = dt.datetime.combine(day, time, ZoneInfo(self.timezone))
        return local.astimezone(dt.UTC)

    def __lt__(self, other: Partition) -> bool:
        """Order by day."""
        return self.day < other.day

    def __str__(self) -> str:
        """Return the key."""
        return self.key


@dataclass(frozen=True)
class PartitionRange:
    """Consecutive partitions, both ends included.

    Raises:
        PartitionKeyError: The last day lies before the first.
    """

    first: Partition
    last: Partition

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if self.last < self.first:
            raise PartitionKeyError(
                f"Empty range {self}.", expected="first <= last", todo="Swap the two days."
            )

    @classmethod
    def of(cls, first: str, last: str = "") -> PartitionRange:
        """Read a range from its partition keys; without a last one, of one partition."""
        return cls(Partition.parse(first), Partition.parse(last or first))

    @classmethod
    def single(cls, partition: Partition) -> PartitionRange:
        """Return the range that holds one partition."""
        return cls(partition, partition)

    @property
    def days(self) -> list[dt.date]:
        """Return the days in order."""
        return [self.first.day + dt.timedelta(days=n) for n in range(len(self))]

    def __iter__(self) -> Iterator[Partition]:
        """Iterate over the partitions in order."""
        # The zone of the range, which may be a contract's own.
        return (Partition(day, self.first.timezone) for day in self.days)

    def __len__(self) -> int:
        """Return the number of partitions."""
        return (self.last.day - self.first.day).days + 1

    def __str__(self) -> str:
        """Return ``first`` or ``first..last``."""
        if self.first == self.last:
            return self.first.key
        return f"{self.first.key}..{self.last.key}"


def consecutive_ranges(days: Iterable[dt.date]) -> list[PartitionRange]:
    """Return the ranges of consecutive days, in order."""
    ranges: list[PartitionRange] = []
    for day in sorted(days):
        partition = Partition(day)
        if ranges and partition == ranges[-1].last.shift(1):
            ranges[-1] = PartitionRange(ranges[-1].first, partition)
        else:
            ranges.append(PartitionRange.single(partition))
    return ranges
