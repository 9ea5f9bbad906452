"""Tell people that the warehouse itself is away: what is told then is recorded in the home.

Without a warehouse there is no list of incidents and no record of notices. So one file of the home
keeps what each channel was told; on two machines each tells once.
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
from nightshift.errors import NightshiftError
from nightshift.incidents.records import Incident
from nightshift.notices.delivery import ChannelResult, describe_refusal, in_threads
from nightshift.notices.messages import Item, compose
from nightshift.notices.senders import send

if TYPE_CHECKING:
    from nightshift.notices.messages import Transition
    from nightshift.notices.notice_settings import NoticeSettings
    from nightshift.settings import Settings

FOLDER, STATE_FILE, LOCK_FILE = "notices", "outage.json", "outage.lock"


@dataclass
class Outage:
    """The warehouse is away, as the home remembers it.

    Attributes:
        key: Of its messages.
        code: Code of the error that a connection gets.
        what: Its sentence.
        since: When it was first seen, ISO 8601.
        told: Channels that were told of its beginning.
        told_end: Channels that were told of its end.
    """

    key: str
    code: str
    what: str
    since: str
    told: list[str] = field(default_factory=list)
    told_end: list[str] = field(default_factory=list)


def tell_outage(
    settings: Settings, notices: NoticeSettings, error: NightshiftError
) -> list[ChannelResult]:
    """Tell each channel once that the warehouse is away; a channel that failed is tried again."""
    with _state(settings) as (path, known):
        outage = known or Outage(
            key=f"nightshift-outage-{uuid.uuid4().hex}",
            code=error.code,
            what=f"The warehouse does not answer: {error.what}",
            since=dt.datetime.now(dt.UTC).isoformat(),
        )
        results = _tell(notices, outage, "opened", _critical_channels(notices), outage.told)
        sealed_file.write(path, json.dumps(asdict(outage)).encode())
    return results


def tell_end_of_outage(settings: Settings, notices: NoticeSettings) -> list[ChannelResult]:
    """Tell the channels that were told of an outage that it is over; nothing without one."""
    # Without the lock first: this runs in every round of notices.
    if not (settings.home / FOLDER / STATE_FILE).exists():
        return []
    with _state(settings) as (path, outage):
        if outage is None:
            return []
        results = _tell(notices, outage, "closed", set(outage.told), outage.told_end)
        is_old = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(outage.since)
        if set(outage.told) <= set(outage.told_end) or is_old > dt.timedelta(days=7):
            path.unlink()
        else:
            sealed_file.write(path, json.dumps(asdict(outage)).encode())
    return results


@contextmanager
def _state(settings: Settings) -> Iterator[tuple[Path, Outage | None]]:
    """Hold the lock of the home's record; yield its path and what it says."""
    folder = settings.home / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / STATE_FILE
    with (folder / LOCK_FILE).open("w") as lock:
        # Two senders at once: the second one finds what the first one has told.
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = sealed_file.read(path)
        outage = None
        if content is not None:
            outage = Outage(**json.loads(content))
        yield path, outage


def _tell(
    notices: NoticeSettings,
    outage: Outage,
    transition: Transition,
    channels: set[str],
    told: list[str],
) -> list[ChannelResult]:
    """Send a message to the channels that were not told, and add those that took it."""
    now = dt.datetime.now(dt.UTC)
    ended_at = now if transition == "closed" else None
    item = Item(_as_incident(outage, ended_at), transition)
    message = compose(f"{outage.key}-{transition}", [item], notices.runbooks_url, now)

    def deliver(result: ChannelResult) -> None:
        try:
            send(notices.channels.by_name[result.channel], message)
        except NightshiftError as error:
            result.problem = describe_refusal(error)
        else:
            result.n_sent = 1

    waiting = channels & notices.channels.by_name.keys() - set(told)
    results = in_threads(sorted(waiting), deliver)
    told += [result.channel for result in results if result.n_sent]
    return results


def _critical_channels(notices: NoticeSettings) -> set[str]:
    """Return the channels of critical incidents, whatever owner they are for."""
    names = set(notices.otherwise)
    for route in notices.routes:
        if "critical" in route.severities:
            names |= set(route.channels)
    return names


def _as_incident(outage: Outage, closed_at: dt.datetime | None) -> Incident:
    """Return the outage in the form of the incident that nobody can record."""
    since = dt.datetime.fromisoformat(outage.since)
    return Incident(
        incident_id=0,
        kind="warehouse away",
        code=outage.code,
        severity="critical",
        health="unknown",
        aspect="services",
        subject_type="service",
        subject="warehouse",
        partitions=(),
        owner="",
        state="closed" if closed_at else "open",
        opened_at=since,
        last_seen_at=dt.datetime.now(dt.UTC),
        closed_at=closed_at,
        n_seen=1,
        what=outage.what,
        consequence="Nothing is loaded, scored or published, and readers cannot read.",
        deadline_at=None,
        command="nightshift status",
        runbook=f"docs/runbooks/{outage.code}.md",
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
