"""Locks: for changes of relations and rights, where deployments and a run may meet, and by name."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from nightshift.errors import WarehouseError
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
# A deployment holds a table for seconds.
HELD_FOR = dt.timedelta(minutes=1)
_SECOND_LOOK_SECONDS = 3.0

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


class TableLockedError(WarehouseError):
    """A session holds a table for itself, and everybody else waits.

    Attributes:
        command: Ends that session.
    """

    code = "NS-WAREHOUSE-017"
    command: str = ""


@dataclass(frozen=True)
class HeldLock:
    """A lock that keeps everybody else from a table.

    Attributes:
        pid: Process of the session on the server.
        relation: The table, with its schema.
        user: Who has it.
        application: How the session calls itself; empty if that is not shown to us.
        since: When its transaction began, UTC; None if that is not shown to us.
    """

    pid: int
    relation: str
    user: str
    application: str
    since: dt.datetime | None

    @property
    def holder(self) -> str:
        """Return who holds it, for a sentence."""
        application = f", {self.application}" if self.application else ""
        return f"A session of {self.user} (process {self.pid}{application})"

    @property
    def end_command(self) -> str:
        """Return the command that ends the session; PostgreSQL undoes what it has not committed."""
        statement = f"select pg_terminate_backend({self.pid})"
        return f'nightshift psql --role admin -c "{statement}"'


def held_locks_on(conn: Connection, schemas: Sequence[str]) -> list[HeldLock]:
    """Return the locks on tables of some schemas that another session has held for a minute.

    The begin of a session of another user may be hidden from us: then the lock counts if it is
    still there a moment later.
    """
    now = _now(conn)
    locks = _locks(conn, schemas)
    old = [lock for lock in locks if lock.since and now - lock.since >= HELD_FOR]
    hidden = [lock for lock in locks if lock.since is None]
    if hidden:
        time.sleep(_SECOND_LOOK_SECONDS)
        later = _locks(conn, schemas)
        old += [lock for lock in hidden if lock in later]
    return sorted(old, key=lambda lock: (lock.pid, lock.relation))


def locked_error(conn: Connection, schema: str) -> TableLockedError | None:
    """Return who holds a table of a schema for itself; None if nobody does."""
    locks = _locks(conn, [schema])
    if not locks:
        return None
    error = TableLockedError(
        f"{locks[0].holder} holds {locks[0].relation} for itself.",
        expected="tables that stages and rules can use",
        todo="End that session if you know whose it is; nothing that was committed is lost:"
        f" {locks[0].end_command}",
    )
    error.command = locks[0].end_command
    return error


def _now(conn: Connection) -> dt.datetime:
    ((now,),) = conn.execute("select clock_timestamp()").fetchall()
    at: dt.datetime = now
    return at


def _locks(conn: Connection, schemas: Sequence[str]) -> list[HeldLock]:
    """Return the locks of other sessions that exclude readers or every writer."""
    # What a transaction has made and not committed nobody waits for, and the catalog does not show.
    rows = conn.execute(
        """
        select l.pid, n.nspname || '.' || c.relname, coalesce(a.usename, '?'),
            coalesce(a.application_name, ''), a.xact_start
        from pg_locks l
        join pg_class c on c.oid = l.relation
        join pg_namespace n on n.oid = c.relnamespace
        left join pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid()
            and l.database = (select oid from pg_database where datname = current_database())
            and l.mode in ('AccessExclusiveLock', 'ExclusiveLock')
            and n.nspname = any(%s) and c.relkind in ('r', 'p', 'v', 'm')
        """,
        [list(schemas)],
    )
    return [HeldLock(*row) for row in rows]
