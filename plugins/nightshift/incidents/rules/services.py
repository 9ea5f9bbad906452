"""Rules about what everything stands on: rights in the warehouse, its clock, disks."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.incidents.context import SEEN_ELSEWHERE_FOR
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.warehouse.analysts.page_reader import PAGE_READER
from nightshift.warehouse.connection import warehouse_time

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.incidents.context import EvaluationContext

GIB = 1024**3
LOW_SPACE_BYTES, NO_SPACE_BYTES = 2 * GIB, GIB // 2
LOW_FILES_RATIO, NO_FILES_RATIO = 0.02, 0.005
# Clocks that are kept by a time server differ by less than a second.
WRONG_CLOCK_SECONDS = 60.0


def warehouse_rights(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the relations that the warehouse user may not read or write."""
    relations = [row[0] for row in context.conn.execute(_CLOSED_RELATIONS)]
    if relations:
        yield Fact(
            code="NS-WAREHOUSE-005",
            severity="critical",
            health="degraded",
            subject_type="service",
            subject="warehouse",
            what=f"The warehouse user has no right to read or write {', '.join(relations[:5])}.",
            consequence="The stages that need them fail; readers keep what is published.",
            command=_grant(relations[0], context.settings.warehouse_user),
            models=tuple(context.specs),
            size=len(relations),
            facts={"relations": relations},
        )


def _grant(relation: str, user: str) -> str:
    # By name: the admin who runs it is another user.
    schema = relation.partition(".")[0]
    statement = f"grant all on all tables in schema {schema} to {user}"
    return f'nightshift psql --role admin -c "{statement}"'


# A write path that may not insert and a stage that may not read fail at night. Of the acts of
# people some columns are the warehouse's own: nobody dates an act back.
_CLOSED_RELATIONS = """
select c.oid::regclass::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('raw', 'features', 'predictions', 'ml', 'monitoring', 'ops', 'quarantine')
    and c.relkind in ('r', 'p')
    and not (has_table_privilege(c.oid, 'select') and has_any_column_privilege(c.oid, 'insert'))
order by 1
"""


def free_connections(context: EvaluationContext) -> Iterator[Fact]:
    """Yield that the warehouse has hardly a connection left, and which limit says so."""
    ((database, user, *numbers),) = context.conn.execute(_CONNECTIONS).fetchall()
    database_limit, user_limit, server_limit, n_database, n_user, n_server = numbers
    unlimit = "alter {} connection limit -1"
    limits = [
        (database_limit, n_database, f"database {database}"),
        (user_limit, n_user, f"role {user}"),
        (server_limit, n_server, ""),
    ]
    for limit, n_used, owner in limits:
        # PostgreSQL takes -1 for no limit.
        if limit < 0 or limit - n_used >= MIN_FREE_CONNECTIONS:
            continue
        name = f"the {owner}" if owner else "the server"
        command = "nightshift migrate"
        if owner:
            command = f'nightshift psql --role admin -c "{unlimit.format(owner)}"'
        yield Fact(
            code="NS-WAREHOUSE-007",
            severity="critical",
            health="degraded",
            subject_type="service",
            subject="warehouse",
            what=f"{n_used} of {limit} connections of {name} are in use.",
            consequence="Tasks that begin now are refused; readers keep what is published.",
            command=command,
            key=owner.partition(" ")[0] or "server",
            models=tuple(context.specs),
            size=1,
            facts={"limit": limit, "in_use": n_used},
        )


# Of the server's connections some are for superusers only.
_CONNECTIONS = """
select d.datname, r.rolname, d.datconnlimit, r.rolconnlimit,
    current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int,
    count(*) filter (where a.datname = d.datname),
    count(*) filter (where a.usename = r.rolname),
    count(*)
from pg_database d, pg_roles r, pg_stat_activity a
where d.datname = current_database() and r.rolname = current_user
    and a.backend_type = 'client backend'
group by 1, 2, 3, 4
"""


def reader_rights(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the roles that read by right and are gone, or may not read what they should.

    No task of the night fails of it: only analysts, and the page, are refused.
    """
    rows = context.conn.execute(_READERS).fetchall()
    for role, exists, closed in rows:
        if exists and not closed:
            continue
        names = ", ".join(closed[:MAX_SHOWN_RELATIONS])
        is_page = role == PAGE_READER
        yield Fact(
            code="NS-PAGE-002" if is_page else "NS-WAREHOUSE-005",
            severity="info" if is_page else "critical",
            health="caution" if is_page else "degraded",
            subject_type="service",
            subject=f"role {role}",
            what=f"Role {role} may not read {names}." if exists else f"Role {role} does not exist.",
            consequence="The page shows nothing." if is_page else "Analysts cannot read.",
            command="nightshift migrate",
            models=() if is_page else tuple(context.specs),
            size=len(closed),
            facts={"relations": closed},
        )


MAX_SHOWN_RELATIONS = 5
# A task needs two: its own, and the one that records its try.
MIN_FREE_CONNECTIONS = 2
# A right on a relation is worth nothing without the one on its schema.
_READERS = """
select r.role, p.oid is not null, coalesce(array_agg(v.name order by v.name) filter (
    where p.oid is not null and not (
        has_schema_privilege(p.oid, v.relnamespace, 'usage')
        and has_table_privilege(p.oid, v.oid, 'select'))), '{}')
from ops.reader_roles r
left join pg_roles p on p.rolname = r.role
left join lateral (
    select c.oid, c.relnamespace, n.nspname || '.' || c.relname as name
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('v', 'r', 'm')
        and case when r.relations is null then n.nspname = 'analytics'
            else n.nspname || '.' || c.relname = any(r.relations) end
) v on true
group by 1, 2
order by 1
"""


def wrong_clock(context: EvaluationContext) -> Findings:
    """Yield that the clock of this host differs from the warehouse's.

    Cut-offs and deadlines are instants: a machine whose clock is wrong starts nights early or late.
    """
    host = socket.gethostname()
    key = f"clock of {host}"
    for other in context.open_keys("wrong clock", context.now - SEEN_ELSEWHERE_FOR):
        if other != key:
            yield Unchecked(other)
    before = dt.datetime.now(dt.UTC)
    warehouse = warehouse_time(context.conn)
    after = dt.datetime.now(dt.UTC)
    # The warehouse has answered between the two; a slow answer is no wrong clock.
    seconds = max((before - warehouse).total_seconds(), (warehouse - after).total_seconds())
    if seconds < WRONG_CLOCK_SECONDS:
        return
    word = "ahead of" if before > warehouse else "behind"
    yield Fact(
        code="NS-TIME-006",
        severity="warning",
        health="caution",
        subject_type="service",
        subject=key,
        what=f"The clock of {host} is {seconds:.0f} s {word} the warehouse's.",
        consequence="What this machine starts by its clock begins early or late; an object store"
        " refuses requests from a quarter of an hour on.",
        command="timedatectl status",
        size=1,
        seen_until=context.now + SEEN_ELSEWHERE_FOR,
        facts={"seconds": round(seconds)},
    )


def disk_space(context: EvaluationContext) -> Findings:
    """Yield that the disk of this host's home is nearly full."""
    host = socket.gethostname()
    key = f"disk of {host}"
    # Each host sees its own disk only.
    for other in context.open_keys("disk space", context.now - SEEN_ELSEWHERE_FOR):
        if other != key:
            yield Unchecked(other)
    home = context.settings.home
    existing = next(path for path in (home, *home.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    free_files = free_files_ratio(existing)
    if free_files < LOW_FILES_RATIO:
        yield _few_files(context, key, existing, free_files)
        return
    if free_bytes >= LOW_SPACE_BYTES:
        return
    yield Fact(
        code="NS-SPACE-001",
        severity="critical" if free_bytes < NO_SPACE_BYTES else "warning",
        health="caution",
        subject_type="service",
        subject=key,
        what=f"{free_bytes / GIB:.1f} GiB are free on the disk of NIGHTSHIFT_HOME of {host}.",
        consequence="A training or a build fails when it is full; readers keep what is published.",
        command=f"du -xh --max-depth=2 {existing}",
        # Half a gibibyte less is worse.
        size=int(LOW_SPACE_BYTES / NO_SPACE_BYTES) - int(free_bytes // NO_SPACE_BYTES),
        seen_until=context.now + SEEN_ELSEWHERE_FOR,
    )


def free_files_ratio(path: Path) -> float:
    """Return which share of its files a file system can still make; 1 if it has no limit."""
    # Btrfs and others have no table of inodes, and say 0.
    usage = os.statvfs(path)
    return usage.f_favail / usage.f_files if usage.f_files else 1.0


def _few_files(context: EvaluationContext, key: str, path: Path, free_files: float) -> Fact:
    """Return the fact about a file system with room for bytes and hardly for a file."""
    host = socket.gethostname()
    return Fact(
        code="NS-SPACE-001",
        severity="critical" if free_files < NO_FILES_RATIO else "warning",
        health="caution",
        subject_type="service",
        subject=key,
        what=f"{free_files:.1%} of the inodes are free on the disk of NIGHTSHIFT_HOME of {host}:"
        " it can hardly make a file, whatever space is free.",
        consequence="What writes a file fails when none is left; readers keep what is published.",
        command=f"du -x --inodes --max-depth=2 {path}",
        size=int(LOW_FILES_RATIO / NO_FILES_RATIO) - int(free_files / NO_FILES_RATIO),
        seen_until=context.now + SEEN_ELSEWHERE_FOR,
    )
