"""Tell every channel what it must be told; a channel that is dead or slow holds up no other."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, cause_of
from nightshift.notices.messages import compose
from nightshift.notices.outbox import PendingMessage, pending_messages, queue_due, record_try
from nightshift.notices.senders import send
from nightshift.warehouse.connection import connect, warehouse_time
from nightshift.warehouse.schema_lock import try_session_lock

if TYPE_CHECKING:
    from nightshift.notices.messages import Message
    from nightshift.notices.notice_settings import Channel, NoticeSettings
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

# Pauses double from the first to the longest one, which is short enough for a receiver that is back
# to hear of a fault within five minutes.
FIRST_PAUSE, LONGEST_PAUSE = dt.timedelta(seconds=15), dt.timedelta(minutes=2)
# What nobody took for a day is history; its incident is still on the list.
ABANDONED_AFTER = dt.timedelta(days=1)
# Tries of a message that its receiver refuses for what it is.
MAX_REFUSALS = 5
# How long one round may take for one channel, and how long anybody waits for a round.
CHANNEL_SECONDS, ROUND_SECONDS = 40.0, 60.0


@dataclass
class ChannelResult:
    """What became of one channel in one round.

    Attributes:
        channel: Its name.
        n_sent: Messages that its receiver took.
        problem: Why one was not taken; empty if none was refused.
        is_busy: Whether another sender tells this channel, or this one did not end in time.
    """

    channel: str
    n_sent: int = 0
    problem: str = ""
    is_busy: bool = False


def deliver(settings: Settings, notices: NoticeSettings) -> list[ChannelResult]:
    """Tell all channels, each in a thread of its own; return what became of each, by name.

    Safe at any time and from several places at once. The result comes after ``ROUND_SECONDS`` at
    the latest; a channel that is slower then goes on as long as the process lives.
    """
    return in_threads(
        sorted(notices.channels.by_name), partial(_deliver_channel, settings, notices)
    )


def in_threads(
    channels: Iterable[str], deliver_channel: Callable[[ChannelResult], None]
) -> list[ChannelResult]:
    """Call a function for each channel at the same time; return what became of each in time."""
    threads = {}
    for channel in channels:
        result = ChannelResult(channel)
        # A daemon: a receiver that never ends its answer must not keep the process alive.
        thread = threading.Thread(target=deliver_channel, args=(result,), daemon=True)
        thread.start()
        threads[thread] = result
    until = time.monotonic() + ROUND_SECONDS
    for thread, result in threads.items():
        seconds_left = until - time.monotonic()
        thread.join(max(0.0, seconds_left))
        if thread.is_alive():
            result.is_busy = True
    return list(threads.values())


def send_unrecorded(
    notices: NoticeSettings, channels: Iterable[str], message: Message
) -> list[ChannelResult]:
    """Send a message to some channels at the same time; the caller keeps who took it."""

    def send_to(result: ChannelResult) -> None:
        error = _send(notices.channels.by_name[result.channel], message)
        if error is None:
            result.n_sent = 1
        else:
            # The next round tries again.
            result.problem = describe_refusal(error)

    return in_threads(channels, send_to)


def pause_after(n_tries: int) -> dt.timedelta:
    """Return how long a message waits after so many failed tries."""
    pause = FIRST_PAUSE
    for _ in range(n_tries - 1):
        # Stop early: after a day of tries the doubled number would be out of range.
        if pause >= LONGEST_PAUSE:
            break
        pause *= 2
    return min(pause, LONGEST_PAUSE)


def _deliver_channel(settings: Settings, notices: NoticeSettings, result: ChannelResult) -> None:
    """Deliver until nothing is due, the receiver fails or the time is over; raise nothing."""
    try:
        with (
            connect(settings, f"nightshift notices {result.channel}") as conn,
            try_session_lock(conn, f"notices/{result.channel}") as is_ours,
        ):
            if is_ours:
                _deliver_locked(conn, notices, result)
            else:
                result.is_busy = True
    except Exception as error:  # noqa: BLE001 - a channel harms no other, and no night
        result.problem = cause_of(error)
        logger.warning("Notices of channel %s: %s", result.channel, result.problem)


def _deliver_locked(conn: Connection, notices: NoticeSettings, result: ChannelResult) -> None:
    until = time.monotonic() + CHANNEL_SECONDS
    # What waits is sent first. New events are queued only when nothing waits: after an outage of
    # the receiver they come as one digest.
    while time.monotonic() < until:
        pending = pending_messages(conn, result.channel)
        if not pending:
            if not queue_due(conn, notices, result.channel, warehouse_time(conn)):
                return
            continue
        for message in pending:
            is_taken = _try_once(conn, notices, result, message)
            # The next one waits too: the end of an incident is not told before its beginning.
            if not is_taken or time.monotonic() > until:
                return


def _try_once(
    conn: Connection, notices: NoticeSettings, result: ChannelResult, pending: PendingMessage
) -> bool:
    """Try a message unless it must wait; return whether the next one may follow."""
    now = warehouse_time(conn)
    last_try_at = pending.last_try_at
    if last_try_at is not None and now < last_try_at + pause_after(pending.n_tries):
        result.problem = "waits for its next try"
        return False
    channel = notices.channels.by_name[result.channel]
    message = compose(pending.key, pending.items, notices.runbooks_url, now)
    begin = time.monotonic()
    error = _send(channel, message)
    seconds = time.monotonic() - begin
    if error is None:
        record_try(conn, result.channel, pending, "sent", None, seconds)
        result.n_sent += 1
        return True

    result.problem = describe_refusal(error)
    # One message that its receiver never takes must not hold up all later ones.
    is_refused = getattr(error, "concerns_message", False) and pending.n_tries + 1 >= MAX_REFUSALS
    is_old = now - pending.queued_at > ABANDONED_AFTER
    is_abandoned = is_refused or is_old
    outcome = "abandoned" if is_abandoned else "failed"
    record_try(conn, result.channel, pending, outcome, result.problem, seconds)
    logger.warning("Notices of channel %s: %s", result.channel, result.problem)
    return is_abandoned


def _send(channel: Channel, message: Message) -> NightshiftError | None:
    """Send a message; return why it was not taken."""
    try:
        send(channel, message)
    except NightshiftError as error:
        return error
    return None


def describe_refusal(error: NightshiftError) -> str:
    """Return in one line why a message was not taken."""
    if error.got is None:
        return error.what
    return f"{error.what} ({error.got})"
