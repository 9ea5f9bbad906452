"""The publishing transaction: lock the fencing tokens, refuse bad loads, move the pointers.

This module writes what ``published.join_published`` reads, so its statements name the tables.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from nightshift.errors import AuditError, ContentConflictError, StaleTokenError

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.damage import Damage, PublishedRows
    from nightshift.warehouse.write_types import PartitionWrite, Target

_DONE = {"published", "duplicate"}


def move_pointers(conn: Connection, write: PartitionWrite, published: PublishedRows) -> None:
    """Publish all targets of an audited write within the caller's transaction.

    A write that is published already stays as it is.

    Args:
        conn: A connection in a transaction.
        write: The audited write.
        published: What ``check_published_rows`` returned a moment ago. A load that was published
            since is in none of its lists: this write is then no duplicate of it and replaces it.

    Raises:
        StaleTokenError: A newer attempt has taken a partition.
        AuditError: A load has no passed audit.
        ContentConflictError: Same inputs and code, other content.
    """
    # From here to the end of the transaction nobody can take a token of these partitions: no newer
    # attempt begins between the check of the tokens and the commit.
    stale_tokens = _lock_tokens(conn, write.load_id)
    rows = conn.execute("select distinct state from ops.loads where load_id = %s", [write.load_id])
    states = {state for (state,) in rows}
    if states <= _DONE:
        # The answer to an earlier commit was lost. It also stands if a newer attempt began since.
        return
    _refuse_stale(stale_tokens)
    _refuse_unaudited(write.load_id, states)
    # Damaged loads go first: a load that is no longer published contradicts nothing.
    for damage in published.damages:
        _mark_damaged(conn, write, damage)
    _refuse_conflicts(conn, write)
    for target in write.targets:
        _move_target(conn, target, write.load_id, published)


def _lock_tokens(conn: Connection, load_id: int) -> list[tuple[str, dt.date, int, int]]:
    """Lock the tokens until the transaction ends and return the stale ones.

    Returns:
        Dataset, day, own token and newest token of each partition that has a newer token.
    """
    return conn.execute(
        """
        with held as (
            select f.dataset, f.partition_date, f.token
            from ops.fences f join ops.loads l using (dataset, partition_date)
            where l.load_id = %(load_id)s
            order by f.dataset, f.partition_date
            for update of f
        )
        select held.dataset, held.partition_date, l.token, held.token
        from held join ops.loads l using (dataset, partition_date)
        where l.load_id = %(load_id)s and held.token <> l.token
        order by held.dataset, held.partition_date
        """,
        {"load_id": load_id},
    ).fetchall()


def _refuse_stale(stale_tokens: list[tuple[str, dt.date, int, int]]) -> None:
    if stale_tokens:
        dataset, day, own_token, newest_token = stale_tokens[0]
        raise StaleTokenError(
            f"A newer attempt owns {dataset} of {day}"
            f" ({len(stale_tokens)} partition(s) of this load).",
            expected=f"token {own_token}",
            got=f"token {newest_token}",
            todo="Nothing: this attempt published nothing, the newer one publishes.",
        )


def _refuse_unaudited(load_id: int, states: set[str]) -> None:
    if states != {"audited"}:
        raise AuditError(
            f"Load {load_id} has no passed audit.",
            expected="audited",
            got=", ".join(sorted(states)),
            todo="A missing verdict is a failure. Nothing was published; rerun the task.",
        )


def _mark_damaged(conn: Connection, write: PartitionWrite, damage: Damage) -> None:
    """Remove a damaged load from the history that people read; its rows stay as evidence."""
    conn.execute(
        """
        with damaged as (
            update ops.loads
            set state = 'damaged',
                superseded_at = coalesce(superseded_at, clock_timestamp()),
                detail = detail || jsonb_build_object('damaged', %(what)s::text)
            where dataset = %(dataset)s and partition_date = %(day)s and load_id = %(damaged_load)s
                and state = 'published'
            returning dataset, partition_date, load_id, token, content_hash, n_rows
        )
        insert into ops.ledger (
            dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows,
            reason
        )
        select
            d.dataset, d.partition_date, d.load_id, 'damaged', d.token, mine.run_id, mine.actor,
            d.content_hash, d.n_rows, %(what)s::text
        from damaged d
        join ops.loads mine using (dataset, partition_date)
        where mine.load_id = %(load_id)s
        """,
        {
            "dataset": damage.dataset,
            "day": damage.partition_date,
            "damaged_load": damage.load_id,
            "what": damage.what,
            "load_id": write.load_id,
        },
    )


def _refuse_conflicts(conn: Connection, write: PartitionWrite) -> None:
    """Refuse other content from equal inputs, unless the older load proves nothing.

    It proves nothing when a person has voided it, or when rows that it may have read turned out to
    be damaged later: its inputs were then not what their digests stand for.
    """
    conflict = conn.execute(
        """
        select l.dataset, l.partition_date, old.content_hash, l.content_hash
        from ops.loads l join ops.loads old using (dataset, partition_date, inputs_digest)
        where l.load_id = %s and old.state in ('published', 'duplicate')
            and l.content_hash <> old.content_hash
            and not exists (
                select from ops.ledger g
                where (g.dataset, g.partition_date, g.load_id)
                        = (old.dataset, old.partition_date, old.load_id)
                    and g.event = 'voided'
            )
            and not exists (
                select
                from jsonb_each_text(l.detail -> 'reads') r (dataset, n_days)
                join ops.ledger g on g.dataset = r.dataset
                    and g.partition_date
                        between l.partition_date - r.n_days::int and l.partition_date
                where g.event = 'damaged' and g.load_id < old.load_id and g.at > old.started_at
            )
        order by l.dataset, l.partition_date
        limit 1
        """,
        [write.load_id],
    ).fetchone()
    if conflict:
        dataset, day, old_hash, new_hash = conflict
        raise ContentConflictError(
            f"The same inputs and code gave other content for {dataset} of {day}.",
            expected=f"content hash {old_hash}",
            got=f"content hash {new_hash}",
            todo="The published rows stay. Find what is not deterministic. If the inputs of the"
            f' older load were damaged: `nightshift void {dataset} {day} --reason "…"`.',
        )


def _move_target(conn: Connection, target: Target, load_id: int, published: PublishedRows) -> None:
    """Mark duplicates, publish the other partitions, move their pointers, and append the ledger."""
    intact = published.intact[target.dataset]
    repairs = published.repairs[target.dataset]
    parameters = {
        "dataset": target.dataset,
        "load_id": load_id,
        "intact_days": [day for day, _ in intact],
        "intact_loads": [intact_load for _, intact_load in intact],
        "repaired_days": list(repairs),
        "reasons": list(repairs.values()),
    }
    if target.is_versioned:
        statements = (_MARK_PUBLISHED, _SETTLE_VERSIONS, _MOVE_VERSION_POINTER, _APPEND_LEDGER)
    else:
        statements = (_MARK_DUPLICATES, _MARK_PUBLISHED, _MOVE_POINTER, _APPEND_LEDGER)
    for statement in statements:
        conn.execute(statement, parameters)


# A duplicate keeps the pointer on the older rows, so those must still be what was published.
_MARK_DUPLICATES = """
update ops.loads l
set state = 'duplicate'
from ops.published p
join ops.loads old using (dataset, partition_date, load_id)
where l.dataset = %(dataset)s and l.load_id = %(load_id)s
    and p.dataset = l.dataset and p.partition_date = l.partition_date
    and old.content_hash = l.content_hash
    and (p.partition_date, p.load_id) in (
        select * from unnest(%(intact_days)s::date[], %(intact_loads)s::bigint[])
    )
"""
# A clock that is set back must not end a load before it began: within a partition, times of
# publication never fall.
_MARK_PUBLISHED = """
update ops.loads l
set state = 'published',
    published_at = greatest(clock_timestamp(), (
        select p.published_at from ops.published p
        where p.dataset = l.dataset and p.partition_date = l.partition_date
    ))
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.state = 'audited'
"""
_MOVE_POINTER = """
with mine as (
    select dataset, partition_date, load_id, token, published_at from ops.loads
    where dataset = %(dataset)s and load_id = %(load_id)s and state = 'published'
), superseded as (
    update ops.loads l
    set superseded_at = mine.published_at
    from mine
    where l.dataset = mine.dataset and l.partition_date = mine.partition_date
        and l.load_id <> mine.load_id and l.state = 'published' and l.superseded_at is null
)
insert into ops.published (dataset, partition_date, load_id, token, published_at)
select dataset, partition_date, load_id, token, published_at from mine
on conflict (dataset, partition_date) do update
set load_id = excluded.load_id, token = excluded.token, published_at = excluded.published_at
"""
# Every delivery of the partitions is compared again with the one before it: one that arrives late
# may come between two. A delivery that was read again under another contract counts as it was read
# last.
_SETTLE_VERSIONS = """
with readings as (
    select
        l.dataset, l.partition_date, l.load_id, l.state, l.known_at, d.source_sha256,
        l.content_hash, coalesce(d.source_sha256, l.load_id::text) as source
    from ops.loads l left join raw.ingested_drops d using (dataset, partition_date, load_id)
    where l.dataset = %(dataset)s and l.state in ('published', 'duplicate')
        and l.collected_at is null
        and l.partition_date in (
            select partition_date from ops.loads
            where dataset = %(dataset)s and load_id = %(load_id)s
        )
), latest as (
    select
        *,
        first_value(content_hash) over (
            partition by partition_date, known_at, source order by load_id desc
        ) as latest_hash
    from readings
), delivered as (
    select
        *,
        coalesce(
            max(load_id) filter (where content_hash is distinct from latest_hash)
                over (partition by partition_date, known_at, source),
            0
        ) as last_other_reading
    from latest
), compared as (
    select
        *,
        content_hash is not distinct from lag(content_hash) over chain
            and (
                last_other_reading = 0
                or (known_at, source) = (lag(known_at) over chain, lag(source) over chain)
            ) as says_nothing_new
    from delivered
    where load_id > last_other_reading
    window chain as (
        partition by partition_date order by known_at, source_sha256 collate "C", load_id
    )
), settled as (
    update ops.loads l
    set state = case when c.says_nothing_new then 'duplicate' else 'published' end,
        published_at = case
            when c.says_nothing_new then l.published_at
            else coalesce(l.published_at, clock_timestamp())
        end
    from compared c
    where l.dataset = c.dataset and l.partition_date = c.partition_date and l.load_id = c.load_id
        and (l.state = 'duplicate') <> c.says_nothing_new
    returning l.dataset, l.partition_date, l.load_id, l.state, l.token, l.content_hash, l.n_rows
)
insert into ops.ledger (
    dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows
)
select
    s.dataset, s.partition_date, s.load_id, s.state, s.token, mine.run_id, mine.actor,
    s.content_hash, s.n_rows
from settled s
join ops.loads mine on mine.dataset = s.dataset and mine.partition_date = s.partition_date
    and mine.load_id = %(load_id)s
where s.load_id <> %(load_id)s
order by s.partition_date, s.load_id
"""
# The pointer of raw data goes to the newest delivery, which need not be of this write: a version
# that came late is published without becoming the visible one.
_MOVE_VERSION_POINTER = """
insert into ops.published (dataset, partition_date, load_id, token)
select v.dataset, v.partition_date, v.load_id, l.token
from ops.raw_versions v
join ops.loads l on l.dataset = v.dataset and l.partition_date = v.partition_date
    and l.load_id = %(load_id)s
where v.dataset = %(dataset)s and v.superseded_at is null
order by v.partition_date
on conflict (dataset, partition_date) do update
set load_id = excluded.load_id,
    token = excluded.token,
    published_at = greatest(clock_timestamp(), published.published_at)
where published.load_id <> excluded.load_id
"""
# Every load of the write gets an event, duplicates too: a rerun that changed nothing is on record.
_APPEND_LEDGER = """
insert into ops.ledger (
    dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows, reason
)
select
    l.dataset, l.partition_date, l.load_id, l.state, l.token, l.run_id, l.actor, l.content_hash,
    l.n_rows, r.reason
from ops.loads l
left join unnest(%(repaired_days)s::date[], %(reasons)s::text[]) r (partition_date, reason)
    using (partition_date)
where l.dataset = %(dataset)s and l.load_id = %(load_id)s
order by l.partition_date
"""
