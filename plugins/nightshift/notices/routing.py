"""Decide which channels an incident goes to, and whether it waits for the end of quiet hours."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.incidents.records import Incident
    from nightshift.notices.notice_settings import NoticeSettings

DEAD_CHANNEL = "NS-NOTICE-002"
"""Code of the incident about a channel that does not deliver."""
CHANNEL_FACT = "channel"
"""Key of such a channel's name in the facts of its incident."""


def channels_for(notices: NoticeSettings, incident: Incident) -> set[str]:
    """Return the names of the channels that are told of an incident."""
    if incident.code == DEAD_CHANNEL:
        # Whoever it concerns cannot be told through the channel that is dead.
        return notices.channels.by_name.keys() - {incident.facts.get(CHANNEL_FACT)}
    names: set[str] = set()
    for route in notices.routes:
        if route.fits(incident.owner, incident.severity):
            names |= set(route.channels)
    return names or set(notices.otherwise)


def is_held(notices: NoticeSettings, incident: Incident, at: dt.datetime) -> bool:
    """Return whether an incident waits: for the end of quiet hours, or of a person's snooze."""
    # Somebody who has snoozed it knows it; when it grows worse it is awake again.
    if incident.state == "snoozed":
        return True
    quiet = notices.quiet_hours
    return quiet is not None and quiet.hold(incident.severity, at)
