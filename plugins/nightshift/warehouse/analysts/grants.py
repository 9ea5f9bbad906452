"""Rights of the analyst role: the views of schema ``analytics``, and nothing else.

The role of the page gets its rights here too (``page_reader``).

Its limits are given to each login that is a member of it: PostgreSQL inherits no role settings.
Source: docs/adr/0036-analysts-and-the-warehouse.md.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from nightshift.warehouse.analysts.logins import ANALYST, limit_login, logins
from nightshift.warehouse.analysts.page_reader import PAGE_READER, RELATIONS, grant_page_reader
from nightshift.warehouse.analysts.sessions import ensure_session_guard
from nightshift.warehouse.schema_lock import DBT_RELATIONS_LOCK, change_schema

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

# PostgreSQL gives these functions to everybody, and a reader can block or fill a warehouse with
# them: advisory locks are numbers that anybody can compute, messages fill the write-ahead log, and
# large objects the disk.
_BLOCKING_FUNCTIONS = """
select oid::regprocedure::text as function
from pg_proc
where pronamespace = 'pg_catalog'::regnamespace
    and (
        proname ~ '^pg_(try_)?advisory_'
        or proname in (
            'pg_logical_emit_message', 'lo_create', 'lo_creat', 'lo_from_bytea', 'lo_import'
        )
    )
"""


def apply_grants(conn: Connection) -> None:
    """Create the analyst role, revoke all that it has in this database, and grant the views.

    Views that are made later are granted by default. Each member login gets the limits too. Safe at
    any time and from several places at once; readers notice nothing, it is one transaction.

    Args:
        conn: A connection of a role that may create roles and owns the warehouse, or is a
            superuser.
    """
    change_schema(conn, lambda: _apply(conn), DBT_RELATIONS_LOCK)


def _apply(conn: Connection) -> None:
    _ensure_role(conn)
    for login in logins(conn):
        limit_login(conn, login)
    _revoke_all(conn)
    _grant_analytics(conn)
    owner, is_superuser = conn.execute(_OWNER_AND_RIGHTS).fetchall()[0]
    has_page = grant_page_reader(conn, owner)
    _record_readers(conn, has_page=has_page)
    ensure_session_guard(conn, owner)
    if is_superuser:
        _reserve_for_owner(conn, owner)
        _keep_acts_from_owner(conn, owner)


_OWNER_AND_RIGHTS = """
select pg_get_userbyid(d.datdba), r.rolsuper
from pg_database d, pg_roles r
where d.datname = current_database() and r.rolname = current_user
"""


def _ensure_role(conn: Connection) -> None:
    """Create the role without a password: nobody logs in with it until one is set."""
    from psycopg import errors, sql

    if conn.execute("select from pg_roles where rolname = %s", [ANALYST]).fetchone() is None:
        # Another database's caller may create it at the same moment.
        with suppress(errors.DuplicateObject, errors.UniqueViolation), conn.transaction():
            conn.execute(sql.SQL("create role {} login").format(sql.Identifier(ANALYST)))


def _revoke_all(conn: Connection) -> None:
    from psycopg import sql

    database, role = sql.Identifier(conn.info.dbname), sql.Identifier(ANALYST)
    conn.execute(sql.SQL("revoke all on database {} from public, {}").format(database, role))
    conn.execute(sql.SQL("grant connect on database {} to {}").format(database, role))
    conn.execute("revoke all on schema public from public")
    rows = conn.execute(
        "select nspname from pg_namespace"
        " where nspname !~ '^pg_' and nspname <> 'information_schema' order by 1"
    ).fetchall()
    for (name,) in rows:
        schema = sql.Identifier(name)
        for objects in ("all tables in", "all sequences in", "all functions in", ""):
            revoke = sql.SQL("revoke all on {} schema {} from public, {}")
            conn.execute(revoke.format(sql.SQL(objects), schema, role))


def _grant_analytics(conn: Connection) -> None:
    from psycopg import sql

    role = sql.Identifier(ANALYST)
    conn.execute(sql.SQL("grant usage on schema analytics to {}").format(role))
    conn.execute(sql.SQL("grant select on all tables in schema analytics to {}").format(role))
    for function in _functions_of_views(conn):
        conn.execute(sql.SQL("grant execute on function {} to {}").format(sql.SQL(function), role))
    owners = conn.execute(
        "select nspowner::regrole::text from pg_namespace where nspname = 'analytics'"
    ).fetchall()
    grant_later_views = sql.SQL(
        "alter default privileges for role {} in schema analytics grant select on tables to {}"
    )
    for (owner,) in owners:
        conn.execute(grant_later_views.format(sql.Identifier(owner), role))


def _record_readers(conn: Connection, *, has_page: bool) -> None:
    """Record who may read now, so that a role that somebody drops is missed."""
    # An older warehouse has no such table until its next migration.
    if conn.execute("select to_regclass('ops.reader_roles')").fetchone() == (None,):
        return
    readers: dict[str, list[str] | None] = {ANALYST: None}
    if has_page:
        readers[PAGE_READER] = list(RELATIONS)
    for role, relations in readers.items():
        conn.execute(
            """
            insert into ops.reader_roles as known (role, relations) values (%s, %s)
            on conflict (role) do update
            set relations = excluded.relations, granted_at = clock_timestamp()
            """,
            [role, relations],
        )


def _reserve_for_owner(conn: Connection, owner: str) -> None:
    """Reserve the blocking functions, and the reserved connections, for the warehouse's owner."""
    from psycopg import sql

    name = sql.Identifier(owner)
    for (signature,) in conn.execute(_BLOCKING_FUNCTIONS).fetchall():
        function = sql.SQL(signature)
        conn.execute(sql.SQL("revoke execute on function {} from public").format(function))
        conn.execute(sql.SQL("grant execute on function {} to {}").format(function, name))
    # PostgreSQL has this role since version 16.
    lacks_reserved_connections = """
        select from pg_roles
        where rolname = 'pg_use_reserved_connections' and not pg_has_role(%s, oid, 'member')
    """
    if conn.execute(lacks_reserved_connections, [owner]).fetchone() is not None:
        conn.execute(sql.SQL("grant pg_use_reserved_connections to {}").format(name))


_WRITTEN_COLUMNS = {
    "acts": ("door", "name", "actor", "reason", "arguments", "code_version"),
    "act_outcomes": ("act_id", "outcome", "code", "read_back"),
}


def _keep_acts_from_owner(conn: Connection, owner: str) -> None:
    """Let the pipeline's role write and read the acts of people, and never change one.

    Triggers refuse a change by anybody; but an owner may disable them. Where this login is another
    role than the pipeline's, it becomes the owner.
    """
    from psycopg import sql

    row = conn.execute("select to_regclass('ops.acts'), current_user").fetchone()
    # An older warehouse, which has no acts yet; or one role for everything.
    if row is None or row[0] is None or row[1] == owner:
        return
    conn.execute("alter function ops.refuse_act_change() owner to current_user")
    role = sql.Identifier(owner)
    for table, columns in _WRITTEN_COLUMNS.items():
        name = sql.Identifier("ops", table)
        conn.execute(sql.SQL("alter table {} owner to current_user").format(name))
        conn.execute(sql.SQL("revoke all on {} from {}").format(name, role))
        # The number and the time of a row are the server's: nobody dates an act back.
        written = sql.SQL(", ").join(map(sql.Identifier, columns))
        grant = sql.SQL("grant select, insert ({}) on {} to {}")
        conn.execute(grant.format(written, name, role))


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
        where v.relnamespace = 'analytics'::regnamespace
            and f.pronamespace = 'predictions'::regnamespace
        order by 1
    """
    return [str(function) for (function,) in conn.execute(query)]
