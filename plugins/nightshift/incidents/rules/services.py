"""Rules about what everything stands on: files, object store, rights in the warehouse, disks."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError, SpecError, cause_of
from nightshift.incidents.context import SEEN_ELSEWHERE_FOR
from nightshift.incidents.facts import Fact, Findings, Unchecked
from nightshift.lake.object_store import ObjectStore

if TYPE_CHECKING:
    from nightshift.incidents.context import EvaluationContext

GIB = 1024**3
LOW_SPACE_BYTES, NO_SPACE_BYTES = 2 * GIB, GIB // 2
# A store that is asked each minute must not hold the evaluation up.
STORE_SECONDS = 3.0
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
    path = context.settings.dags_dir / file
    return Fact(
        code=error.code,
        severity="warning",
        health="degraded",
        subject_type="file",
        subject=f"dags/{file}",
        what=error.what,
        consequence=consequence,
        # Git knows the last good state of the file.
        command=f"git checkout HEAD~1 -- {path}" if path.is_file() else "nightshift migrate",
        owner=context.owner_of(models[0]) if models else "",
        tables=tables,
        models=models,
    )


def object_store(context: EvaluationContext) -> Iterator[Fact]:
    """Yield that the object store does not answer, refuses, or has no bucket of that name."""
    limits = {
        "s3_connect_timeout_seconds": STORE_SECONDS,
        "s3_read_timeout_seconds": STORE_SECONDS,
        # One lost packet is no outage.
        "s3_request_attempts": 2,
    }
    store = ObjectStore.open(context.settings.model_copy(update=limits))
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
            what=error.what,
            consequence="Nothing is ingested; tonight is scored by the last scores or the rule.",
            # A bucket that is absent is made again; a server that is away is started.
            command="nightshift migrate" if error.code == NO_BUCKET else "nightshift up",
            tables=tuple(contract.dataset for contract in context.daily_contracts),
            models=tuple(context.specs),
            facts={"cause": cause_of(error)},
        )


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
            command=_grant(relations[0]),
            models=tuple(context.specs),
            size=len(relations),
            facts={"relations": relations},
        )


def _grant(relation: str) -> str:
    schema = relation.partition(".")[0]
    statement = f"grant all on all tables in schema {schema} to current_user"
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
