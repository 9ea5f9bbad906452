"""End sessions of analysts that block the warehouse's owner.

A session may raise its own time limits, and an open transaction keeps the locks of what it has
read: a deployment that replaces a view would wait for it. So a session that limits cannot stop is
ended.
Source: docs/adr/0036-analysts-and-the-warehouse.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_GUARD = "ops.end_hindering_sessions()"


def ensure_session_guard(conn: Connection, owner: str) -> None:
    """Create the function by which the warehouse's owner ends sessions of analysts, and no others.

    Args:
        conn: A connection of the role that migrates; the function acts with its rights.
        owner: The role that may execute it.
    """
    from psycopg import errors, sql

    try:
        with conn.transaction():
            conn.execute(_CREATE_GUARD)
            conn.execute(f"revoke all on function {_GUARD} from public".encode())
            grant = sql.SQL("grant execute on function {} to {}")
            conn.execute(grant.format(sql.SQL(_GUARD), sql.Identifier(owner)))
    except errors.InsufficientPrivilege:
        # Another admin made it.
        logger.info("The function %s belongs to another role and is kept.", _GUARD)


def end_hindering_sessions(conn: Connection) -> list[str]:
    """End analysts' sessions that block others for 3 s, or hold a transaction for 30 minutes.

    Returns:
        What was ended, in words; empty also before the first migration with an admin.
    """
    from psycopg import errors, sql

    try:
        rows = conn.execute(
            sql.SQL("select login, reason from {}").format(sql.SQL(_GUARD))
        ).fetchall()
    except (errors.UndefinedFunction, errors.InvalidSchemaName):
        # An empty database has not even the schema: the first migration watches itself.
        return []
    except errors.InsufficientPrivilege as error:
        # The admin that made the function may end no sessions.
        logger.warning("A session of an analyst cannot be ended: %s", error)
        return []
    ended = [f"session of {login} ended: {reason}" for login, reason in rows]
    for sentence in ended:
        logger.warning("%s", sentence)
    return ended


@contextmanager
def hindering_sessions_ended(settings: Settings) -> Iterator[None]:
    """End such sessions every second during the block, which waits for locks of readers."""
    is_over = threading.Event()
    guard = threading.Thread(
        target=_guard, args=(settings, is_over), name="end hindering sessions", daemon=True
    )
    guard.start()
    try:
        yield
    finally:
        is_over.set()
        guard.join()


def _guard(settings: Settings, is_over: threading.Event) -> None:
    try:
        with connect(settings, "nightshift session guard") as conn:
            while not is_over.wait(_POLL_SECONDS):
                end_hindering_sessions(conn)
    except NightshiftError as error:
        # The block goes on without the guard, within its usual time limits.
        logger.warning("Sessions of analysts are not watched: %s", error)


_CREATE_GUARD = """
create or replace function ops.end_hindering_sessions()
returns table (login text, reason text)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
with readers as (
    select a.pid, a.usename::text as login, a.xact_start
    from pg_stat_activity a
    join pg_roles r on r.oid = a.usesysid
    join pg_database d on d.oid = a.datid
    where d.datname = current_database() and not r.rolsuper and not r.rolcreaterole
        and pg_has_role(r.oid, (select oid from pg_roles where rolname = 'analyst'), 'member')
        and not pg_has_role(r.oid, d.datdba, 'member')
),
blocked as (
    select distinct unnest(pg_blocking_pids(l.pid)) as pid
    from pg_locks l
    where not l.granted and l.waitstart < clock_timestamp() - interval '3 seconds'
        and l.pid not in (select pid from readers)
),
hindering as (
    select pid, login,
        case when pid in (select pid from blocked) then 'it held a lock that another waited for'
            when xact_start < clock_timestamp() - interval '30 minutes'
                then 'its transaction was open for over 30 minutes'
        end as reason
    from readers
)
select login, reason from hindering where reason is not null and pg_terminate_backend(pid)
$$
"""
