"""Settings of notices that are times of day: quiet hours, and the daily sign of life."""

from __future__ import annotations

import datetime as dt
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from nightshift.contracts.partitions import operating_timezone
from nightshift.contracts.yaml_document import Frozen, Identifier


class LocalHours(Frozen):
    """Times of day in a timezone.

    Attributes:
        timezone: Name of the zone; null takes the operating timezone.
    """

    timezone: str | None = None

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (KeyError, OSError, ValueError) as error:
                raise ValueError("a timezone such as Europe/Berlin") from error
        return name

    def local(self, at: dt.datetime) -> dt.datetime:
        """Return an instant (with a timezone) as the clocks of this zone show it."""
        name = self.timezone or operating_timezone()
        return at.astimezone(ZoneInfo(name))


class QuietHours(LocalHours):
    """Hours in which less severe incidents wait; what ended in the meantime is told as ended.

    Attributes:
        begin: Local time.
        end: Local time; before ``begin`` it is that of the next day.
        severities: Severities that wait.
    """

    begin: dt.time
    end: dt.time
    severities: tuple[Literal["warning", "info"], ...] = ("info",)

    def hold(self, severity: str, at: dt.datetime) -> bool:
        """Return whether incidents of this severity wait at an instant (with a timezone)."""
        if severity not in self.severities:
            return False
        time = self.local(at).time()
        if self.begin <= self.end:
            return self.begin <= time < self.end
        # Over midnight: the evening or the morning.
        return time >= self.begin or time < self.end


class Heartbeat(LocalHours):
    """A daily sign of life: a receiver that takes every message and shows none is missed by it.

    Attributes:
        at: Local time.
        channels: Names of the channels that get it.
    """

    at: dt.time
    channels: tuple[Identifier, ...] = Field(min_length=1)

    def due_day(self, now: dt.datetime) -> dt.date:
        """Return the newest local day whose sign of life is due at an instant."""
        local = self.local(now)
        day = local.date()
        # Before its time today, that of yesterday is the newest one.
        return day if local.time() >= self.at else day - dt.timedelta(days=1)
