"""The record of what each channel is told: queued before a message is sent, tries after it.

Whoever plans or sends for a channel holds the channel's lock, so two senders never tell the same
event twice. A message's key is recorded before the first try, so a try that is repeated after a
crash carries the key of the first one. Source: docs/adr/0047-notices.md.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.incidents.records import find_incidents
from nightshift.notices.messages import Item
from nightshift.notices.routing import channels_for, is_held

if TYPE_CHECKING:
    from nightshift.incidents.records import Incident
    from nightshift.notices.messages import Transition
    from nightshift.notices.notice_settings import NoticeSettings
    from nightshift.warehouse.connection import Connection

# An incident that was over before anybody could be told is told for so long.
TOLD_AFTER_ITS_END = dt.timedelta(days=1)
DIGEST_WINDOW = dt.timedelta(minutes=10)
# A fact that comes and goes: after so many messages within an hour, one each DIGEST_WINDOW.
MAX_OF_A_FACT, FLAPPING_WINDOW = 4, dt.timedelta(hours=1)


@dataclass(frozen=True)
class Untold:
    """What a channel was not told of an incident.

    Attributes:
        incident: The incident as it is now.
        events: Its untold events in order: number and transition.
        was_told: Whether the channel was told of it before.
    """

    incident: Incident
    events: tuple[tuple[int, Transition], ...]
    was_told: bool

    @property
    def transition(self) -> Transition:
        """Return the one transition that says all: its end, else its beginning, else worse."""
        transitions = [transition for _, transition in self.events]
        if "closed" in transitions:
            return "closed"
        return "opened" if "opened" in transitions else "worsened"

    @property
    def telling_event(self) -> int:
        """Return the event under which the message is recorded."""
        of_transition = [event for event, name in self.events if name == self.transition]
        return of_transition[-1]


@dataclass(frozen=True)
class PendingMessage:
    """A message that no receiver has taken yet.

    Attributes:
        key: Its idempotency key.
        items: What it tells.
        queued_at: When it was queued, UTC.
        n_tries: Failed tries.
        last_try_at: The last of them, UTC.
    """

    key: str
    items: tuple[Item, ...]
    queued_at: dt.datetime
    n_tries: int
    last_try_at: dt.datetime | None


def queue_due(
    conn: Connection, notices: NoticeSettings, channel: str, now: dt.datetime
) -> list[str]:
    """Queue what a channel must be told and was not; return the keys of the new messages.

    More than ``digest_above`` messages in ten minutes become one digest. A fact that comes and
    goes waits, and then has one message. The caller holds the channel's lock.
    """
    flapping = _flapping(conn, channel)
    due = []
    for untold in _untold(conn, channel):
        incident = untold.incident
        goes_here = untold.was_told or channel in channels_for(notices, incident)
        waits = is_held(notices, incident, now) or _fact(incident) in flapping
        if goes_here and not waits:
            due.append(untold)
    if not due:
        return []
    n_recent = _recent_messages(conn, channel)
    by_fact: dict[tuple[str, str], list[Untold]] = defaultdict(list)
    for untold in due:
        by_fact[_fact(untold.incident)].append(untold)
    groups = list(by_fact.values())
    if len(groups) > 1 and n_recent + len(groups) > notices.digest_above:
        groups = [due]
    keys = []
    with conn.transaction():
        for group in groups:
            key = f"nightshift-{uuid.uuid4().hex}"
            _queue(conn, channel, key, group)
            keys.append(key)
    return keys


def pending_messages(conn: Connection, channel: str) -> list[PendingMessage]:
    """Return the messages of a channel that were neither taken nor abandoned, the oldest first."""
    rows = conn.execute(
        """
        select n.message_key, n.incident_id, n.transition, n.queued_at, coalesce(t.n_tries, 0),
            t.last_try_at
        from ops.notices n
        left join (
            select message_key, count(*) as n_tries, max(at) as last_try_at,
                bool_or(outcome <> 'failed') as is_over
            from ops.notice_tries where channel = %(channel)s group by message_key
        ) t using (message_key)
        where n.channel = %(channel)s and n.message_key is not null and t.is_over is not true
        order by n.notice_id
        """,
        {"channel": channel},
    ).fetchall()
    incidents = _by_number(conn, (row[1] for row in rows))
    messages: dict[str, PendingMessage] = {}
    for key, incident_id, transition, queued_at, n_tries, last_try_at in rows:
        earlier = messages[key].items if key in messages else ()
        items = (*earlier, Item(incidents[incident_id], transition))
        messages[key] = PendingMessage(key, items, queued_at, n_tries, last_try_at)
    return list(messages.values())


def record_try(
    conn: Connection,
    channel: str,
    message: PendingMessage,
    outcome: str,
    reason: str | None,
    seconds: float,
) -> None:
    """Record how a try ended: ``sent``, ``failed`` or ``abandoned``."""
    conn.execute(
        """
        insert into ops.notice_tries (channel, message_key, attempt, outcome, reason, seconds)
        values (%s, %s, %s, %s, %s, %s)
        """,
        [channel, message.key, message.n_tries + 1, outcome, reason, seconds],
    )


def _untold(conn: Connection, channel: str) -> list[Untold]:
    """Return what a channel was not told, by incident in the order of their first events."""
    # Events are compared one by one, not by the greatest number told: of two transactions the one
    # with the smaller number may commit last.
    rows = conn.execute(
        """
        select e.incident_id, e.event_id, e.event,
            exists (
                select from ops.notices n
                where n.channel = %(channel)s and n.incident_id = e.incident_id
                    and n.message_key is not null)
        from ops.incident_events e
        join ops.incidents i using (incident_id)
        where e.event in ('opened', 'worsened', 'closed')
            and (i.closed_at is null or i.closed_at > clock_timestamp() - %(after_end)s::interval)
            and not exists (
                select from ops.notices n
                where n.channel = %(channel)s and n.event_id = e.event_id)
        order by e.event_id
        """,
        {"channel": channel, "after_end": TOLD_AFTER_ITS_END},
    ).fetchall()
    events: dict[int, list[tuple[int, Transition]]] = defaultdict(list)
    was_told: dict[int, bool] = {}
    for incident_id, event_id, event, was_notified in rows:
        events[incident_id].append((event_id, event))
        was_told[incident_id] = was_notified
    incidents = _by_number(conn, events)
    untold = []
    for number, numbered in events.items():
        untold.append(Untold(incidents[number], tuple(numbered), was_told[number]))
    return untold


def _queue(conn: Connection, channel: str, key: str, group: Sequence[Untold]) -> None:
    values = []
    for untold in group:
        for event_id, transition in untold.events:
            tells = event_id == untold.telling_event
            message_key = key if tells else None
            values.append((channel, untold.incident.incident_id, event_id, transition, message_key))
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            insert into ops.notices (channel, incident_id, event_id, transition, message_key)
            values (%s, %s, %s, %s, %s)
            """,
            values,
        )


def _fact(incident: Incident) -> tuple[str, str]:
    """Return which fact an incident is about; a fact that comes back is another incident."""
    return incident.kind, incident.fact_key


def _flapping(conn: Connection, channel: str) -> set[tuple[str, str]]:
    """Return the facts of which a channel was told often within an hour, and a moment ago."""
    rows = conn.execute(
        """
        select i.kind, i.fact_key
        from ops.notices n join ops.incidents i using (incident_id)
        where n.channel = %(channel)s and n.message_key is not null
            and n.queued_at > clock_timestamp() - %(flapping)s::interval
        group by 1, 2
        having count(distinct n.message_key) >= %(most)s
            and max(n.queued_at) > clock_timestamp() - %(pause)s::interval
        """,
        {
            "channel": channel,
            "flapping": FLAPPING_WINDOW,
            "most": MAX_OF_A_FACT,
            "pause": DIGEST_WINDOW,
        },
    )
    return set(rows.fetchall())


def _recent_messages(conn: Connection, channel: str) -> int:
    row = conn.execute(
        """
        select count(distinct message_key) from ops.notices
        where channel = %s and queued_at > clock_timestamp() - %s::interval
        """,
        [channel, DIGEST_WINDOW],
    ).fetchone()
    return row[0] if row else 0


def _by_number(conn: Connection, numbers: Iterable[int]) -> dict[int, Incident]:
    incidents = find_incidents(conn, sorted(set(numbers)))
    return {incident.incident_id: incident for incident in incidents}


def channel_states(conn: Connection) -> list[tuple[object, ...]]:
    """Return the state of each channel that was ever used, as ``ops.notice_channels`` has it."""
    rows = conn.execute(
        """
        select channel, last_sent_at, failing_since, n_failed, n_pending, reason
        from ops.notice_channels order by channel
        """
    )
    return rows.fetchall()


def recent_notices(conn: Connection, limit: int) -> list[tuple[object, ...]]:
    """Return the last notices: when, channel, incident, transition, state, tries, what."""
    rows = conn.execute(
        """
        select n.queued_at, n.channel, n.incident_id, n.transition,
            coalesce(last.outcome, 'waiting'), coalesce(last.attempt, 0), i.what
        from ops.notices n
        join ops.incidents i using (incident_id)
        left join lateral (
            select outcome, attempt from ops.notice_tries t
            where t.message_key = n.message_key order by try_id desc limit 1
        ) last on true
        where n.message_key is not null
        order by n.notice_id desc limit %s
        """,
        [limit],
    )
    return rows.fetchall()
