"""Rules about what everything stands on: files, object store, rights in the warehouse, disks."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, SpecError, cause_of
from nightshift.incidents.context import SEEN_ELSEWHERE_FOR
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.lake.object_store import ObjectStore
from nightshift.warehouse.analysts.page_reader import PAGE_READER
from nightshift.warehouse.connection import warehouse_time

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.incidents.context import EvaluationContext

GIB = 1024**3
LOW_SPACE_BYTES, NO_SPACE_BYTES = 2 * GIB, GIB // 2
# A store that is asked each minute must not hold the evaluation up.
STORE_SECONDS = 3.0
GIT_SECONDS = 2.0
# Clocks that are kept by a time server differ by less than a second.
WRONG_CLOCK_SECONDS = 60.0
NO_BUCKET = "NS-LAKE-019"


def wrong_files(context: EvaluationContext) -> Iterator[Fact]:
    """Yield the spec and contract files that cannot be used."""
    for file, error in context.spec_files.problems.items():
        model = file.rpartition(".")[0]
        is_known = model in context.specs
        consequence = "Its rescue runs on the last good spec; it is neither scored nor trained."
        if not is_known:
            consequence = "The model does not run; all others do."
        yield _wrong_file(
            context,
            f"models/{file}",
            error,
            consequence,
            models=(model,) if is_known else (),
        )
    for file, error in context.contract_files.problems.items():
        dataset = f"raw/{file.rpartition('.')[0]}"
        consequence = "The dataset is not ingested; features that read it are not built."
        yield _wrong_file(context, f"datasets/{file}", error, consequence, tables=(dataset,))


def _wrong_file(
    context: EvaluationContext,
    file: str,
    error: SpecError,
    consequence: str,
    *,
    tables: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
) -> Fact:
    return Fact(
        code=error.code,
        severity="warning",
        health="degraded",
        subject_type="file",
        subject=f"dags/{file}",
        what=error.what,
        consequence=consequence,
        command=restore_command(context.settings.dags_dir, file),
        owner=context.owner_of(models[0]) if models else "",
        tables=tables,
        models=models,
    )


def restore_command(folder: Path, file: str) -> str:
    """Return the command that brings back a file of a folder as it was before its last change."""
    last_change = _git(folder, "log", "-1", "--format=%h", "--", file)
    if not last_change:
        # Not under version control here: the deployment has the file.
        return "nightshift status"
    # What was changed and not committed was good in the last commit.
    is_committed = not _git(folder, "status", "--porcelain", "--", file)
    revision = f"{last_change}~1" if is_committed else "HEAD"
    return f"git -C {folder} checkout {revision} -- {file}"


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints; empty if it cannot answer."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments
            command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def quick_store(context: EvaluationContext) -> ObjectStore:
    """Return the object store with short time limits."""
    limits = {
        "s3_connect_timeout_seconds": STORE_SECONDS,
        "s3_read_timeout_seconds": STORE_SECONDS,
        # One lost packet is no outage.
        "s3_request_attempts": 2,
    }
    return ObjectStore.open(context.settings.model_copy(update=limits))


def object_store(context: EvaluationContext) -> Iterator[Fact]:
    """Yield that the object store does not answer, refuses, or has no bucket of that name."""
    store = quick_store(context)
    try:
        # One listing of a prefix that holds nothing: address, login and bucket.
        next(iter(store.list("incidents/none/")), None)
    except NightshiftError as error:
        yield Fact(
            code=error.code,
            severity="critical",
            health="degraded",
            subject_type="service",
            subject="object store",
            what=f"{error.what} {_refusal_of(error)}".strip(),
            consequence="Nothing is ingested; tonight is scored by the last scores or the rule.",
            command=_store_command(error),
            tables=tuple(contract.dataset for contract in context.daily_contracts),
            models=tuple(context.specs),
            facts={"cause": cause_of(error)},
        )


# What S3 servers answer to a login that they do not accept; the rest of their answer is left out.
_REFUSALS = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "403")


def _refusal_of(error: NightshiftError) -> str:
    """Return that the store refuses the login; empty for another cause."""
    answers = [answer for answer in _REFUSALS if answer in str(error.got)]
    return f"It refuses the login ({answers[0]})." if answers else ""


def _store_command(error: NightshiftError) -> str:
    # A bucket that is absent is made again; a server that is away is started; a login that is
    # refused was changed where nobody but a person can look, and is found out by `doctor`.
    if error.code == NO_BUCKET:
        return "nightshift migrate"
    return "nightshift doctor" if _refusal_of(error) else "nightshift up"


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
