"""What the analyst role may reach: the views of schema ``analytics``, and nothing else.

Its limits are given to each login that is a member of it: PostgreSQL inherits no role settings.
Source: docs/adr/0036-analysts-and-the-warehouse.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.warehouse.analysts.logins import ANALYST, limit_login, logins
from nightshift.warehouse.analysts.sessions import ensure_session_guard
from nightshift.warehouse.schema_lock import DBT_RELATIONS_LOCK, change_schema

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection

HINDERING_FUNCTIONS = """
    select oid::regprocedure::text as function from pg_proc
    where pronamespace = 'pg_catalog'::regnamespace and (
        proname ~ '^pg_(try_)?advisory_'
        or proname in ('pg_logical_emit_message', 'lo_create', 'lo_creat', 'lo_from_bytea', 'lo_import')
    )
"""
"""Functions that PostgreSQL gives to everybody, and by which a reader holds up or fills a
warehouse.

Advisory locks are numbers that anybody can compute. Messages fill the write-ahead log, large
objects the disk.
"""


def apply_grants(conn: Connection) -> None:
    """Create the analyst role if it is missing, take from it all that it has in this database, and grant the views.

    Views that are made later are granted by default. Each member login gets the limits too. Safe at
    any time and from several places at once; readers notice nothing, it is one transaction.

    Args:
        conn: A connection of a role that may create roles and owns the warehouse, or is a
            superuser.
    """
    change_schema(conn, lambda: _apply(conn), DBT_RELATIONS_LOCK)


def is_superuser(conn: Connection) -> bool:
    """Return whether the session may do everything."""
    query = "select rolsuper from pg_roles where rolname = current_user"
    return conn.execute(query).fetchone() == (True,)


def database_owner(conn: Connection) -> str:
    """Return the role that owns the warehouse."""
    query = "select pg_get_userbyid(datdba) from pg_database where datname = current_database()"
    row = conn.execute(query).fetchone()
    return str(row[0]) if row else ""


def _apply(conn: Connection) -> None:
    _ensure_role(conn)
    for login in logins(conn):
        limit_login(conn, login)
    _close(conn)
    _open_analytics(conn)
    ensure_session_guard(conn, database_owner(conn))
    if is_superuser(conn):
        _keep_functions_and_slots(conn, database_owner(conn))


def _ensure_role(conn: Connection) -> None:
    """Create the role without a password: nobody logs in with it until one is set."""
    from psycopg import errors, sql

    if conn.execute("select from pg_roles where rolname = %s", [ANALYST]).fetchone() is None:
        try:
            with conn.transaction():
                conn.execute(sql.SQL("create role {} login").format(sql.Identifier(ANALYST)))
        except (
            errors.DuplicateObject,
            errors.UniqueViolation,
        ):  # made at the same time through another database
            pass


def _close(conn: Connection) -> None:
    from psycopg import sql

    database, role = sql.Identifier(conn.info.dbname), sql.Identifier(ANALYST)
    conn.execute(sql.SQL("revoke all on database {} from public, {}").format(database, role))
    conn.execute(sql.SQL("grant connect on database {} to {}").format(database, role))
    conn.execute("revoke all on schema public from public")
    for schema in _schemas(conn):
        for kind in ("tables", "sequences", "functions"):
            conn.execute(
                sql.SQL("revoke all on all {} in schema {} from public, {}").format(
                    sql.SQL(kind), schema, role
                )
            )
        conn.execute(sql.SQL("revoke all on schema {} from public, {}").format(schema, role))


def _keep_functions_and_slots(conn: Connection, owner: str) -> None:
    """Leave the hindering functions, and the reserved connections, to the warehouse's owner."""
    from psycopg import sql

    name = sql.Identifier(owner)
    for (function,) in conn.execute(HINDERING_FUNCTIONS.encode()).fetchall():
        places = (sql.SQL(function), name)
        conn.execute(sql.SQL("revoke execute on function {} from public").format(places[0]))
        conn.execute(sql.SQL("grant execute on function {} to {}").format(*places))
    query = """
        select from pg_roles where rolname = 'pg_use_reserved_connections'
            and not pg_has_role(%s, oid, 'member')
    """
    if conn.execute(query, [owner]).fetchone() is not None:  # PostgreSQL 16 and later
        conn.execute(sql.SQL("grant pg_use_reserved_connections to {}").format(name))


def _schemas(conn: Connection) -> list[sql.Identifier]:
    from psycopg import sql

    rows = conn.execute(
        "select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' order by 1"
    )
    return [sql.Identifier(name) for (name,) in rows]


def _open_analytics(conn: Connection) -> None:
    from psycopg import sql

    role = sql.Identifier(ANALYST)
    row = conn.execute(
        "select nspowner::regrole::text from pg_namespace where nspname = 'analytics'"
    ).fetchone()
    conn.execute(sql.SQL("grant usage on schema analytics to {}").format(role))
    conn.execute(sql.SQL("grant select on all tables in schema analytics to {}").format(role))
    for function in _functions_of_views(conn):
        conn.execute(sql.SQL("grant execute on function {} to {}").format(sql.SQL(function), role))
    for owner in {row[0]} if row else set():
        conn.execute(
            sql.SQL(
                "alter default privileges for role {} in schema analytics grant select on tables to {}"
            ).format(sql.Identifier(owner), role)
        )


def _functions_of_views(conn: Connection) -> list[str]:
    """Return the functions that views of ``analytics`` call.

    A view's reader needs the right to execute them. Outside of the view nobody can name them
    without a right on their schema.
    """
    query = """
        select distinct f.oid::regprocedure::text
        from pg_class v
        join pg_rewrite w on w.ev_class = v.oid
        join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
        join pg_proc f on d.refclassid = 'pg_proc'::regclass and f.oid = d.refobjid
        where v.relnamespace = 'analytics'::regnamespace and f.pronamespace = 'predictions'::regnamespace
        order by 1
    """
    return [str(function) for (function,) in conn.execute(query)]
