"""Logins of analysts: each is a member of role ``analyst`` and has limits of its own.

``alter role … set`` is not inherited, so a login that is only a member has no limit at all. The
connection limit and ``temp_file_limit`` are hard; the other settings are defaults that a session
may change, and ``sessions`` bounds what such a session can do.
Source: docs/adr/0036-analysts-and-the-warehouse.md.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import WarehouseError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

ANALYST = "analyst"
MAX_CONNECTIONS = 10
"""Connections of one login: a person, a notebook and a dashboard."""
LIMITS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "5min",
    "idle_in_transaction_session_timeout": "10min",
    "lock_timeout": "5s",
    "search_path": "analytics",
    "enable_nestloop": "off",
    "work_mem": "64MB",
    "max_parallel_workers_per_gather": "0",
}
HARD_LIMITS = {"temp_file_limit": "10GB"}
"""Settings that only a superuser may give, and that the session cannot change."""
_OWNER_CONNECTIONS = 40
"""Connections that nightly runs need: tasks of all pools, Airflow's parts, the command line."""


@dataclass(frozen=True)
class AnalystLogin:
    """A login that reads ``analytics``.

    Attributes:
        name: Name of the role.
        max_connections: Its connection limit; -1 is none.
        settings: Its settings in this database, by name.
    """

    name: str
    max_connections: int
    settings: dict[str, str]

    @property
    def missing_limits(self) -> list[str]:
        """Return the names of limits that it lacks, or has with another value."""
        limits = LIMITS | HARD_LIMITS
        missing = [name for name, value in limits.items() if self.settings.get(name) != value]
        return missing + (["connection limit"] if self.max_connections < 0 else [])


def logins(conn: Connection) -> list[AnalystLogin]:
    """Return role ``analyst`` and the logins that are members of it, by name.

    Left out: superusers, roles that create roles, and members of the warehouse's owner.
    """
    return [
        AnalystLogin(name, limit, dict(setting.split("=", 1) for setting in settings))
        for name, limit, settings in conn.execute(_LOGINS)
    ]


def limit_login(conn: Connection, login: AnalystLogin) -> None:
    """Give a login the limits that it lacks, within the caller's transaction.

    ``gaps`` reports the limits that this session may not give.
    """
    from psycopg import errors, sql

    # Settings belong to this database: the same login may work in others.
    role = sql.Identifier(login.name)
    database = sql.Identifier(conn.info.dbname)
    set_limit = sql.SQL("alter role {} in database {} set {} = {}")
    statements = [
        set_limit.format(role, database, sql.Identifier(name), value)
        for name, value in (LIMITS | HARD_LIMITS).items()
        if name in login.missing_limits
    ]
    if login.max_connections < 0:
        limit_connections = sql.SQL("alter role {} connection limit {}")
        statements.append(limit_connections.format(role, MAX_CONNECTIONS))
    # Each in a savepoint: a limit that this session may not give must not undo the rest.
    for statement in statements:
        with suppress(errors.InsufficientPrivilege), conn.transaction():
            conn.execute(statement)


def add_login(conn: Connection, name: str, password: str | None) -> None:
    """Create a login with all limits, or give an existing one the limits and the membership.

    Args:
        conn: A connection of the role that migrates, outside of a transaction.
        name: Name of the login.
        password: Its new password; None changes no password.

    Raises:
        WarehouseError: The name is a role that owns or creates things.
    """
    from psycopg import sql

    role = sql.Identifier(name)
    with conn.transaction():
        row = conn.execute(_IS_POWERFUL, [name]).fetchone()
        if row == (True,):
            raise WarehouseError(
                f"{name!r} cannot be an analyst's login: it owns the warehouse or creates roles.",
                todo="Choose another name.",
                code="NS-WAREHOUSE-005",
            )
        if row is None:
            conn.execute(sql.SQL("create role {} login").format(role))
        conn.execute(sql.SQL("grant {} to {}").format(sql.Identifier(ANALYST), role))
        if password is not None:
            # The server, and its log, see the digest only.
            digest = conn.pgconn.encrypt_password(
                password.encode(), name.encode(), b"scram-sha-256"
            )
            change = sql.SQL("alter role {} login password {}")
            conn.execute(change.format(role, sql.Literal(digest.decode())))
        for login in logins(conn):
            if login.name == name:
                limit_login(conn, login)


def remove_login(conn: Connection, name: str) -> None:
    """Revoke the membership, end the login's sessions and keep it from logging in again.

    The role stays, because it may own things in other databases.

    Raises:
        WarehouseError: It is not a login of an analyst.
    """
    from psycopg import sql

    if name == ANALYST or name not in {login.name for login in logins(conn)}:
        raise WarehouseError(
            f"{name!r} is not a member of {ANALYST}.",
            todo="`nightshift analyst list` shows the logins.",
            code="NS-WAREHOUSE-005",
        )
    role = sql.Identifier(name)
    with conn.transaction():
        conn.execute(sql.SQL("revoke {} from {}").format(sql.Identifier(ANALYST), role))
        conn.execute(sql.SQL("alter role {} nologin").format(role))
    conn.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [name]
    )


def gaps(conn: Connection) -> list[str]:
    """Return what a reader could use to hold up a run, in words; empty if nothing is open."""
    analysts = logins(conn)
    problems = [
        f"login {login.name} lacks its {', '.join(login.missing_limits)}"
        for login in analysts
        if login.missing_limits
    ]
    open_functions = [name for (name,) in conn.execute(_OPEN_FUNCTIONS, [ANALYST])]
    if open_functions:
        problems.append(f"{ANALYST} may execute {', '.join(open_functions)}")
    open_databases = [name for (name,) in conn.execute(_OPEN_DATABASES, [ANALYST])]
    if open_databases:
        names = ", ".join(open_databases)
        problems.append(f"{ANALYST} may connect to {names} of this server, without any limit")
    row = conn.execute(_SLOTS).fetchone()
    n_readers = sum(max(login.max_connections, 0) for login in analysts)
    if row:
        # Reserved connections are for the owner, so readers cannot take the last one.
        n_connections, is_reserved = row
        if not is_reserved and n_readers > n_connections - _OWNER_CONNECTIONS:
            problems.append(
                f"analysts may take {n_readers} of {n_connections} connections and none is"
                " reserved: set reserved_connections"
            )
    return problems


_LOGINS = """
select r.rolname, r.rolconnlimit, coalesce(s.setconfig, '{}')
from pg_roles r
join pg_database d on d.datname = current_database()
left join pg_db_role_setting s on s.setrole = r.oid and s.setdatabase = d.oid
where r.rolcanlogin and not r.rolsuper and not r.rolcreaterole and r.rolname <> current_user
    and exists (
        select from pg_roles a where a.rolname = 'analyst' and pg_has_role(r.oid, a.oid, 'member')
    )
    and not pg_has_role(r.oid, d.datdba, 'member')
order by r.rolname
"""
_IS_POWERFUL = """
select
    r.rolsuper or r.rolcreaterole or r.rolname = current_user
    or pg_has_role(r.oid, d.datdba, 'member')
from pg_roles r join pg_database d on d.datname = current_database() where r.rolname = %s
"""
_OPEN_FUNCTIONS = """
select distinct p.proname from pg_proc p
join pg_roles a on a.rolname = %s
where p.pronamespace = 'pg_catalog'::regnamespace
    and (p.proname ~ '^pg_(try_)?advisory_' or p.proname = 'pg_logical_emit_message')
    and has_function_privilege(a.oid, p.oid, 'execute')
order by 1
"""
_OPEN_DATABASES = """
select d.datname from pg_database d
where d.datallowconn and d.datname <> current_database()
    and has_database_privilege(%s, d.oid, 'connect')
order by 1
"""
_SLOTS = """
select current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int,
    coalesce(current_setting('reserved_connections', true)::int, 0) > 0
        and exists (
            select from pg_roles r join pg_database d on d.datname = current_database()
            where r.rolname = 'pg_use_reserved_connections'
                and pg_has_role(d.datdba, r.oid, 'member')
        )
"""
