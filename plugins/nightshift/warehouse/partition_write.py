"""THE write path: begin, stage, audit, publish, collect. Every partition that others read is written by this protocol.

Airflow runs a task at least once, and two attempts of it can really run at the same time. So rows
are staged under a ``load_id`` that no reader follows, and publishing is one short transaction that
flips ``ops.published`` if no newer attempt has taken the partition's fencing token. Source:
docs/adr/0004-write-path.md.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nightshift.contracts.run import code_version
from nightshift.errors import AuditError, LoadStateError, LostAnswerError, WarehouseError
from nightshift.failpoints import Failpoint, hit
from nightshift.redaction import without_values
from nightshift.warehouse.audit import UNIQUE_KEY, measure_days, problems_of, record_measured
from nightshift.warehouse.cancel_attempts import end_older_attempts
from nightshift.warehouse.connection import lose
from nightshift.warehouse.damage import refuse_vanished
from nightshift.warehouse.faults import fault_of
from nightshift.warehouse.garbage_collection import collect_target
from nightshift.warehouse.pointer import READS, flip, look_at_published
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
    "LoadManifest", "PartitionWrite", "PublishedLoad", "Target",
    "audit", "begin", "collect", "hold_stage", "publish", "read_back", "refuse", "resume",
]  # fmt: skip


def begin(
    conn: Connection, targets: Sequence[Target], partitions: PartitionRange, manifest: LoadManifest
) -> PartitionWrite:
    """Take the next fencing token of every (dataset, partition) and record the manifest, in its own transaction.

    Raises:
        LoadStateError: A versioned target comes without ``known_at``.
    """
    if manifest.known_at is None and any(target.is_versioned for target in targets):
        raise LoadStateError(
            "A version of raw data needs the time of its delivery.",
            expected="known_at",
            todo="Pass it in the manifest.",
        )
    hit(Failpoint.BEGIN_BEFORE)
    end_older_attempts(conn, manifest.run)
    with conn.transaction():
        row = conn.execute(
            _BEGIN,
            {
                "datasets": sorted(target.dataset for target in targets),
                "days": partitions.days,
                "known_at": [manifest.known_at_of(day) for day in partitions.days],
                "run_id": manifest.run.run_id,
                "attempt": manifest.run.attempt,
                "actor": manifest.run.actor,
                "code": code_version(),
                "inputs": json.dumps(dict(manifest.inputs), sort_keys=True),
                "digest": manifest.digest,
                "detail": json.dumps({READS: dict(manifest.reads)} if manifest.reads else {}),
            },
        ).fetchone()
    hit(Failpoint.BEGIN_AFTER, lambda: lose(conn))
    if row is None:
        raise LoadStateError(
            "A write without targets.",
            expected="at least one dataset",
            todo="Name what the load publishes.",
        )
    return PartitionWrite(int(row[0]), tuple(targets), partitions)


_BEGIN = """
with load as materialized (
    select nextval('ops.load_id_seq') as load_id
), wanted as (
    select dataset, partition_date, known_at
    from unnest(%(datasets)s::text[]) dataset, unnest(%(days)s::date[], %(known_at)s::timestamptz[]) d (partition_date, known_at)
    order by dataset, partition_date
), token as (
    insert into ops.fences as fence (dataset, partition_date, token) select dataset, partition_date, 1 from wanted
    on conflict (dataset, partition_date) do update set token = fence.token + 1
    returning dataset, partition_date, token
)
insert into ops.loads (
    dataset, partition_date, load_id, token, state, run_id, attempt, actor, code_version, inputs, inputs_digest, known_at,
    detail
)
select
    dataset, partition_date, load_id, token, 'staged', %(run_id)s, %(attempt)s, %(actor)s, %(code)s, %(inputs)s, %(digest)s, known_at,
    %(detail)s
from token join wanted using (dataset, partition_date), load
returning load_id
"""


class Transaction(Protocol):
    """Whatever runs statements in an open transaction: a connection, or the transaction of a stream."""

    def execute(self, query: sql.Composed, /) -> Iterable[tuple[Any, ...]]:
        """Run a statement and return its rows."""


def hold_stage(transaction: Transaction, write: PartitionWrite) -> str:
    """Keep the load from being audited until the caller's transaction ends, so that nothing is staged behind an audit.

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
    return _least_advanced(write.load_id, {state for (state,) in rows})


def audit(
    conn: Connection,
    write: PartitionWrite,
    detail: Mapping[str, Any] | None = None,
    sent: Mapping[dt.date, int] | None = None,
) -> dict[tuple[str, dt.date], int]:
    """Count the staged rows, check their keys, hash their content, and record the verdict; one scan per dataset.

    Args:
        conn: A connection outside of a transaction.
        write: The begun write.
        detail: Kept with each load.
        sent: Very many rows of one target whose keys the writer has compared before it sent them,
            by day: then as many must be there, and nobody sorts their keys again. Source:
            docs/adr/0028-ingest-at-size.md.

    Returns:
        Rows by dataset and day; every partition of the range is there.

    Raises:
        AuditError: A partition is empty, has another number of rows than was sent, or a key is null
            or not unique. The load is recorded as refused.
    """
    counts: dict[tuple[str, dt.date], int] = {}
    problems: list[str] = []
    hit(Failpoint.AUDIT_BEFORE)
    if len(write.partitions) > 1:
        _refresh_statistics(conn, [(target.schema, target.table) for target in write.targets])
    else:
        analyze_grown_tables(conn, write)
    with conn.transaction():
        conn.execute(
            "select from ops.loads where load_id = %s order by dataset, partition_date for update",
            [write.load_id],
        )
        conn.execute(
            "set local enable_indexscan = off"
        )  # A fresh load lies together: row by row through the key takes 1.6 times as long.
        for target in write.targets:
            by_day, unexpected = measure_days(conn, target, write, is_unique=sent is not None)
            found = problems_of(target, by_day, unexpected, sent)
            proved = {} if found else {UNIQUE_KEY: list(target.key)}
            record_measured(conn, target, write.load_id, by_day, {**(detail or {}), **proved})
            problems += found
            counts |= {(target.dataset, day): measured.n_rows for day, measured in by_day.items()}
        if not problems:
            conn.execute(
                "update ops.loads set state = 'audited' where load_id = %s and state = 'staged'",
                [write.load_id],
            )
    hit(Failpoint.AUDIT_AFTER, lambda: lose(conn))
    if problems:
        summary = "; ".join(problems[:5])
        refuse(conn, write, summary)
        raise AuditError(
            f"Staged rows of load {write.load_id} failed the audit: {summary}.",
            expected=f"rows in each partition of {write.partitions}, with unique keys that are not null",
            got=f"{len(problems)} problem(s)",
            todo="Nothing was published. Correct the stage that wrote them and rerun the task.",
        )
    return counts


def analyze_grown_tables(conn: Connection, write: PartitionWrite) -> None:
    """Let the planner see the write's rows before they are scanned, if they are very many."""
    from psycopg import sql

    for target in write.targets:
        with conn.transaction():
            conn.execute(sql.SQL("set local default_statistics_target = {}").format(_FIRST_LOOK))
            _refresh_statistics(conn, _grown(conn, target))


_GROWN_BYTES, _GROWN_RATIO = 64 * 1024**2, 0.1
_FIRST_LOOK = 30
"""Frequent values, and rows in hundreds of three, that a first look takes of each column;
autovacuum takes the usual hundred soon after.
"""


def _grown(conn: Connection, target: Target) -> list[tuple[str, str]]:
    """Return the table, or parts of it, with far more pages than its statistics know: millions of rows would pass for thousands."""
    rows = conn.execute(
        """
        with target as (select to_regclass(format('%%I.%%I', %s::text, %s::text)) as oid)
        select nspname, relname from pg_class c join pg_namespace n on n.oid = relnamespace, target
        where (c.oid = target.oid or c.oid in (select inhrelid from pg_inherits where inhparent = target.oid))
            and pg_relation_size(c.oid) - greatest(relpages, 0) * current_setting('block_size')::bigint
                > greatest(%s, %s * pg_relation_size(c.oid))
        """,
        [target.schema, target.table, _GROWN_BYTES, _GROWN_RATIO],
    )
    return rows.fetchall()


def _refresh_statistics(conn: Connection, tables: Iterable[tuple[str, str]]) -> None:
    """Let the planner see what a bulk range or very many rows have written; autovacuum follows usual nights by itself.

    Without this a training set of 66 fresh partitions took more than four minutes, with it 1.3 s; a
    gate on a year 87 s, with it 4 s.
    """
    from psycopg import sql

    for schema, table in tables:
        conn.execute(sql.SQL("analyze (skip_locked) {}").format(sql.Identifier(schema, table)))


def refuse(conn: Connection, write: PartitionWrite, reason: str) -> None:
    """Record that a gate refused the staged rows; they can never be published."""
    conn.execute(
        """
        with refused as (
            update ops.loads set state = 'refused', detail = detail || jsonb_build_object('refused', %s::text)
            where load_id = %s and state in ('staged', 'audited')
            returning dataset, partition_date, load_id, state, token, run_id, actor, content_hash, n_rows
        )
        insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows) select * from refused
        """,
        [reason, write.load_id],
    )
    hit(Failpoint.REFUSE_AFTER, lambda: lose(conn))


def publish(
    conn: Connection, write: PartitionWrite, along: Callable[[], None] = lambda: None
) -> list[PublishedLoad]:
    """Flip the pointers of all targets and partitions in one transaction, then read back what readers see.

    A partition whose content equals the published one keeps its pointer, if the published rows
    still are what was published: they are hashed again. Else this load takes their place as a
    repair. Calling it again after a lost answer is safe.

    Args:
        conn: A connection outside of a transaction.
        write: What ``begin`` gave.
        along: Statements on ``conn`` that belong to the publication: committed with it or not at
            all.

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
        published = look_at_published(
            conn, write
        )  # before the tokens are held: a scan must not make others wait
        with conn.transaction():
            flip(conn, write, published)
            along()
            hit(Failpoint.PUBLISH_FLIPPED)
        hit(Failpoint.PUBLISH_AFTER, lambda: lose(conn))
    except psycopg.OperationalError as error:
        if conn.closed:
            raise LostAnswerError(
                f"The answer to the commit of load {write.load_id} was lost.",
                todo="Rerun the task: it reads back what was published and goes on.",
            ) from error
        if fault := fault_of(error):
            raise fault from error
        raise WarehouseError(
            f"Load {write.load_id} could not be published; nothing changed.",
            got=without_values(str(error)),
            todo="Rerun the task.",
        ) from error
    if len(write.partitions) > 1:
        _refresh_statistics(conn, [("ops", table) for table in ("fences", "loads", "published")])
    return read_back(conn, write)


def read_back(conn: Connection, write: PartitionWrite) -> list[PublishedLoad]:
    """Return what readers see now of the write's partitions: the pointers, and the rows behind them, counted.

    Raises:
        LoadStateError: A partition has no pointer, or the load is not recorded as published: the
            write did not take place.
        VanishedRowsError: Readers see another number of rows than was published.
    """
    rows = conn.execute(
        """
        select p.dataset, p.partition_date, p.load_id, l.n_rows, l.content_hash, mine.state = 'published'
        from ops.loads mine join ops.published p using (dataset, partition_date)
        join ops.loads l on l.dataset = p.dataset and l.partition_date = p.partition_date and l.load_id = p.load_id
        where mine.load_id = %s and mine.state in ('published', 'duplicate') order by p.dataset, p.partition_date
        """,
        [write.load_id],
    ).fetchall()
    wanted = len(write.targets) * len(write.partitions)
    if len(rows) != wanted:
        raise LoadStateError(
            f"Load {write.load_id} did not become visible.",
            expected=f"{wanted} published partitions",
            got=f"{len(rows)}",
            todo="Rerun the task; if it stays so, read ops.loads of this load.",
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
    return PartitionWrite(load_id, tuple(targets), partitions), _least_advanced(
        load_id, {state for (state,) in rows}
    )


def _least_advanced(load_id: int, states: set[str]) -> str:
    if not states:
        raise LoadStateError(
            f"There is no load {load_id}.", todo="Rerun the task that begins the write."
        )
    return min(states, key=STATES.index)


def collect(conn: Connection, targets: Sequence[Target]) -> int:
    """Delete staged rows that can never be published: duplicates, refused loads, and attempts whose token is stale.

    Published loads stay: they are the history. Safe at any time, also while an old attempt still
    writes: for a day its load is collected again.

    Returns:
        Number of deleted rows.
    """
    hit(Failpoint.COLLECT_BEFORE)
    return sum(collect_target(conn, target) for target in targets)
