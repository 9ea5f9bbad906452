"""THE write path: begin, stage, audit, publish, collect. Every partition that others read is written by this protocol.

Airflow runs a task at least once, and two attempts of it can really run at the same time. So rows are staged under a
``load_id`` that no reader follows, and publishing is one short transaction that flips ``ops.published`` if no newer
attempt has taken the partition's fencing token. Source: docs/adr/0004-write-path.md.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nightshift.contracts.run import RunContext, code_version
from nightshift.errors import AuditError, ContentConflictError, LoadStateError, StaleTokenError

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.warehouse.connection import Connection

VOLATILE_COLUMNS = frozenset({"load_id", "run_id", "shard", "source_uri", "source_sha256", "source_row", "known_at", "loaded_at"})
"""Columns that say how a row came here, not what it says: left out of the content hash."""


@dataclass(frozen=True)
class Target:
    """One dataset that a write publishes, and the table that holds its loads.

    Attributes:
        dataset: Name in the ledger, for example ``features/flight``.
        schema: Schema of the table.
        table: Table with ``partition_date`` and ``load_id``.
        key: Columns that are unique and not null within a partition.
        is_versioned: Raw data: every version stays readable, and the pointer goes to the one with the latest ``known_at``.
        may_be_empty: Whether a partition without rows passes the audit.
    """

    dataset: str
    schema: str
    table: str
    key: tuple[str, ...]
    is_versioned: bool = False
    may_be_empty: bool = False


@dataclass(frozen=True)
class LoadManifest:
    """What a load is made from.

    Attributes:
        run: Who writes.
        inputs: Digest or load id by name of everything that the content depends on; with the same inputs and code, the same content must come out.
        known_at: Raw data: when upstream delivered it, UTC.
    """

    run: RunContext
    inputs: Mapping[str, str]
    known_at: dt.datetime | None = None

    @property
    def digest(self) -> str:
        """Return the SHA-256 over inputs and code version, hex."""
        return sha256(json.dumps([dict(self.inputs), code_version()], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PartitionWrite:
    """A begun write: pass it to ``audit`` and ``publish``.

    Attributes:
        load_id: Write it into every staged row.
        targets: The datasets.
        partitions: The partitions, all of them published together.
    """

    load_id: int
    targets: tuple[Target, ...]
    partitions: PartitionRange


@dataclass(frozen=True)
class PublishedLoad:
    """What readers see of one partition after ``publish``, as read back.

    Attributes:
        is_new: False when the same content stood there before and the pointer stayed.
    """

    dataset: str
    partition_date: dt.date
    load_id: int
    n_rows: int
    content_hash: str
    is_new: bool = field(compare=False)


def begin(conn: Connection, targets: Sequence[Target], partitions: PartitionRange, manifest: LoadManifest) -> PartitionWrite:
    """Take the next fencing token of every (dataset, partition) and record the manifest, in its own transaction."""
    datasets = sorted(target.dataset for target in targets)
    with conn.transaction():
        load_id = _scalar(conn, "select nextval('ops.load_id_seq')")
        conn.execute(
            """
            with wanted as (
                select dataset, partition_date from unnest(%(datasets)s::text[]) dataset, unnest(%(days)s::date[]) partition_date
                order by dataset, partition_date
            ), token as (
                insert into ops.fences as fence (dataset, partition_date, token) select dataset, partition_date, 1 from wanted
                on conflict (dataset, partition_date) do update set token = fence.token + 1
                returning dataset, partition_date, token
            )
            insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt, actor, code_version, inputs, inputs_digest, known_at)
            select dataset, partition_date, %(load_id)s, token, 'staged', %(run_id)s, %(attempt)s, %(actor)s, %(code)s, %(inputs)s, %(digest)s, %(known_at)s
            from token
            """,
            {
                "datasets": datasets,
                "days": partitions.days,
                "load_id": load_id,
                "run_id": manifest.run.run_id,
                "attempt": manifest.run.attempt,
                "actor": manifest.run.actor,
                "code": code_version(),
                "inputs": json.dumps(dict(manifest.inputs), sort_keys=True),
                "digest": manifest.digest,
                "known_at": manifest.known_at,
            },
        )
    return PartitionWrite(load_id, tuple(targets), partitions)


def audit(conn: Connection, write: PartitionWrite, detail: Mapping[str, Any] | None = None) -> dict[tuple[str, dt.date], int]:
    """Count the staged rows, check their keys, hash their content, and record the verdict; one scan per dataset.

    Args:
        conn: A connection outside of a transaction.
        write: The begun write.
        detail: Kept with each load, for example the gate's verdict.

    Returns:
        Rows by dataset and day; every partition of the range is there.

    Raises:
        AuditError: A partition is empty, or a key is null or not unique. The load is recorded as refused.
    """
    counts: dict[tuple[str, dt.date], int] = {}
    for target in write.targets:
        measured = {row[0]: row[1:] for row in conn.execute(*_audit_query(conn, target, write.load_id))}
        rows = [(day, *measured.get(day, (0, 0, _EMPTY_HASH))) for day in write.partitions.days]
        problems = _problems(target, rows, unexpected=measured.keys() - set(write.partitions.days))
        _record_audit(conn, target, write, rows, "refused" if problems else "audited", detail or {})
        if problems:
            raise AuditError(
                f"Staged rows of {target.dataset} failed the audit: {'; '.join(problems[:5])}.",
                expected=f"rows in each partition of {write.partitions}, unique and not null in {', '.join(target.key)}",
                got=f"{len(problems)} problem(s)",
                todo="Nothing was published. Correct the stage that wrote them and rerun the task.",
            )
        counts |= {(target.dataset, row[0]): row[1] for row in rows}
    return counts


_EMPTY_HASH = sha256(b"0:0:0").hexdigest()


def _audit_query(conn: Connection, target: Target, load_id: int) -> tuple[Any, list[Any]]:
    from psycopg import sql

    columns = conn.execute(
        "select column_name from information_schema.columns where table_schema = %s and table_name = %s order by column_name",
        [target.schema, target.table],
    )
    hashed = [sql.Identifier(name) for (name,) in columns if name not in VOLATILE_COLUMNS]
    key = sql.SQL(", ").join(map(sql.Identifier, target.key))
    query = sql.SQL(
        """
        with hashed as (
            select partition_date, md5(row({hashed})::text) as h, row({key})::text as k, num_nulls({key}) > 0 as has_null_key
            from {table} where load_id = %s
        )
        select partition_date, count(*), count(*) - count(distinct k) filter (where not has_null_key),
            encode(sha256(convert_to(format('%%s:%%s:%%s', count(*),
                sum(('x' || substr(h, 1, 15))::bit(60)::bigint), sum(('x' || substr(h, 17, 15))::bit(60)::bigint)), 'UTF8')), 'hex')
        from hashed group by partition_date
        """
    ).format(hashed=sql.SQL(", ").join(hashed), key=key, table=sql.Identifier(target.schema, target.table))
    return query, [load_id]


def _problems(target: Target, rows: Iterable[tuple[dt.date, int, int, str]], unexpected: Iterable[dt.date]) -> list[str]:
    problems = [f"{day} is outside of the range" for day in sorted(unexpected)]
    for day, n_rows, n_bad_keys, _ in rows:
        if n_rows == 0 and not target.may_be_empty:
            problems.append(f"{day} has no rows")
        if n_bad_keys:
            problems.append(f"{day} has {n_bad_keys} rows with a null or repeated key")
    return problems


def _record_audit(
    conn: Connection, target: Target, write: PartitionWrite, rows: list[tuple[dt.date, int, int, str]], state: str, detail: Mapping[str, Any]
) -> None:
    conn.execute(
        """
        update ops.loads l set state = %s, n_rows = r.n_rows, content_hash = r.content_hash, detail = l.detail || %s
        from unnest(%s::date[], %s::bigint[], %s::text[]) r (partition_date, n_rows, content_hash)
        where l.dataset = %s and l.load_id = %s and l.partition_date = r.partition_date and l.state in ('staged', 'audited')
        """,
        [
            state,
            json.dumps(dict(detail), sort_keys=True, default=str),
            [row[0] for row in rows],
            [row[1] for row in rows],
            [row[3] for row in rows],
            target.dataset,
            write.load_id,
        ],
    )


def refuse(conn: Connection, write: PartitionWrite, reason: str) -> None:
    """Record that a gate refused the staged rows; they can never be published."""
    conn.execute(
        "update ops.loads set state = 'refused', detail = detail || jsonb_build_object('refused', %s::text) where load_id = %s and state in ('staged', 'audited')",
        [reason, write.load_id],
    )


def publish(conn: Connection, write: PartitionWrite) -> list[PublishedLoad]:
    """Flip the pointers of all targets and partitions in one transaction, then read back what readers see.

    A partition whose content equals the published one keeps its pointer. Calling it again after a lost answer is safe.

    Raises:
        StaleTokenError: A newer attempt has taken a partition.
        AuditError: A load has no passed audit.
        ContentConflictError: Same inputs and code, other content: something is not deterministic.
    """
    published_before = _published_loads(conn, write)
    try:
        with conn.transaction():
            _flip(conn, write)
    except conn_lost_errors() as error:
        raise LoadStateError(
            f"The answer to the commit of load {write.load_id} was lost.",
            todo="Rerun the task: it reads back what was published and goes on.",
            code="NS-WRITE-005",
        ) from error
    after = read_back(conn, write)
    return [
        PublishedLoad(load.dataset, load.partition_date, load.load_id, load.n_rows, load.content_hash, load.load_id != published_before.get((load.dataset, load.partition_date)))
        for load in after
    ]


def conn_lost_errors() -> tuple[type[Exception], ...]:
    """Return what psycopg raises when the connection dies."""
    import psycopg

    return (psycopg.OperationalError,)


def _published_loads(conn: Connection, write: PartitionWrite) -> dict[tuple[str, dt.date], int]:
    return {
        (dataset, day): load_id
        for dataset, day, load_id in conn.execute(
            "select dataset, partition_date, load_id from ops.published where dataset = any(%s) and partition_date between %s and %s",
            [[t.dataset for t in write.targets], write.partitions.first.day, write.partitions.last.day],
        )
    }


def _flip(conn: Connection, write: PartitionWrite) -> None:
    _hold_tokens(conn, write)
    states = {state for (state,) in conn.execute("select distinct state from ops.loads where load_id = %s", [write.load_id])}
    if states <= {"published", "duplicate"}:
        return
    if not states <= {"audited"}:
        raise AuditError(
            f"Load {write.load_id} has no passed audit.",
            expected="audited",
            got=", ".join(sorted(states)),
            todo="A missing verdict is a failure. Nothing was published; rerun the task.",
        )
    _refuse_conflicts(conn, write)
    for target in write.targets:
        _flip_target(conn, target, write.load_id)


def _hold_tokens(conn: Connection, write: PartitionWrite) -> None:
    stale = conn.execute(
        """
        with held as (
            select f.dataset, f.partition_date, f.token from ops.fences f join ops.loads l using (dataset, partition_date)
            where l.load_id = %s order by f.dataset, f.partition_date for update of f
        )
        select h.dataset, h.partition_date, l.token, h.token from held h
        join ops.loads l on l.dataset = h.dataset and l.partition_date = h.partition_date and l.load_id = %s where h.token <> l.token
        """,
        [write.load_id, write.load_id],
    ).fetchall()
    if stale:
        dataset, day, mine, newest = stale[0]
        raise StaleTokenError(
            f"A newer attempt owns {dataset} of {day} ({len(stale)} partition(s) of this load).",
            expected=f"token {mine}",
            got=f"token {newest}",
            todo="Nothing: this attempt was superseded and published nothing. The newer one publishes.",
        )


def _refuse_conflicts(conn: Connection, write: PartitionWrite) -> None:
    plain = [target.dataset for target in write.targets if not target.is_versioned]
    conflict = conn.execute(
        """
        select l.dataset, l.partition_date, old.content_hash, l.content_hash
        from ops.loads l join ops.published p using (dataset, partition_date)
        join ops.loads old on old.dataset = p.dataset and old.partition_date = p.partition_date and old.load_id = p.load_id
        where l.load_id = %s and l.dataset = any(%s) and l.inputs_digest = old.inputs_digest and l.content_hash <> old.content_hash limit 1
        """,
        [write.load_id, plain],
    ).fetchone()
    if conflict:
        dataset, day, before, now = conflict
        raise ContentConflictError(
            f"The same inputs and code gave other content for {dataset} of {day}.",
            expected=f"content hash {before}",
            got=f"content hash {now}",
            todo="The published rows stand. Find what is not deterministic before you publish again.",
        )


def _flip_target(conn: Connection, target: Target, load_id: int) -> None:
    """Mark duplicates, then publish the rest; a versioned target leaves the pointer on the latest ``known_at``."""
    parameters = {"dataset": target.dataset, "load_id": load_id}
    conn.execute(_MARK_VERSION_DUPLICATES if target.is_versioned else _MARK_DUPLICATES, parameters)
    conn.execute(_MARK_PUBLISHED, parameters)
    conn.execute(_MOVE_VERSION_POINTER if target.is_versioned else _MOVE_POINTER, parameters)
    conn.execute(_APPEND_LEDGER, parameters)


_MARK_DUPLICATES = """
update ops.loads l set state = 'duplicate' from ops.published p
join ops.loads old on old.dataset = p.dataset and old.partition_date = p.partition_date and old.load_id = p.load_id
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and p.dataset = l.dataset and p.partition_date = l.partition_date
    and old.content_hash = l.content_hash
"""
_MARK_VERSION_DUPLICATES = """
update ops.loads l set state = 'duplicate' where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.content_hash = (
    select v.content_hash from ops.raw_versions v
    where v.dataset = l.dataset and v.partition_date = l.partition_date and v.known_at <= l.known_at
    order by v.known_at desc, v.load_id desc limit 1)
"""
_MARK_PUBLISHED = """
update ops.loads set state = 'published', published_at = clock_timestamp()
where dataset = %(dataset)s and load_id = %(load_id)s and state = 'audited'
"""
_MOVE_POINTER = """
with mine as (
    select dataset, partition_date, load_id, token from ops.loads where dataset = %(dataset)s and load_id = %(load_id)s and state = 'published'
), superseded as (
    update ops.loads l set superseded_at = clock_timestamp() from ops.published p join mine using (dataset, partition_date)
    where l.dataset = p.dataset and l.partition_date = p.partition_date and l.load_id = p.load_id and p.load_id <> mine.load_id
)
insert into ops.published (dataset, partition_date, load_id, token) select dataset, partition_date, load_id, token from mine
on conflict (dataset, partition_date) do update set load_id = excluded.load_id, token = excluded.token, published_at = clock_timestamp()
"""
_MOVE_VERSION_POINTER = """
insert into ops.published (dataset, partition_date, load_id, token)
select distinct on (v.dataset, v.partition_date) v.dataset, v.partition_date, v.load_id, l.token
from ops.raw_versions v join ops.loads l on l.dataset = v.dataset and l.partition_date = v.partition_date and l.load_id = %(load_id)s
where v.dataset = %(dataset)s order by v.dataset, v.partition_date, v.known_at desc, v.load_id desc
on conflict (dataset, partition_date) do update set load_id = excluded.load_id, token = excluded.token, published_at = clock_timestamp()
where published.load_id <> excluded.load_id
"""
_APPEND_LEDGER = """
insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows)
select dataset, partition_date, load_id, state, token, run_id, actor, content_hash, n_rows
from ops.loads where dataset = %(dataset)s and load_id = %(load_id)s order by partition_date
"""


def read_back(conn: Connection, write: PartitionWrite) -> list[PublishedLoad]:
    """Return what readers see now of the write's partitions, as the warehouse says.

    Raises:
        LoadStateError: A partition has no pointer, or the load is not recorded as published: the write did not take place.
    """
    rows = conn.execute(
        """
        select p.dataset, p.partition_date, p.load_id, l.n_rows, l.content_hash, mine.state
        from ops.loads mine join ops.published p using (dataset, partition_date)
        join ops.loads l on l.dataset = p.dataset and l.partition_date = p.partition_date and l.load_id = p.load_id
        where mine.load_id = %s order by p.dataset, p.partition_date
        """,
        [write.load_id],
    ).fetchall()
    wanted = len(write.targets) * len(write.partitions)
    done = [row for row in rows if row[5] in ("published", "duplicate")]
    if len(done) < wanted:
        raise LoadStateError(
            f"Load {write.load_id} did not become visible.",
            expected=f"{wanted} published partitions",
            got=f"{len(done)}",
            todo="Rerun the task; if it stays so, read ops.loads of this load.",
        )
    return [PublishedLoad(*row[:5], is_new=row[2] == write.load_id) for row in done]


def resume(conn: Connection, load_id: int, targets: Sequence[Target], partitions: PartitionRange) -> tuple[PartitionWrite, str]:
    """Return a write that another process began, and the least advanced state of its loads.

    Raises:
        LoadStateError: There is no such load.
    """
    order = ["staged", "audited", "published", "duplicate", "refused", "collected"]
    states = {state for (state,) in conn.execute("select distinct state from ops.loads where load_id = %s", [load_id])}
    if not states:
        raise LoadStateError(f"There is no load {load_id}.", todo="Rerun the task that begins the write.")
    return PartitionWrite(load_id, tuple(targets), partitions), min(states, key=order.index)


def collect(conn: Connection, targets: Sequence[Target]) -> int:
    """Delete staged rows that can never be published: duplicates, refused loads, and attempts whose token is stale.

    Published loads stay: they are the history. Safe at any time, also while an old attempt still writes: what it adds goes with the next call.

    Returns:
        Number of deleted rows.
    """
    from psycopg import sql

    n_deleted = 0
    for target in targets:
        with conn.transaction():
            dead = conn.execute(_DEAD_LOADS, [target.dataset]).fetchall()
            delete = sql.SQL(
                "delete from {} t using unnest(%s::date[], %s::bigint[]) d (partition_date, load_id)"
                " where t.partition_date = d.partition_date and t.load_id = d.load_id"
            ).format(sql.Identifier(target.schema, target.table))
            n_deleted += conn.execute(delete, [[day for day, _ in dead], [load_id for _, load_id in dead]]).rowcount
            conn.execute(
                """
                update ops.loads l set state = 'collected' from unnest(%s::date[], %s::bigint[]) d (partition_date, load_id)
                where l.dataset = %s and l.partition_date = d.partition_date and l.load_id = d.load_id and l.state <> 'duplicate'
                """,
                [[day for day, _ in dead], [load_id for _, load_id in dead], target.dataset],
            )
    return n_deleted


_DEAD_LOADS = """
select l.partition_date, l.load_id from ops.loads l join ops.fences f using (dataset, partition_date)
where l.dataset = %s and (l.state in ('duplicate', 'refused') or (l.state in ('staged', 'audited') and l.token < f.token))
"""


def _scalar(conn: Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101  (a select without from has one row)
    return int(row[0])
