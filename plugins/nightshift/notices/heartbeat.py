"""Send a sign of life each day: silence then means that notices do not arrive.

No sender can know that a receiver has taken a message and dropped it. A person can, who misses the
message of the morning.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
from collections import Counter
from typing import TYPE_CHECKING

from nightshift import sealed_file
from nightshift.incidents.records import open_incidents
from nightshift.notices.delivery import ChannelResult, send_unrecorded
from nightshift.notices.messages import Message
from nightshift.notices.outage import FOLDER
from nightshift.warehouse.connection import connect, warehouse_time

if TYPE_CHECKING:
    from nightshift.notices.local_hours import Heartbeat
    from nightshift.notices.notice_settings import NoticeSettings
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

FILE_NAME = "heartbeat.json"


def send_heartbeat(settings: Settings, notices: NoticeSettings) -> list[ChannelResult]:
    """Send the sign of life of today to each channel that has not got it; safe at any time.

    The home remembers what was sent: of two machines each sends its own, for each watches.
    """
    heartbeat = notices.heartbeat
    if heartbeat is None:
        return []
    with connect(settings, "nightshift heartbeat") as conn:
        day = heartbeat.due_day(warehouse_time(conn))
        path = settings.home / FOLDER / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Two rounds at once: the second one finds what the first one has sent.
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = sealed_file.read(path)
            # A damaged record counts as none: twice is better than not at all.
            sent: dict[str, str] = json.loads(content) if content else {}
            waiting = [name for name in heartbeat.channels if sent.get(name) != str(day)]
            if not waiting:
                return []
            message = _compose(conn, heartbeat, day)
            results = send_unrecorded(notices, waiting, message)
            taken = [result.channel for result in results if result.n_sent]
            sent |= dict.fromkeys(taken, str(day))
            sealed_file.write(path, json.dumps(sent).encode())
    return results


def _compose(conn: Connection, heartbeat: Heartbeat, day: dt.date) -> Message:
    """Return the message of a day: what is open, and what its absence means."""
    counts = Counter(incident.severity for incident in open_incidents(conn))
    parts = [f"{n} {severity}" for severity, n in sorted(counts.items())]
    what = f"{counts.total()} incident(s) open"
    if parts:
        what += f" ({', '.join(parts)})"
    lines = [
        f"ALIVE: nightshift watches; {what}.",
        f"This comes each day at {heartbeat.at:%H:%M}; without it, no notice reaches you either.",
        "do:       nightshift notices list",
        "runbook:  docs/runbooks/NS-NOTICE-002.md",
    ]
    text = "\n".join(lines)
    return Message(f"nightshift-alive-{day}", "alive", f"[alive] {what}", text)
