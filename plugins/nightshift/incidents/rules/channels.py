"""The rule about those who tell people: a channel of notices that does not deliver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.incidents.context import local_time
from nightshift.incidents.facts import Fact

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

# A channel that nobody tries any more was taken out of the settings.
_DEAD_CHANNELS = """
select channel, failing_since, n_failed, n_pending, reason
from ops.notice_channels
where failing_since < clock_timestamp() - interval '3 minutes'
    and last_tried_at > clock_timestamp() - interval '1 hour'
    and n_failed >= 2
order by channel
"""


def dead_channels(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the channels whose receivers have taken nothing for some minutes."""
    rows = context.conn.execute(_DEAD_CHANNELS)
    for channel, failing_since, n_failed, n_pending, reason in rows:
        since = local_time(failing_since)
        yield Fact(
            code="NS-NOTICE-002",
            severity="warning",
            health="caution",
            subject_type="service",
            subject=f"notices to {channel}",
            what=f"The channel {channel} has delivered nothing since {since}: {reason}",
            consequence="Whoever reads only this channel is told nothing; all others are told.",
            command=f"nightshift notices test {channel}",
            # More tries are no worse fault.
            size=1,
            facts={"channel": channel, "failed_tries": n_failed, "waiting": n_pending},
        )
