"""Read incidents, their events and the health of tables and models from the warehouse.

This is what notices, pages and commands build on; nothing is written here. Grain and words of the
tables: docs/incidents.md.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.warehouse.connection import Connection

Severity = Literal["critical", "warning", "info"]
Health = Literal["healthy", "caution", "unknown", "degraded"]
State = Literal["open", "acknowledged", "snoozed", "closed"]
SubjectType = Literal["table", "model", "run", "file", "service", "rule"]
Event = Literal["opened", "worsened", "closed", "acknowledged", "snoozed", "woken"]


SEEN_UNTIL = "seen_until"
"""Key in the facts of an incident: when its rule stops looking at it, ISO 8601."""


class UnknownIncidentError(NightshiftError):
    """There is no incident of that number, or it is closed."""

    code = "NS-INCIDENT-001"


@dataclass(frozen=True)
class Incident:
    """Something that is or was broken.

    Attributes:
        incident_id: Its number.
        kind: The rule that found it.
        fact_key: Which fact of the rule it is.
        code: Error code of its cause; ``docs/runbooks/<code>.md``.
        severity: How urgent it is.
        health: The word that it gives its subject.
        aspect: The part of the subject's health that it belongs to.
        subject_type: What the subject is.
        subject: ``raw/customers``, ``churn``, ``ingest 2024-03-05``, ``object store``, ….
        partitions: Operating days that it concerns, in order.
        owner: Team that answers for it; empty if nobody is named.
        state: ``open``, ``acknowledged``, ``snoozed`` or ``closed``.
        opened_at: When it was first seen, UTC.
        last_seen_at: When it was last seen, UTC.
        closed_at: When it was found to be gone, or out of its rule's sight, UTC; None before.
        n_seen: Evaluations that have seen it.
        what: What is broken, in one sentence.
        consequence: What happens if nobody acts.
        deadline_at: When that happens, UTC; None if at no known time.
        command: The one command that is safe now.
        runbook: Page for on-call.
        touched_tables: Tables whose rows depend on its subject.
        touched_models: Models that depend on its subject.
        touched_consumers: Relations and exposures that people read.
        facts: Numbers and names; no value of a row and no secret.
        worse_rank: How bad it has been at worst; a greater number is worse.
        acknowledged_at: When somebody said that they are at it, UTC.
        acknowledged_by: Who.
        snoozed_until: Until when nobody is reminded, UTC.
        snoozed_by: Who decided that.
    """

    incident_id: int
    kind: str
    fact_key: str
    code: str
    severity: Severity
    health: Health
    aspect: str
    subject_type: SubjectType
    subject: str
    partitions: tuple[dt.date, ...]
    owner: str
    state: State
    opened_at: dt.datetime
    last_seen_at: dt.datetime
    closed_at: dt.datetime | None
    n_seen: int
    what: str
    consequence: str
    deadline_at: dt.datetime | None
    command: str
    runbook: str
    touched_tables: tuple[str, ...]
    touched_models: tuple[str, ...]
    touched_consumers: tuple[str, ...]
    facts: dict[str, Any]
    worse_rank: int
    acknowledged_at: dt.datetime | None
    acknowledged_by: str | None
    snoozed_until: dt.datetime | None
    snoozed_by: str | None

    @property
    def is_out_of_sight(self) -> bool:
        """Return whether it ended because its rule looks no further, and not as repaired."""
        seen_until = self.facts.get(SEEN_UNTIL)
        if self.closed_at is None or seen_until is None:
            return False
        return dt.datetime.fromisoformat(seen_until) <= self.closed_at

    def document(self) -> dict[str, Any]:
        """Return the incident as plain JSON."""
        document: dict[str, Any] = as_json(asdict(self))
        return document


@dataclass(frozen=True)
class IncidentEvent:
    """What became of an incident.

    Attributes:
        event_id: Rises with each event.
        at: When, UTC.
        incident_id: Which incident.
        event: What happened.
        actor: ``evaluator``, or the person.
        reason: Why.
        severity: Of the incident at that time.
        worse_rank: Of the incident at that time.
    """

    event_id: int
    at: dt.datetime
    incident_id: int
    event: Event
    actor: str
    reason: str
    severity: Severity
    worse_rank: int


@dataclass(frozen=True)
class SubjectHealth:
    """Health of a table or model in one word.

    Attributes:
        subject_type: ``table`` or ``model``.
        subject: Its name.
        owner: Team that answers for it.
        health: The worst of its parts.
        parts: Each part that is not healthy, with its word.
        since: Since when, UTC; None while it is healthy.
        incident_ids: The open incidents behind it.
        evaluated_at: When the rules last ran, UTC; None if never.
    """

    subject_type: SubjectType
    subject: str
    owner: str
    health: Health
    parts: dict[str, Health]
    since: dt.datetime | None
    incident_ids: tuple[int, ...]
    evaluated_at: dt.datetime | None


# The same words as ops.open_incidents, and ``closed``; the warehouse's clock decides.
_COLUMNS = """
    incident_id, kind, fact_key, code, severity, health, aspect, subject_type, subject, partitions,
    owner,
    case
        when closed_at is not null then 'closed'
        when snoozed_until > clock_timestamp() then 'snoozed'
        when acknowledged_at is not null then 'acknowledged'
        else 'open'
    end as state,
    opened_at, last_seen_at, closed_at, n_seen, what, consequence, deadline_at, command, runbook,
    touched_tables, touched_models, touched_consumers, facts, worse_rank,
    acknowledged_at, acknowledged_by, snoozed_until, snoozed_by
"""
# A pager rings in this order, so a list has it too.
_WORST_FIRST = "array_position(array['critical', 'warning', 'info'], severity), opened_at"


def last_look(conn: Connection) -> tuple[dt.datetime | None, bool]:
    """Return when what is broken was last looked for, and whether that was a moment ago."""
    row = conn.execute("select evaluated_at, is_fresh from ops.last_evaluation").fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return row[0], row[1]


def open_incidents(conn: Connection) -> list[Incident]:
    """Return what is broken now, the most severe first, of those the oldest."""
    return _select(conn, f"closed_at is null order by {_WORST_FIRST}", [])


def recent_incidents(conn: Connection, within: dt.timedelta) -> list[Incident]:
    """Return the open incidents, and those that closed within that time, the newest first."""
    condition = "closed_at is null or closed_at > clock_timestamp() - %s::interval"
    return _select(conn, f"{condition} order by opened_at desc, incident_id desc", [within])


def find_incidents(conn: Connection, incident_ids: Sequence[int]) -> list[Incident]:
    """Return incidents by their numbers, open or closed; unknown numbers are left out."""
    return _select(conn, "incident_id = any(%s) order by incident_id", [list(incident_ids)])


def find_incident(conn: Connection, incident_id: int) -> Incident:
    """Return one incident, open or closed.

    Raises:
        UnknownIncidentError: There is none of that number.
    """
    incidents = find_incidents(conn, [incident_id])
    if not incidents:
        raise unknown_incident(incident_id, "no such incident")
    return incidents[0]


def unknown_incident(incident_id: int, got: str) -> UnknownIncidentError:
    """Return the error about an incident that is absent or closed."""
    return UnknownIncidentError(
        f"Incident {incident_id} cannot be acted on.",
        expected="the number of an open incident",
        got=got,
        todo="`nightshift incidents list` shows the open ones.",
    )


def incident_events(
    conn: Connection, *, after: int = 0, incident_id: int | None = None
) -> list[IncidentEvent]:
    """Return events in their order.

    Args:
        conn: Any connection.
        after: Only events with a greater number.
        incident_id: Only events of this incident.
    """
    # `after` lets a reader of all events go on where it stopped.
    query = """
        select event_id, at, incident_id, event, actor, reason, severity, worse_rank
        from ops.incident_events
        where event_id > %(after)s and incident_id = coalesce(%(incident_id)s, incident_id)
        order by event_id
    """
    rows = conn.execute(query, {"after": after, "incident_id": incident_id})
    return [IncidentEvent(*row) for row in rows]


def read_health(conn: Connection) -> list[SubjectHealth]:
    """Return the health of every table and model, models first."""
    rows = conn.execute(
        """
        select subject_type, subject, owner, health, parts, since, incident_ids, evaluated_at
        from ops.health
        order by subject_type, subject
        """
    )
    return [SubjectHealth(*_frozen(row)) for row in rows]


def as_json(value: Any) -> Any:  # noqa: ANN401 - any tree of plain values
    """Return a tree of plain values with days and instants as ISO texts, and tuples as lists."""
    if isinstance(value, dict):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    # An instant is a date to Python.
    if isinstance(value, dt.date):
        return value.isoformat()
    return value


def _select(conn: Connection, condition: str, parameters: list[object]) -> list[Incident]:
    query = f"select {_COLUMNS} from ops.incidents where {condition}"  # noqa: S608 - our own text
    return [Incident(*_frozen(row)) for row in conn.execute(query.encode(), parameters)]


def _frozen(row: tuple[Any, ...]) -> list[Any]:
    """Return the values of a row; psycopg reads an array as a list, which no record may hold."""
    return [tuple(value) if isinstance(value, list) else value for value in row]
