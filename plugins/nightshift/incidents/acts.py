"""What a person decides about an open incident: acknowledge, snooze, wake.

Each act needs an actor and a reason, and is kept in ``ops.incident_events``.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.incidents.records import Event, Incident, find_incident, unknown_incident

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

# A longer silence would outlive the shift that decided it.
MAX_SNOOZE = dt.timedelta(days=7)


@dataclass(frozen=True)
class IncidentAct:
    """Who decides, and why."""

    actor: str
    reason: str


class ActRefusedError(NightshiftError):
    """An act lacks its actor or reason, or its time makes no sense."""

    code = "NS-INCIDENT-009"


def acknowledge(conn: Connection, incident_id: int, actor: str, reason: str) -> Incident:
    """Record that somebody is at it; return the incident as read back.

    Raises:
        UnknownIncidentError: It is closed, or there is none of that number.
        ActRefusedError: Actor or reason is empty.
    """
    change = "acknowledged_at = clock_timestamp(), acknowledged_by = %(actor)s"
    return _act(conn, incident_id, "acknowledged", change, IncidentAct(actor, reason))


def snooze(
    conn: Connection, incident_id: int, duration: dt.timedelta, actor: str, reason: str
) -> Incident:
    """Remind nobody for some time, unless it grows worse; return the incident as read back.

    Raises:
        UnknownIncidentError: It is closed, or there is none of that number.
        ActRefusedError: Actor or reason is empty, or the time is not within ``MAX_SNOOZE``.
    """
    if not dt.timedelta() < duration <= MAX_SNOOZE:
        raise ActRefusedError(
            "An incident is snoozed for a limited time.",
            expected=f"more than nothing, at most {MAX_SNOOZE.days} days",
            got=str(duration),
            todo="Give a shorter time; snooze it again when it is over.",
        )
    change = "snoozed_until = clock_timestamp() + %(duration)s::interval, snoozed_by = %(actor)s"
    return _act(conn, incident_id, "snoozed", change, IncidentAct(actor, reason), duration)


def wake(conn: Connection, incident_id: int, actor: str, reason: str) -> Incident:
    """End a snooze and an acknowledgement; return the incident as read back.

    Raises:
        UnknownIncidentError: It is closed, or there is none of that number.
        ActRefusedError: Actor or reason is empty.
    """
    change = (
        "snoozed_until = null, snoozed_by = null, acknowledged_at = null, acknowledged_by = null"
    )
    return _act(conn, incident_id, "woken", change, IncidentAct(actor, reason))


def _act(
    conn: Connection,
    incident_id: int,
    event: Event,
    change: str,
    act: IncidentAct,
    duration: dt.timedelta | None = None,
) -> Incident:
    actor, reason = act.actor, act.reason.strip()
    if not actor or not reason:
        raise ActRefusedError(
            "An act about an incident names who decides and why.",
            expected="an actor and a reason",
            todo='Give --reason "<why>".',
        )
    query = f"""
        with changed as (
            update ops.incidents set {change}
            where incident_id = %(incident_id)s and closed_at is null
            returning incident_id, severity, worse_rank
        )
        insert into ops.incident_events (incident_id, event, actor, reason, severity, worse_rank)
        select incident_id, %(event)s, %(actor)s, %(reason)s, severity, worse_rank from changed
        returning incident_id
    """  # noqa: S608 - our own text
    values = {
        "incident_id": incident_id,
        "event": event,
        "actor": actor,
        "reason": reason,
        "duration": duration,
    }
    if conn.execute(query.encode(), values).fetchone() is None:
        # It may have closed a moment ago.
        state = find_incident(conn, incident_id).state
        raise unknown_incident(incident_id, f"it is {state}")
    return find_incident(conn, incident_id)
