"""End the server's work of older attempts of the same task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.run import RunContext

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection


def end_older_attempts(conn: Connection, run: RunContext) -> int:
    """End the backends of older attempts that work or hold a transaction; return their number."""
    names = [
        RunContext(run.run_id, attempt, run.actor).application_name
        for attempt in range(1, run.attempt)
    ]
    if not names:
        return 0
    # The fencing token alone keeps an older attempt from publishing. This frees its locks and the
    # server's time at once instead of by a timeout: an attempt that is frozen in a transaction
    # would make this one wait. Idle connections stay: their owner learns it when it publishes.
    ended = conn.execute(
        """
        select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = any(%s) and usename = current_user
            and datname = current_database() and state <> 'idle'
        """,
        [names],
    )
    return len(ended.fetchall())
