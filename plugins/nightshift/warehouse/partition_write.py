"""THE write path: begin, stage, audit, publish, collect. Every partition is written this way.

1. ``begin`` takes the next fencing token of each partition and a new ``load_id``.
2. The caller stages rows under that ``load_id``. No reader follows it yet.
3. ``audit`` counts the rows, checks their keys and hashes their content.
4. ``publish`` moves the pointers of all partitions in one short transaction, if no newer attempt
   has taken a token since, and reads back what readers see.
5. ``collect`` deletes the rows of loads that can never be published.

Airflow runs a task at least once, and two attempts of it can really run at the same time: the
tokens decide which of them publishes. Source: docs/adr/0004-write-path.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nightshift.contracts.run import code_version
from nightshift.errors import LoadStateError
from nightshift.failpoints import Failpoint, hit
from nightshift.stage_times import stage
from nightshift.warehouse.audit import analyze, analyze_grown_tables, audit, refuse
from nightshift.warehouse.cancel_attempts import end_older_attempts
from nightshift.warehouse.connection import lose
from nightshift.warehouse.damage import check_published_rows, refuse_vanished
from nightshift.warehouse.faults import publish_error
from nightshift.warehouse.garbage_collection import collect_target
from nightshift.warehouse.pointer import move_pointers
from nightshift.warehouse.relations.alterations import refuse_alterations
from nightshift.warehouse.write_types import (
    STATES,
    LoadManifest,
    PartitionWrite,
    PublishedLoad,
    Target,
)

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.warehouse.connection import Connection

__all__ = [
    "LoadManifest",
    "PartitionWrite",
    "PublishedLoad",
    "Target",
    "analyze_grown_tables",
    "audit",
    "begin",
    "collect",
    "hold_stage",
    "publish",
    "read_back",
    "refuse",
    "refuse_alterations",
    "resume",
]


def begin(
    conn: Connection, targets: Sequence[Target], partitions: PartitionRange, manifest: LoadManifest
) -> PartitionWrite:
    """Take the next fencing token of every partition and record the load, in one transaction.

    From now on no older attempt can publish these partitions.

    Raises:
        LoadStateError: There is no target, or a version of raw data without ``known_at``.
        RowsAlteredError: A trigger or rule that is not ours could change what is written.
    """
    if not targets:
        raise LoadStateError(
            "The write has no targets.",
            expected="at least one dataset",
            todo="Name what the load publishes.",
        )
    if manifest.known_at is None and any(target.is_versioned for target in targets):
        raise LoadStateError(
            "A version of raw data needs the time of its delivery.",
            expected="known_at",
            todo="Pass it in the manifest.",
        )

    hit(Failpoint.BEGIN_BEFORE)
    refuse_alterations(conn, targets)
    end_older_attempts(conn, manifest.run)
    with stage("begin", dataset=targets[0].dataset), conn.transaction():
        parameters = {
            "datasets": sorted(target.dataset for target in targets),
            "days": partitions.days,
            "known_at": [manifest.known_at_of(day) for day in partitions.days],
            "run_id": manifest.run.run_id,
            "attempt": manifest.run.attempt,
            "actor": manifest.run.actor,
            "code": code_version(),
            "inputs": json.dumps(dict(manifest.inputs), sort_keys=True),
            "digest": manifest.digest,
            "detail": json.dumps({"reads": dict(manifest.reads)} if manifest.reads else {}),
        }
        loads = conn.execute(_BEGIN, parameters).fetchall()
    hit(Failpoint.BEGIN_AFTER, lambda: lose(conn))
    load_id: int = loads[0][0]
    return PartitionWrite(load_id, tuple(targets), partitions)


# Tokens are taken in the order of dataset and day, here and everywhere else: two writes of the same
# partitions wait for each other, they never deadlock.
_BEGIN = """
with load as materialized (
    select nextval('ops.load_id_seq') as load_id
), partition as (
    select dataset, partition_date, known_at
    from unnest(%(datasets)s::text[]) dataset,
        unnest(%(days)s::date[], %(known_at)s::timestamptz[]) d (partition_date, known_at)
    order by dataset, partition_date
), token as (
    insert into ops.fences as fence (dataset, partition_date, token)
    select dataset, partition_date, 1 from partition
    on conflict (dataset, partition_date) do update set token = fence.token + 1
    returning dataset, partition_date, token
)
insert into ops.loads (
    dataset, partition_date, load_id, token, state, run_id, attempt, actor, code_version,
    inputs, inputs_digest, known_at, detail
)
select
    dataset, partition_date, load_id, token, 'staged', %(run_id)s, %(attempt)s, %(actor)s, %(code)s,
    %(inputs)s, %(digest)s, known_at, %(detail)s
from token join partition using (dataset, partition_date), load
returning load_id
"""


class Transaction(Protocol):
    """A connection in an open transaction, of which only ``execute`` is used."""

    def execute(self, query: sql.Composed, /) -> Iterable[tuple[Any, ...]]:
        """Run a statement and return its rows."""


def hold_stage(transaction: Transaction, write: PartitionWrite) -> str:
    """Keep the load from being audited until the caller's transaction ends.

    The audit locks the same rows, so no row is staged after it has counted.

    Returns:
        The least advanced state of the load; rows may be staged only while it is ``staged``.

    Raises:
        LoadStateError: There is no such load.
    """
    from psycopg import sql

    query = sql.SQL(
        "select state from ops.loads where load_id = {} order by dataset, partition_date for share"
    )
    rows = transaction.execute(query.format(sql.Literal(write.load_id)))
    return _least_advanced_state(write.load_id, rows)


def publish(
    conn: Connection, write: PartitionWrite, along: Callable[[], None] = lambda: None
) -> list[PublishedLoad]:
    """Move the pointers of all targets and partitions in one transaction; read back the result.

    A partition whose content equals the published one keeps its pointer, if the published rows
    still are what was published: they are hashed again. Otherwise this load replaces them as a
    repair. Calling it again after a lost answer is safe.

    Args:
        conn: A connection outside of a transaction.
        write: What ``begin`` returned.
        along: Runs statements on ``conn`` that are committed with the publication or not at all.

    Raises:
        StaleTokenError: A newer attempt has taken a partition.
        AuditError: A load has no passed audit.
        ContentConflictError: Same inputs and code, other content: something is not deterministic.
        LostAnswerError: The connection broke, perhaps after the commit.
        WarehouseError: The warehouse refused, for example because a lock was not free in time.
        VanishedRowsError: Readers see another number of rows than was published.
    """
    import psycopg

    hit(Failpoint.PUBLISH_BEFORE)
    try:
        with stage("publish", load_id=write.load_id):
            # Rows are hashed before the tokens are locked: a scan must not make other writes wait.
            published = check_published_rows(conn, write)
            with conn.transaction():
                move_pointers(conn, write, published)
                along()
                hit(Failpoint.PUBLISH_FLIPPED)
        hit(Failpoint.PUBLISH_AFTER, lambda: lose(conn))
    except psycopg.OperationalError as error:
        raise publish_error(conn, write.load_id, error) from error
    if len(write.partitions) > 1:
        # Autovacuum follows single partitions by itself, but it is too late for a bulk range.
        analyze(conn, [("ops", table) for table in ("fences", "loads", "published")])
    return read_back(conn, write)


def read_back(conn: Connection, write: PartitionWrite) -> list[PublishedLoad]:
    """Return what readers see of the write's partitions: pointers, and their rows counted.

    Raises:
        LoadStateError: A partition has no pointer, or the load is not recorded as published: the
            write did not take place.
        VanishedRowsError: Readers see another number of rows than was published.
    """
    # The pointer may name another load than this one (a duplicate, a newer version): so the record
    # of that load is joined, not `join_published` of this one's rows.
    rows = conn.execute(
        """
        select p.dataset, p.partition_date, p.load_id, l.n_rows, l.content_hash,
            mine.state = 'published'
        from ops.loads mine
        join ops.published p using (dataset, partition_date)
        join ops.loads l on (l.dataset, l.partition_date, l.load_id)
            = (p.dataset, p.partition_date, p.load_id)
        where mine.load_id = %s and mine.state in ('published', 'duplicate')
        order by p.dataset, p.partition_date
        """,
        [write.load_id],
    ).fetchall()
    n_expected = len(write.targets) * len(write.partitions)
    if len(rows) != n_expected:
        raise LoadStateError(
            f"Load {write.load_id} did not become visible.",
            expected=f"{n_expected} published partitions",
            got=f"{len(rows)}",
            todo="Rerun the task. If it fails again, read the rows of this load in ops.loads.",
        )
    published = [PublishedLoad(*row) for row in rows]
    refuse_vanished(conn, write, published)
    return published


def resume(
    conn: Connection, load_id: int, targets: Sequence[Target], partitions: PartitionRange
) -> tuple[PartitionWrite, str]:
    """Return a write that another process began, and the least advanced state of its loads.

    Raises:
        LoadStateError: There is no such load.
    """
    rows = conn.execute("select distinct state from ops.loads where load_id = %s", [load_id])
    write = PartitionWrite(load_id, tuple(targets), partitions)
    return write, _least_advanced_state(load_id, rows)


def _least_advanced_state(load_id: int, rows: Iterable[tuple[Any, ...]]) -> str:
    states: set[str] = {state for (state,) in rows}
    if not states:
        raise LoadStateError(
            f"There is no load {load_id}.", todo="Rerun the task that begins the write."
        )
    return min(states, key=STATES.index)


def collect(conn: Connection, targets: Sequence[Target]) -> int:
    """Delete rows that can never be published: of duplicates, refused loads and stale attempts.

    Published loads stay: they are the history. Safe at any time, also while an old attempt still
    writes: its load is collected again for a day.

    Returns:
        Number of deleted rows.
    """
    hit(Failpoint.COLLECT_BEFORE)
    return sum(collect_target(conn, target) for target in targets)
