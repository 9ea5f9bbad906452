"""Role ``page_reader``: what the page of people may read, relation by relation.

The page takes this role at the start of each session. So a mistake in one of its queries can read
neither predictions, raw rows nor refused rows, and can write nothing.
Source: docs/adr/0049-page.md.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

PAGE_READER = "page_reader"
RELATIONS = (
    "analytics.health",
    "ml.canaries",
    "ml.champion_periods",
    "ml.decisions",
    "ml.importances",
    "monitoring.drift_published",
    "monitoring.estimates_published",
    "monitoring.input_faults",
    "monitoring.performance_published",
    "monitoring.profiles",
    "monitoring.verdicts_published",
    "ops.dataset_freshness",
    "ops.dataset_volumes",
    "ops.health",
    "ops.last_evaluation",
    "ops.model_calendar",
    "ops.model_facts",
    "ops.model_partitions",
    "ops.model_progress",
    "ops.open_incidents",
    "ops.partition_steps",
    "ops.people_acts",
    "ops.published",
    "ops.published_levels",
    "quarantine.drop_counts",
    "quarantine.row_counts",
)
"""All that the page reads. One that a warehouse does not have yet is granted by a later migrate."""


CAUSES_FUNCTION = "ops.night_causes(text, date)"
"""The one aggregate of predictions that the page may ask for."""


def grant_page_reader(conn: Connection, owner: str) -> bool:
    """Create the role, take from it all that it has, and grant the relations that exist.

    Returns whether there is a role for the page now.

    A login that may not create roles grants the relations to a role that somebody else has made.
    Without one there is no page, and the log says so: everything else is set up all the same.

    Args:
        conn: A connection in a transaction.
        owner: The warehouse's owner, who may take the role.
    """
    from psycopg import sql

    if not _ensure_role(conn, owner):
        logger.warning(
            "There is no page (NS-PAGE-002): this login cannot create role %s and let %s take it.",
            PAGE_READER,
            owner,
        )
        return False
    role = sql.Identifier(PAGE_READER)
    schemas = sorted({name.partition(".")[0] for name in RELATIONS})
    for name in schemas:
        schema = sql.Identifier(name)
        revoke = sql.SQL("revoke all on all tables in schema {} from {}")
        conn.execute(revoke.format(schema, role))
        conn.execute(sql.SQL("grant usage on schema {} to {}").format(schema, role))
    query = "select name from unnest(%s::text[]) name where to_regclass(name) is not null"
    for (name,) in conn.execute(query, [list(RELATIONS)]).fetchall():
        relation = sql.Identifier(*name.split("."))
        conn.execute(sql.SQL("grant select on {} to {}").format(relation, role))
    # A warehouse of before does not have it.
    if conn.execute("select to_regprocedure(%s)", [CAUSES_FUNCTION]).fetchone() != (None,):
        function = sql.SQL(CAUSES_FUNCTION)
        conn.execute(sql.SQL("grant execute on function {} to {}").format(function, role))
    return True


def _ensure_role(conn: Connection, owner: str) -> bool:
    """Create the role and let the owner take it; return whether the owner may take it now."""
    from psycopg import errors, sql

    role = sql.Identifier(PAGE_READER)
    forbidden = errors.InsufficientPrivilege
    if conn.execute("select from pg_roles where rolname = %s", [PAGE_READER]).fetchone() is None:
        # Another database's caller may create it at the same moment.
        exists = (errors.DuplicateObject, errors.UniqueViolation)
        with suppress(*exists, forbidden), conn.transaction():
            conn.execute(sql.SQL("create role {} nologin").format(role))
    with suppress(forbidden, errors.UndefinedObject), conn.transaction():
        conn.execute(sql.SQL("grant {} to {}").format(role, sql.Identifier(owner)))
    may_take = "select from pg_roles where rolname = %s and pg_has_role(%s, oid, 'member')"
    return conn.execute(may_take, [PAGE_READER, owner]).fetchone() is not None
