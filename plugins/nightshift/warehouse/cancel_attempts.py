"""End the server's work of older attempts of the same task, which nobody needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.run import RunContext

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


def end_older_attempts(conn: Connection, run: RunContext) -> int:
    """End the backends in which an older attempt of this run is at work or holds a transaction open; return how many they were.

    The token alone keeps an older attempt from publishing. This frees its locks and the server's
    time at once, instead of by a timeout: an attempt that is frozen in a transaction would make
    this one wait. Idle connections are left: their owner is told when it publishes.
    """
    if run.attempt < 2:  # noqa: PLR2004  (the first attempt has no predecessor)
        return 0
    names = [
        RunContext(run.run_id, attempt, run.actor).application_name
        for attempt in range(1, run.attempt)
    ]
    row = conn.execute(
        """
        select count(pg_terminate_backend(pid)) from pg_stat_activity
        where application_name = any(%s) and usename = current_user and datname = current_database() and state <> 'idle'
        """,
        [names],
    ).fetchone()
    return int(row[0]) if row else 0
