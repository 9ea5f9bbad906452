"""The audit step of the write path: measure staged rows, decide, and record the verdict."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nightshift.errors import AuditError
from nightshift.failpoints import Failpoint, hit
from nightshift.peak_memory import peak_memory_bytes
from nightshift.stage_times import stage
from nightshift.warehouse.connection import lose
from nightshift.warehouse.content_hash import (
    LoadMeasurement,
    has_unique_index,
    hash_basis,
    measure,
    measure_nothing,
)
from nightshift.warehouse.relations.alterations import refuse_alterations

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import PartitionWrite, Target

_UNIQUE_KEY = "unique_key"
"""In a load's ``detail``: the columns that the audit found unique and not null."""
_HASH_BASIS = "hash_basis"
"""In a load's ``detail``: ``content_hash.hash_basis`` at its audit."""
GROWN_BYTES, _GROWN_RATIO = 64 * 1024**2, 0.1
"""A table with this much more data than its statistics know is analysed before it is scanned."""
_FIRST_STATISTICS_TARGET = 30
"""Of each column: frequent values, and sampled rows in units of 300. Autovacuum takes 100 soon."""


def audit(
    conn: Connection,
    write: PartitionWrite,
    detail: Mapping[str, Any] | None = None,
    sent: Mapping[dt.date, int] | None = None,
) -> dict[tuple[str, dt.date], int]:
    """Count the staged rows, check their keys, hash their content, and record the verdict.

    One scan per dataset.

    Args:
        conn: A connection outside of a transaction.
        write: The begun write.
        detail: Stored with each load.
        sent: Number of rows by day, of a write with one target whose writer has compared the keys
            before it sent very many rows. Then this number must be there, and the keys are not
            sorted again. Source: docs/adr/0027-large-drops.md.

    Returns:
        Rows by dataset and day; every partition of the range is there.

    Raises:
        AuditError: A partition is empty, has another number of rows than was sent, or a key is null
            or not unique. The load is recorded as refused.
        RowsAlteredError: A trigger or rule that is not ours may have changed the rows.
    """
    counts: dict[tuple[str, dt.date], int] = {}
    problems: list[str] = []
    hit(Failpoint.AUDIT_BEFORE)
    # Once more: somebody may have made a trigger since the write began.
    refuse_alterations(conn, write.targets)
    if len(write.partitions) > 1:
        analyze(conn, [(target.schema, target.table) for target in write.targets])
    else:
        analyze_grown_tables(conn, write)
    with stage("audit", load_id=write.load_id), conn.transaction():
        # Nothing is staged while the rows are counted: ``hold_stage`` waits for this lock.
        conn.execute(
            "select from ops.loads where load_id = %s order by dataset, partition_date for update",
            [write.load_id],
        )
        # A fresh load is contiguous: row by row through the key takes 1.6 times as long.
        conn.execute("set local enable_indexscan = off")
        for target in write.targets:
            by_day, unexpected_days = measure_target(
                conn, target, write, is_unique=sent is not None
            )
            new_problems = find_problems(target, by_day, unexpected_days, sent)
            proof = {} if new_problems else {_UNIQUE_KEY: list(target.key)}
            record_measurement(conn, target, write.load_id, by_day, {**(detail or {}), **proof})
            problems += new_problems
            counts |= {(target.dataset, day): load.n_rows for day, load in by_day.items()}
        if not problems:
            conn.execute(
                "update ops.loads set state = 'audited' where load_id = %s and state = 'staged'",
                [write.load_id],
            )
    hit(Failpoint.AUDIT_AFTER, lambda: lose(conn))
    if problems:
        # In a transaction of its own: the measurement of a refused load stays as evidence.
        summary = "; ".join(problems[:5])
        refuse(conn, write, summary)
        raise AuditError(
            f"Staged rows of load {write.load_id} failed the audit: {summary}.",
            expected=f"rows in each partition of {write.partitions}, keys unique and not null",
            got=f"{len(problems)} problem(s)",
            todo="Nothing was published. Correct the stage that wrote them and rerun the task.",
        )
    return counts


def measure_target(
    conn: Connection, target: Target, write: PartitionWrite, *, is_unique: bool
) -> tuple[dict[dt.date, LoadMeasurement], set[dt.date]]:
    """Return what each partition holds, with the empty ones, and unexpected days with rows."""
    measured = measure(conn, target, write.load_id, is_unique=is_unique)
    nothing = measure_nothing(conn, target)
    days = write.partitions.days
    return {day: measured.get(day, nothing) for day in days}, measured.keys() - set(days)


def find_problems(
    target: Target,
    by_day: Mapping[dt.date, LoadMeasurement],
    unexpected_days: Iterable[dt.date],
    sent: Mapping[dt.date, int] | None,
) -> list[str]:
    """Return why these rows must not be published, one sentence each."""
    name, key = target.dataset, ", ".join(target.key)
    problems = [
        f"{name} has rows of {day}, outside of the range" for day in sorted(unexpected_days)
    ]
    for day, load in by_day.items():
        n_rows = load.n_rows
        if n_rows == 0 and not target.may_be_empty:
            problems.append(f"{name} has no rows of {day}")
        n_sent = n_rows if sent is None else sent.get(day, 0)
        if n_rows != n_sent:
            problems.append(f"{name} has {n_rows} rows of {day}, not the {n_sent} that were sent")
        if load.n_bad_keys:
            rows = f"{load.n_bad_keys} rows of {day}"
            problems.append(f"{name} has {rows} with a null or repeated key ({key})")
    return problems


def record_measurement(
    conn: Connection,
    target: Target,
    load_id: int,
    by_day: Mapping[dt.date, LoadMeasurement],
    detail: Mapping[str, Any],
) -> None:
    """Store the measurement with the loads that are still open, in the caller's transaction."""
    detail = {**detail, _HASH_BASIS: hash_basis(conn, target)}
    conn.execute(
        """
        update ops.loads l
        set n_rows = r.n_rows, content_hash = r.content_hash, detail = l.detail || %s,
            peak_memory_bytes = greatest(l.peak_memory_bytes, %s)
        from unnest(%s::date[], %s::bigint[], %s::text[]) r (partition_date, n_rows, content_hash)
        where l.dataset = %s and l.load_id = %s and l.partition_date = r.partition_date
            and l.state in ('staged', 'audited')
        """,
        [
            json.dumps(detail, sort_keys=True, default=str),
            peak_memory_bytes(),
            list(by_day),
            [load.n_rows for load in by_day.values()],
            [load.content_hash for load in by_day.values()],
            target.dataset,
            load_id,
        ],
    )


def refuse(conn: Connection, write: PartitionWrite, reason: str) -> None:
    """Record that a check refused the staged rows; they can never be published."""
    conn.execute(
        """
        with refused as (
            update ops.loads
            set state = 'refused', detail = detail || jsonb_build_object('refused', %s::text)
            where load_id = %s and state in ('staged', 'audited')
            returning dataset, partition_date, load_id, state, token, run_id, actor, content_hash,
                n_rows
        )
        insert into ops.ledger (
            dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows
        )
        select * from refused
        """,
        [reason, write.load_id],
    )
    hit(Failpoint.REFUSE_AFTER, lambda: lose(conn))


def is_known_unique(
    conn: Connection, schema: str, table: str, load_id: int, columns: Sequence[str]
) -> bool:
    """Return whether the table's index or the load's audit shows that columns are unique in it."""
    has_index = has_unique_index(conn, schema, table, columns)
    return has_index or is_audited_unique(conn, load_id, columns)


def is_audited_unique(conn: Connection, load_id: int, columns: Iterable[str]) -> bool:
    """Return whether the audit of a load has shown that these columns are unique within it.

    It stays true, since nothing is staged after an audit.
    """
    rows = conn.execute(
        "select distinct state, detail -> %s from ops.loads where load_id = %s",
        [_UNIQUE_KEY, load_id],
    ).fetchall()
    columns = set(columns)
    for state, key in rows:
        # The key is unique within a partition, so its columns need the day.
        if state != "audited" or not key or not columns.issuperset(["partition_date", *key]):
            return False
    return bool(rows)


def analyze_grown_tables(conn: Connection, write: PartitionWrite) -> None:
    """Analyse the write's tables, or their parts, that grew by very many rows; else do nothing."""
    from psycopg import sql

    target_query = sql.SQL("set local default_statistics_target = {}")
    for target in write.targets:
        with conn.transaction():
            conn.execute(target_query.format(_FIRST_STATISTICS_TARGET))
            analyze(conn, _grown_tables(conn, target))


def _grown_tables(conn: Connection, target: Target) -> list[tuple[str, str]]:
    """Return the table, or parts of it, that have far more pages than their statistics know."""
    rows = conn.execute(
        """
        with target as (select to_regclass(format('%%I.%%I', %s::text, %s::text)) as oid)
        select nspname, relname
        from pg_class c join pg_namespace n on n.oid = relnamespace, target
        where (
                c.oid = target.oid
                or c.oid in (select inhrelid from pg_inherits where inhparent = target.oid)
            )
            and pg_relation_size(c.oid)
                    - greatest(relpages, 0) * current_setting('block_size')::bigint
                > greatest(%s, %s * pg_relation_size(c.oid))
        """,
        [target.schema, target.table, GROWN_BYTES, _GROWN_RATIO],
    )
    return rows.fetchall()


def analyze(conn: Connection, tables: Iterable[tuple[str, str]]) -> None:
    """Refresh the planner's statistics of tables that a bulk range or very many rows changed.

    Autovacuum follows the usual partitions by itself.
    """
    from psycopg import sql

    # Measured: a training set of 66 fresh partitions took over four minutes without, 1.3 s with it;
    # a quality gate on a year 87 s without, 4 s with it.
    for schema, table in tables:
        conn.execute(sql.SQL("analyze (skip_locked) {}").format(sql.Identifier(schema, table)))
