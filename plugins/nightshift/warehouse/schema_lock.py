"""Locks: for changes of relations and rights, where deployments and a run may meet, and by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

# Numbers of advisory locks: each is its name in ASCII.
DBT_RELATIONS_LOCK = 0x646274  # "dbt"
_SCHEMA_LOCK = 0x6E69676874  # "night"
_SET_UP_LOCK = 0x7365747570  # "setup"
_SCHEMA_WAIT_SECONDS = 120
_SET_UP_WAIT_SECONDS = 900
_ATTEMPTS = 5

Result = TypeVar("Result")


def change_schema(conn: Connection, change: Callable[[], Result], *locks: int) -> Result:
    """Run ``change`` in a transaction of its own, one caller at a time; return its result.

    Args:
        conn: A connection of the warehouse, outside of a transaction.
        change: Statements on ``conn``; safe to repeat.
        locks: Further advisory locks, taken before the schema's own.
    """
    from psycopg import errors

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with conn.transaction():
                _wait_for(conn, (*locks, _SCHEMA_LOCK))
                return change()
        except (errors.InternalError_, errors.DeadlockDetected) as error:
            # A role belongs to the whole server, and a caller in another database holds another
            # lock. So two callers can still change one row of the catalog: PostgreSQL refuses the
            # second, which then runs again.
            is_race = isinstance(error, errors.DeadlockDetected) or "concurrently" in str(error)
            if not is_race or attempt == _ATTEMPTS:
                raise
            logger.info("A change of the schema collided with another and is repeated: %s", error)
    raise AssertionError("unreachable")


def _wait_for(conn: Connection, locks: tuple[int, ...]) -> None:
    """Take the locks with a longer timeout; later statements have the session's again."""
    query = "select current_setting('lock_timeout'), set_config('lock_timeout', %s, true)"
    row = conn.execute(query, [f"{_SCHEMA_WAIT_SECONDS}s"]).fetchone()
    for lock in locks:
        conn.execute("select pg_advisory_xact_lock(%s)", [lock])
    conn.execute("select set_config('lock_timeout', %s, true)", [row[0] if row else "10s"])


@contextmanager
def set_up_alone(settings: Settings) -> Iterator[None]:
    """Keep other deployments from setting up this warehouse during the block.

    Raises:
        WarehouseError: Another one has not ended within 15 minutes.
    """
    with connect(settings, "nightshift set-up lock") as conn:
        conn.execute(f"set lock_timeout = '{_SET_UP_WAIT_SECONDS}s'".encode())
        conn.execute(f"set statement_timeout = '{2 * _SET_UP_WAIT_SECONDS}s'".encode())
        conn.execute("select pg_advisory_lock(%s)", [_SET_UP_LOCK])
        yield


@contextmanager
def try_session_lock(conn: Connection, name: str) -> Iterator[bool]:
    """Try to hold a lock until the block ends; yield whether that succeeded.

    Args:
        conn: A connection outside of a transaction.
        name: Name of the lock in this database.
    """
    # Of the session, not of a transaction: none stays open while the block takes its time. It is
    # gone with the connection, however that ends.
    query = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
    (is_ours,) = conn.execute(query, [name]).fetchone() or (False,)
    try:
        yield is_ours
    finally:
        if is_ours and not conn.closed:
            conn.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [name])
