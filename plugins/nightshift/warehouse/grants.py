"""What the analyst role may reach: the views of schema ``analytics``, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection

ANALYST = "analyst"
_SESSION_DEFAULTS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "5min",
    "idle_in_transaction_session_timeout": "10min",
    "lock_timeout": "5s",
    "search_path": "analytics",
}
"""Defaults, not walls: the role may change them in its session. The walls are the privileges."""
_LOCK = 0x6772616E74  # "grant"
_WRITING_FUNCTIONS = ("lo_create(oid)", "lo_creat(integer)", "lo_from_bytea(oid, bytea)", "lo_import(text)", "lo_import(text, oid)")
"""PostgreSQL lets every role create large objects."""


def apply_grants(conn: Connection) -> None:
    """Create the analyst role if it is missing, take from it all that it has in this database, and grant the views.

    Views that are made later are granted by default. Safe at any time; readers notice nothing, it is one transaction.

    Args:
        conn: A connection of a role that may create roles and owns the warehouse, or is a superuser.
    """
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        _ensure_role(conn)
        _close(conn)
        _open_analytics(conn)


def _ensure_role(conn: Connection) -> None:
    """Create the role without a password: nobody logs in with it until one is set."""
    from psycopg import errors, sql

    if conn.execute("select from pg_roles where rolname = %s", [ANALYST]).fetchone() is None:
        try:
            with conn.transaction():
                conn.execute(sql.SQL("create role {} login").format(sql.Identifier(ANALYST)))
        except (errors.DuplicateObject, errors.UniqueViolation):  # made at the same time through another database
            pass
    for name, value in _SESSION_DEFAULTS.items():
        conn.execute(
            sql.SQL("alter role {} in database {} set {} = {}").format(
                sql.Identifier(ANALYST), sql.Identifier(conn.info.dbname), sql.Identifier(name), sql.Literal(value)
            )
        )


def _close(conn: Connection) -> None:
    from psycopg import sql

    database, role = sql.Identifier(conn.info.dbname), sql.Identifier(ANALYST)
    conn.execute(sql.SQL("revoke all on database {} from public, {}").format(database, role))
    conn.execute(sql.SQL("grant connect on database {} to {}").format(database, role))
    conn.execute("revoke all on schema public from public")
    for schema in _schemas(conn):
        for kind in ("tables", "sequences", "functions"):
            conn.execute(sql.SQL("revoke all on all {} in schema {} from public, {}").format(sql.SQL(kind), schema, role))
        conn.execute(sql.SQL("revoke all on schema {} from public, {}").format(schema, role))
    if conn.execute("select rolsuper from pg_roles where rolname = current_user").fetchone() == (True,):
        for function in _WRITING_FUNCTIONS:
            conn.execute(sql.SQL("revoke execute on function pg_catalog.{} from public").format(sql.SQL(function)))


def _schemas(conn: Connection) -> list[sql.Identifier]:
    from psycopg import sql

    rows = conn.execute("select nspname from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema' order by 1")
    return [sql.Identifier(name) for (name,) in rows]


def _open_analytics(conn: Connection) -> None:
    from psycopg import sql

    role = sql.Identifier(ANALYST)
    row = conn.execute("select nspowner::regrole::text from pg_namespace where nspname = 'analytics'").fetchone()
    conn.execute(sql.SQL("grant usage on schema analytics to {}").format(role))
    conn.execute(sql.SQL("grant select on all tables in schema analytics to {}").format(role))
    for owner in {row[0]} if row else set():
        conn.execute(
            sql.SQL("alter default privileges for role {} in schema analytics grant select on tables to {}").format(
                sql.Identifier(owner), role
            )
        )
