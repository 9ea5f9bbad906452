"""What a notice says: plain text of at most 20 lines, and the same facts as JSON.

The texts of an incident hold no value of a row (docs/incidents.md); here they are only cut to
length and freed of control characters, so that none of them can forge a line or a header.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from zoneinfo import ZoneInfo

from nightshift.contracts.partitions import operating_timezone

if TYPE_CHECKING:
    from nightshift.incidents.records import Incident

Transition = Literal["opened", "worsened", "closed"]
MAX_LINES = 20
SCHEMA = "nightshift.notice/1"
_MAX_SUBJECT, _MAX_TEXT, _MAX_COMMAND = 120, 240, 400
# Lines of a digest that name one incident each; its other lines count and say what to do.
_LINES_OF_DIGEST = 10
_MAX_DAYS, _MAX_NAMES = 3, 4
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_SEVERITIES = ("critical", "warning", "info")
_VERBS = {"opened": "opened", "worsened": "worse", "closed": "ended"}


@dataclass(frozen=True)
class Item:
    """One incident in a message.

    Attributes:
        incident: The incident as it is when the message is sent.
        transition: What became of it.
    """

    incident: Incident
    transition: Transition


@dataclass(frozen=True)
class Message:
    """A message that every channel can send.

    Attributes:
        key: Idempotency key: the same in every try to deliver it.
        event: ``opened``, ``worsened``, ``closed``, ``digest`` or ``test``.
        subject: One line.
        text: At most 20 lines.
        incidents: The incidents as JSON.
        thread: Key of what belongs together: all messages of one incident; empty for none.
    """

    key: str
    event: str
    subject: str
    text: str
    incidents: tuple[dict[str, Any], ...] = ()
    thread: str = ""

    def document(self) -> dict[str, Any]:
        """Return the message as plain JSON; the key comes again when a delivery is repeated."""
        return {
            "schema": SCHEMA,
            "key": self.key,
            "event": self.event,
            "subject": self.subject,
            "text": self.text,
            "incidents": list(self.incidents),
        }


def compose(key: str, items: Sequence[Item], runbooks_url: str, now: dt.datetime) -> Message:
    """Return the message about one incident, or the digest of several.

    Args:
        key: Idempotency key.
        items: What it tells; at least one.
        runbooks_url: Address before the path of a runbook page; empty shows the path.
        now: The instant from which durations count, UTC.
    """
    documents = tuple(_document(item) for item in items)
    if len(items) > 1:
        subject, lines = _digest(items)
        return Message(key, "digest", subject, _text(lines), documents)
    item = items[0]
    incident = item.incident
    word = _VERBS[item.transition]
    subject = f"[{incident.severity}] {word}: {incident.what} ({incident.code})"
    lines = _ended(item, now) if item.transition == "closed" else _open(item, runbooks_url, now)
    thread = f"incident-{incident.incident_id}-{incident.opened_at:%Y%m%dT%H%M%S}"
    return Message(
        key, item.transition, one_line(subject, _MAX_SUBJECT), _text(lines), documents, thread
    )


def probe_message(key: str, channel: str) -> Message:
    """Return the message that a person sends to try a channel."""
    text = f"This is a test of the channel {channel}; nothing is broken.\nkey: {key}"
    return Message(key, "test", f"[test] notices of nightshift reach {channel}", text)


def one_line(text: str, max_length: int = _MAX_TEXT) -> str:
    """Return a text without control characters, cut to a length."""
    flat = _CONTROL.sub(" ", text).strip()
    if len(flat) <= max_length:
        return flat
    return flat[: max_length - 1].rstrip() + "…"


def _open(item: Item, runbooks_url: str, now: dt.datetime) -> list[str]:
    incident = item.incident
    lines = [
        f"{incident.severity.upper()}, {_VERBS[item.transition]}: {one_line(incident.what)}",
        f"since:    {_instant(incident.opened_at)}, {_duration(now - incident.opened_at)} ago",
    ]
    if incident.partitions:
        lines.append(f"nights:   {_days(incident.partitions)}")
    when = ""
    if incident.deadline_at is not None:
        when = f"at {_instant(incident.deadline_at)}: "
    lines += [
        f"if nobody acts: {when}{one_line(incident.consequence)}",
        f"do:       {one_line(incident.command, _MAX_COMMAND)}",
        f"runbook:  {_runbook(incident, runbooks_url)}",
    ]
    touched = (*incident.touched_models, *incident.touched_consumers)
    if touched:
        lines.append(f"touches:  {_some(touched)}")
    acknowledge = f'`nightshift incidents ack {incident.incident_id} --reason "…"`'
    lines += [
        f"owner:    {one_line(incident.owner) or 'nobody is named'}",
        f"incident: {incident.incident_id} ({incident.code}); you are at it? {acknowledge}",
    ]
    return lines


def _ended(item: Item, now: dt.datetime) -> list[str]:
    incident = item.incident
    closed_at = incident.closed_at or now
    todo = "nothing; it was found to be gone"
    if incident.is_out_of_sight:
        todo = "look at it; its rule looks no further, and nobody has seen it repaired"
    return [
        f"ENDED: {one_line(incident.what)}",
        f"from:     {_instant(incident.opened_at)}",
        f"until:    {_instant(closed_at)}, after {_duration(closed_at - incident.opened_at)}",
        f"do:       {todo}",
        f"owner:    {one_line(incident.owner) or 'nobody is named'}",
        f"incident: {incident.incident_id} ({incident.code})",
    ]


def _digest(items: Sequence[Item]) -> tuple[str, list[str]]:
    """Return subject and lines of a digest: how many of what, then the most severe ones."""
    n_open = sum(item.transition != "closed" for item in items)
    severities: Counter[str] = Counter()
    for item in items:
        severities[item.incident.severity] += item.transition != "closed"
    counts = [f"{severities[name]} {name}" for name in _SEVERITIES]
    n_ended = len(items) - n_open
    subject = f"[digest] {n_open} incidents ({', '.join(counts)}), {n_ended} ended"
    lines = [f"{subject[len('[digest] ') :]}. One message for all, because they are many."]
    codes = Counter(item.incident.code for item in items)
    frequent = [f"{code} {n} times" for code, n in codes.most_common(5)]
    lines.append(f"codes: {', '.join(frequent)}")
    # Of the same severity the open ones first: there is something to do.
    worst_first = sorted(items, key=_urgency)
    for item in worst_first[:_LINES_OF_DIGEST]:
        incident = item.incident
        word = _VERBS[item.transition]
        lines.append(
            f"- {incident.incident_id} [{incident.severity}] {word}: {one_line(incident.what, 120)}"
        )
    n_left_out = len(items) - _LINES_OF_DIGEST
    if n_left_out > 0:
        lines.append(f"and {n_left_out} more")
    lines.append("do: nightshift incidents list")
    return subject, lines


def _urgency(item: Item) -> tuple[int, bool]:
    return _SEVERITIES.index(item.incident.severity), item.transition == "closed"


def _document(item: Item) -> dict[str, Any]:
    return {"transition": item.transition, **item.incident.document()}


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines[:MAX_LINES])


def _runbook(incident: Incident, runbooks_url: str) -> str:
    page = one_line(incident.runbook)
    if not runbooks_url or "://" in page:
        return page
    return f"{runbooks_url.rstrip('/')}/{page}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 60) for name in names[:_MAX_NAMES])
    n_more = len(names) - _MAX_NAMES
    if n_more > 0:
        return f"{shown} and {n_more} more"
    return shown


def _days(days: Sequence[dt.date]) -> str:
    if len(days) > _MAX_DAYS:
        return f"{days[0]} … {days[-1]} ({len(days)} nights)"
    return ", ".join(map(str, days))


def _instant(at: dt.datetime) -> str:
    # People compare it with their own clock, and the logs are in UTC.
    local = at.astimezone(ZoneInfo(operating_timezone()))
    return f"{local:%Y-%m-%d %H:%M %Z} ({at.astimezone(dt.UTC):%H:%M} UTC)"


def _duration(time: dt.timedelta) -> str:
    minutes = max(0, int(time.total_seconds() // 60))
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
