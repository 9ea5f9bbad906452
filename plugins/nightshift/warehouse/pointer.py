"""The publishing transaction: hold the fencing tokens, refuse what must not be seen, move the pointer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.errors import AuditError, ContentConflictError, StaleTokenError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.load import PartitionWrite, Target

_DONE = {"published", "duplicate"}


def flip(conn: Connection, write: PartitionWrite) -> None:
    """Publish all targets of an audited write within the caller's transaction; a write that is published already stays as it is.

    Raises:
        StaleTokenError: A newer attempt has taken a partition.
        AuditError: A load has no passed audit.
        ContentConflictError: Same inputs and code, other content.
    """
    stale = _hold_tokens(conn, write.load_id)
    states = {state for (state,) in conn.execute("select distinct state from ops.loads where load_id = %s", [write.load_id])}
    if states <= _DONE:
        return
    _refuse_stale(stale)
    _refuse_unaudited(write.load_id, states)
    _refuse_conflicts(conn, write)
    for target in write.targets:
        _flip_target(conn, target, write.load_id)


def _hold_tokens(conn: Connection, load_id: int) -> list[tuple[str, str, int, int]]:
    """Lock the tokens until the transaction ends; return (dataset, partition_date, own token, newest token) where a newer one exists."""
    return conn.execute(
        """
        with held as (
            select f.dataset, f.partition_date, f.token from ops.fences f join ops.loads l using (dataset, partition_date)
            where l.load_id = %(load_id)s order by f.dataset, f.partition_date for update of f
        )
        select held.dataset, held.partition_date, l.token, held.token from held join ops.loads l using (dataset, partition_date)
        where l.load_id = %(load_id)s and held.token <> l.token order by held.dataset, held.partition_date
        """,
        {"load_id": load_id},
    ).fetchall()


def _refuse_stale(stale: list[tuple[str, str, int, int]]) -> None:
    if stale:
        dataset, day, mine, newest = stale[0]
        raise StaleTokenError(
            f"A newer attempt owns {dataset} of {day} ({len(stale)} partition(s) of this load).",
            expected=f"token {mine}",
            got=f"token {newest}",
            todo="Nothing: this attempt was superseded and published nothing. The newer one publishes.",
        )


def _refuse_unaudited(load_id: int, states: set[str]) -> None:
    if states != {"audited"}:
        raise AuditError(
            f"Load {load_id} has no passed audit.",
            expected="audited",
            got=", ".join(sorted(states)),
            todo="A missing verdict is a failure. Nothing was published; rerun the task.",
        )


def _refuse_conflicts(conn: Connection, write: PartitionWrite) -> None:
    conflict = conn.execute(
        """
        select l.dataset, l.partition_date, old.content_hash, l.content_hash
        from ops.loads l join ops.loads old using (dataset, partition_date, inputs_digest)
        where l.load_id = %s and old.state in ('published', 'duplicate') and l.content_hash <> old.content_hash
        order by l.dataset, l.partition_date limit 1
        """,
        [write.load_id],
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
    """Mark duplicates, publish the rest, move the pointer, and record it."""
    parameters = {"dataset": target.dataset, "load_id": load_id}
    if target.is_versioned:
        conn.execute(_MARK_PUBLISHED, parameters)
        conn.execute(_SETTLE_VERSIONS, parameters)
        conn.execute(_MOVE_VERSION_POINTER, parameters)
    else:
        conn.execute(_MARK_DUPLICATES, parameters)
        conn.execute(_MARK_PUBLISHED, parameters)
        conn.execute(_MOVE_POINTER, parameters)
    conn.execute(_APPEND_LEDGER, parameters)


_MARK_DUPLICATES = """
update ops.loads l set state = 'duplicate' from ops.published p
join ops.loads old on old.dataset = p.dataset and old.partition_date = p.partition_date and old.load_id = p.load_id
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and p.dataset = l.dataset and p.partition_date = l.partition_date
    and old.content_hash = l.content_hash
"""
_MARK_PUBLISHED = """
update ops.loads l set state = 'published', published_at = greatest(clock_timestamp(), (
    select p.published_at from ops.published p where p.dataset = l.dataset and p.partition_date = l.partition_date))
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.state = 'audited'
"""
"""A clock that is set back must not end a load before it began: within a partition, times of publication never fall."""
_MOVE_POINTER = """
with mine as (
    select dataset, partition_date, load_id, token, published_at from ops.loads
    where dataset = %(dataset)s and load_id = %(load_id)s and state = 'published'
), superseded as (
    update ops.loads l set superseded_at = mine.published_at from ops.published p join mine using (dataset, partition_date)
    where l.dataset = p.dataset and l.partition_date = p.partition_date and l.load_id = p.load_id and p.load_id <> mine.load_id
)
insert into ops.published (dataset, partition_date, load_id, token, published_at)
select dataset, partition_date, load_id, token, published_at from mine
on conflict (dataset, partition_date) do update
set load_id = excluded.load_id, token = excluded.token, published_at = excluded.published_at
"""
_SETTLE_VERSIONS = """
with readings as (
    select l.dataset, l.partition_date, l.load_id, l.state, l.known_at, d.source_sha256, l.content_hash,
        coalesce(d.source_sha256, l.load_id::text) as source
    from ops.loads l left join raw.ingested_drops d using (dataset, partition_date, load_id)
    where l.dataset = %(dataset)s and l.state in ('published', 'duplicate') and l.collected_at is null
        and l.partition_date in (select partition_date from ops.loads where dataset = %(dataset)s and load_id = %(load_id)s)
), latest as (
    select *, first_value(content_hash) over (partition by partition_date, known_at, source order by load_id desc) as latest_hash
    from readings
), delivered as (
    select *, coalesce(max(load_id) filter (where content_hash is distinct from latest_hash)
        over (partition by partition_date, known_at, source), 0) as last_other_reading
    from latest
), compared as (
    select *, content_hash is not distinct from lag(content_hash) over chain
        and (last_other_reading = 0 or (known_at, source) = (lag(known_at) over chain, lag(source) over chain)) as says_nothing_new
    from delivered where load_id > last_other_reading
    window chain as (partition by partition_date order by known_at, source_sha256 collate "C", load_id)
), settled as (
    update ops.loads l
    set state = case when c.says_nothing_new then 'duplicate' else 'published' end,
        published_at = case when c.says_nothing_new then l.published_at else coalesce(l.published_at, clock_timestamp()) end
    from compared c
    where l.dataset = c.dataset and l.partition_date = c.partition_date and l.load_id = c.load_id
        and (l.state = 'duplicate') <> c.says_nothing_new
    returning l.dataset, l.partition_date, l.load_id, l.state, l.token, l.content_hash, l.n_rows
)
insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows)
select s.dataset, s.partition_date, s.load_id, s.state, s.token, mine.run_id, mine.actor, s.content_hash, s.n_rows
from settled s join ops.loads mine on mine.dataset = s.dataset and mine.partition_date = s.partition_date and mine.load_id = %(load_id)s
where s.load_id <> %(load_id)s order by s.partition_date, s.load_id
"""
"""Let every delivery of the partitions say again whether it differs from the one before it: one that arrives late may come between two.
A delivery that was read again under another contract counts as it was read last."""
_MOVE_VERSION_POINTER = """
insert into ops.published (dataset, partition_date, load_id, token)
select v.dataset, v.partition_date, v.load_id, l.token
from ops.raw_versions v join ops.loads l on l.dataset = v.dataset and l.partition_date = v.partition_date and l.load_id = %(load_id)s
where v.dataset = %(dataset)s and v.superseded_at is null order by v.partition_date
on conflict (dataset, partition_date) do update
set load_id = excluded.load_id, token = excluded.token, published_at = greatest(clock_timestamp(), published.published_at)
where published.load_id <> excluded.load_id
"""
_APPEND_LEDGER = """
insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows)
select dataset, partition_date, load_id, state, token, run_id, actor, content_hash, n_rows
from ops.loads where dataset = %(dataset)s and load_id = %(load_id)s order by partition_date
"""
