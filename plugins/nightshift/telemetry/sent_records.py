"""What receivers have accepted already (``ops.telemetry_sent``), and nights that may have more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

from nightshift.warehouse.schema_lock import try_session_lock

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

Receiver = Literal["traces", "lineage"]

# A receiver that is away for a weekend loses nothing.
HORIZON = dt.timedelta(days=7)
KEPT = dt.timedelta(days=30)
# What began before the last sending may end after it; no load or try takes longer.
SETTLING = dt.timedelta(days=1)


def sole_sender(conn: Connection, receiver: Receiver) -> AbstractContextManager[bool]:
    """Yield whether this process may send: two at once would send everything twice."""
    return try_session_lock(conn, f"nightshift telemetry {receiver}")


def nights_to_look_at(conn: Connection, receiver: Receiver) -> list[dt.date]:
    """Return partitions with records since the last sending, the longest unsent first.

    A partition without a record in the last ``HORIZON`` is over.
    """
    rows = conn.execute(
        """
        with activity as (
            select partition_date, max(coalesce(ended_at, started_at)) as at
            from ops.task_tries
            where started_at > now() - %(horizon)s
            group by partition_date
            union all
            select partition_date, max(coalesce(published_at, started_at))
            from ops.loads
            where started_at > now() - %(horizon)s
            group by partition_date
        ), sent as (
            select partition_date, max(sent_at) as at
            from ops.telemetry_sent
            where receiver = %(receiver)s
            group by partition_date
        )
        select a.partition_date
        from activity a left join sent s using (partition_date)
        group by a.partition_date
        having max(a.at) > coalesce(max(s.at) - %(settling)s, '-infinity')
        order by max(s.at) nulls first, max(a.at)
        """,
        {"horizon": HORIZON, "settling": SETTLING, "receiver": receiver},
    )
    return [day for (day,) in rows]


def sent_keys(conn: Connection, receiver: Receiver, day: dt.date) -> set[str]:
    """Return the keys of a partition that the receiver has accepted."""
    rows = conn.execute(
        "select key from ops.telemetry_sent where receiver = %s and partition_date = %s",
        [receiver, day],
    )
    return {key for (key,) in rows}


def mark_sent(conn: Connection, receiver: Receiver, day: dt.date, keys: Iterable[str]) -> None:
    """Record what the receiver has accepted."""
    conn.execute(
        """
        insert into ops.telemetry_sent (receiver, partition_date, key)
        select %s, %s, unnest(%s::text[])
        on conflict do nothing
        """,
        [receiver, day, list(keys)],
    )


def forget_old(conn: Connection) -> None:
    """Delete records of nights that nobody will look at again."""
    query = "delete from ops.telemetry_sent where sent_at < now() - %s"
    conn.execute(query, [KEPT])
