"""Tell people that nobody can see what is broken: what is told then is recorded in the home.

Without a warehouse there is no list of incidents and no record of notices. So a file of the home
keeps what each channel was told; of two machines each tells once.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift import sealed_file
from nightshift.errors import NightshiftError, cause_of
from nightshift.incidents.records import Incident
from nightshift.incidents.runbook_commands import page_command, page_of
from nightshift.notices.delivery import ChannelResult, send_unrecorded
from nightshift.notices.messages import Item, compose

if TYPE_CHECKING:
    from nightshift.incidents.records import State
    from nightshift.notices.messages import Transition
    from nightshift.notices.notice_settings import NoticeSettings
    from nightshift.settings import Settings

FOLDER = "notices"
FORGOTTEN_AFTER = dt.timedelta(days=7)
NOTICE_SETTINGS = "notice settings"
_BLIND, _UNSEEN = "Nobody can see what is broken", "Whatever is broken besides stays unseen."
# What is notified with the settings that worked last is seen all the same.
_SENTENCES = {NOTICE_SETTINGS: "What is wrong now"}
_CONSEQUENCES = {
    NOTICE_SETTINGS: "Notices go by the settings that worked last; changes have no effect."
}


@dataclass
class Outage:
    """Something keeps us from seeing what is broken, as the home remembers it.

    Attributes:
        key: Of its messages.
        name: What is away or fails: ``warehouse`` or ``freshness check``.
        code: Code of the error.
        what: Its sentence.
        since: When it was first seen, ISO 8601.
        notified: Channels that were told of its beginning.
        notified_of_end: Channels that were told of its end.
        is_short: Whether it has not lasted long enough to tell anybody.
        command: What its runbook page does first.
    """

    key: str
    name: str
    code: str
    what: str
    since: str
    notified: list[str] = field(default_factory=list)
    notified_of_end: list[str] = field(default_factory=list)
    is_short: bool = False
    command: str = "nightshift status"


def tell_outage(
    settings: Settings,
    notices: NoticeSettings,
    name: str,
    error: Exception,
    patience: dt.timedelta = dt.timedelta(),
) -> list[ChannelResult]:
    """Tell each channel once that nobody can look; a channel that failed is tried again.

    Args:
        settings: The home.
        notices: The channels.
        name: What is away or fails; each has a beginning and an end of its own.
        error: What happened.
        patience: How long it must last before anybody is told.
    """
    results: list[ChannelResult] = []
    with _state(settings, name) as (path, known):
        outage = known or Outage(
            key=f"nightshift-outage-{uuid.uuid4().hex}",
            name=name,
            code=getattr(error, "code", NightshiftError.code),
            what=_describe(name, error),
            since=dt.datetime.now(dt.UTC).isoformat(),
            command=_command(settings, error),
        )
        is_due = _age(outage) >= patience
        outage.is_short = not is_due
        if is_due:
            channels = _critical_channels(notices)
            results = _tell(notices, outage, "opened", channels, outage.notified)
        _keep(path, outage)
    return results


def tell_end_of_outage(
    settings: Settings, notices: NoticeSettings, name: str
) -> list[ChannelResult]:
    """Tell each channel that an outage is over, also one that could not be told before."""
    # Without the lock first: this runs in every round of notices.
    if not _path(settings, name).exists():
        return []
    with _state(settings, name) as (path, outage):
        # Another sender has told the end since we looked.
        if outage is None:
            return []
        if outage.is_short:
            path.unlink()
            return []
        # Who did not hear of the beginning hears of both at the end.
        channels = _critical_channels(notices) | set(outage.notified)
        results = _tell(
            notices,
            outage,
            "closed",
            channels,
            outage.notified_of_end,
        )
        # A channel that never takes the end must not keep the record for ever.
        # Only channels that still exist can be told.
        known = notices.channels.by_name.keys()
        notified = set(outage.notified_of_end)
        waiting = channels & known - notified
        is_told = not waiting
        if is_told or _age(outage) > FORGOTTEN_AFTER:
            path.unlink()
        else:
            _keep(path, outage)
    return results


def _describe(name: str, error: Exception) -> str:
    sentence = _SENTENCES.get(name, _BLIND)
    return f"{sentence}: {name}: {cause_of(error)}"


def _command(settings: Settings, error: Exception) -> str:
    # An error may know it; else what a person does first is on the page of the code.
    known = getattr(error, "command", "")
    if known:
        return str(known)
    code = getattr(error, "code", NightshiftError.code)
    values = {"database": settings.warehouse_database}
    return page_command(code, values)


def _age(outage: Outage) -> dt.timedelta:
    return dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(outage.since)


@contextmanager
def _state(settings: Settings, name: str) -> Iterator[tuple[Path, Outage | None]]:
    """Hold the lock of the home's record; yield its path and what it says."""
    path = _path(settings, name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_suffix(".lock").open("w") as lock:
        # Two senders at once: the second one finds what the first one has told.
        # The kernel ends the lock with the process, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = sealed_file.read(path)
        outage = None
        # A damaged record counts as none: telling twice is better than not at all.
        if content is not None:
            values = json.loads(content)
            outage = Outage(**values)
        yield path, outage


# What a reader of the file sees is JSON of the class above.
def _keep(path: Path, outage: Outage) -> None:
    # Sealed: half a file after a power cut counts as none.
    content = json.dumps(asdict(outage))
    sealed_file.write(path, content.encode())


def _path(settings: Settings, name: str) -> Path:
    # One file for each thing that can be away.
    file_name = name.replace(" ", "-")
    return settings.home / FOLDER / f"{file_name}.json"


def _tell(
    notices: NoticeSettings,
    outage: Outage,
    transition: Transition,
    channels: set[str],
    notified: list[str],
) -> list[ChannelResult]:
    """Send a message to the channels that were not told, and add those that took it."""
    now = dt.datetime.now(dt.UTC)
    ended_at = None
    if transition == "closed":
        ended_at = now
    incident = _as_incident(outage, ended_at)
    item = Item(incident, transition)
    # The same key in every try, as for the messages that the warehouse records.
    key = f"{outage.key}-{transition}"
    message = compose(key, [item], notices.runbooks_url, now)

    # A channel that was taken out of the settings can be notified_before nothing.
    known = channels & notices.channels.by_name.keys()
    notified_before = set(notified)
    waiting = sorted(known - notified_before)
    results = send_unrecorded(notices, waiting, message)
    taken = [result.channel for result in results if result.n_sent]
    notified.extend(taken)
    return results


def _critical_channels(notices: NoticeSettings) -> set[str]:
    """Return the channels of critical incidents, whatever owner they are for."""
    names = set(notices.otherwise)
    for route in notices.routes:
        # Owners do not count: what nobody can see may be anybody's.
        is_critical = "critical" in route.severities
        if not is_critical:
            continue
        names |= set(route.channels)
    return names


def _as_incident(outage: Outage, closed_at: dt.datetime | None) -> Incident:
    """Return the outage in the form of the incident that nobody can record."""
    since = dt.datetime.fromisoformat(outage.since)
    state: State = "open"
    if closed_at is not None:
        state = "closed"
    return Incident(
        incident_id=0,
        kind="outage",
        fact_key=outage.name,
        code=outage.code,
        severity="critical",
        health="unknown",
        aspect="services",
        subject_type="service",
        subject=outage.name,
        partitions=(),
        owner="",
        state=state,
        opened_at=since,
        last_seen_at=dt.datetime.now(dt.UTC),
        closed_at=closed_at,
        n_seen=1,
        what=outage.what,
        consequence=_CONSEQUENCES.get(outage.name, _UNSEEN),
        deadline_at=None,
        command=outage.command,
        runbook=page_of(outage.code),
        touched_tables=(),
        touched_models=(),
        touched_consumers=(),
        facts={},
        worse_rank=0,
        acknowledged_at=None,
        acknowledged_by=None,
        snoozed_until=None,
        snoozed_by=None,
    )
