"""The publishing transaction: hold the fencing tokens, refuse what must not be seen, move the pointer."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.errors import AuditError, ContentConflictError, StaleTokenError
from nightshift.warehouse.content_hash import LoadKey
from nightshift.warehouse.damage import Damage, LoadRecord, find_damage

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.write_types import PartitionWrite, Target

logger = logging.getLogger(__name__)

_DONE = {"published", "duplicate"}
READS = "reads"
"""In a load's ``detail``: ``LoadManifest.reads``."""


@dataclass(frozen=True)
class PublishedRows:
    """What became of the published rows that a write is compared with.

    Attributes:
        intact: By dataset, the partitions of loads whose rows are what was published.
        damages: The partitions of loads whose rows are not.
        reasons: Why a partition is a repair, by dataset and day.
    """

    intact: Mapping[str, Sequence[LoadKey]] = field(default_factory=dict)
    damages: Sequence[Damage] = ()
    reasons: Mapping[tuple[str, dt.date], str] = field(default_factory=dict)


def look_at_published(conn: Connection, write: PartitionWrite) -> PublishedRows:
    """Hash the published rows again that this write would count as a duplicate of, or be in conflict with.

    An ordinary night has neither, so nothing is scanned; a rerun costs one more scan of its
    partitions.
    """
    intact: dict[str, list[LoadKey]] = {}
    damages: list[Damage] = []
    reasons: dict[tuple[str, dt.date], str] = {}
    for target in write.targets:
        rows = conn.execute(
            _COMPARED,
            {
                "dataset": target.dataset,
                "load_id": write.load_id,
                "is_versioned": target.is_versioned,
            },
        )
        records = [LoadRecord(*row) for row in rows]
        found = find_damage(conn, target, records)
        damaged = {(damage.partition_date, damage.load_id) for damage in found}
        intact[target.dataset] = [
            key
            for key in ((record.partition_date, record.load_id) for record in records)
            if key not in damaged
        ]
        damages += found
        lost = conn.execute(
            _LOST_POINTERS, {"dataset": target.dataset, "load_id": write.load_id}
        ).fetchall()
        reasons |= {(target.dataset, day): "repairs a pointer that was lost" for (day,) in lost}
    for damage in damages:
        reason = f"repairs load {damage.load_id}: {damage.what}"
        reasons[damage.dataset, damage.partition_date] = reason
        logger.warning(
            "%s of %s is published again, it %s", damage.dataset, damage.partition_date, reason
        )
    return PublishedRows(intact, damages, reasons)


_COMPARED = """
select l.partition_date, old.load_id, old.n_rows, old.content_hash
from ops.loads l join ops.loads old using (dataset, partition_date)
left join ops.published p using (dataset, partition_date)
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.state = 'audited'
    and old.load_id <> l.load_id and old.state = 'published' and old.collected_at is null
    and (
        (old.content_hash = l.content_hash and (%(is_versioned)s or old.load_id = p.load_id))
        or (%(is_versioned)s and old.known_at = l.known_at)
        or (old.content_hash <> l.content_hash and old.inputs_digest = l.inputs_digest)
    )
order by l.partition_date, old.load_id
"""
"""Of raw data every version of the same content counts, since it may make this one say nothing
new, and every reading of this delivery.
"""
_LOST_POINTERS = """
select l.partition_date from ops.loads l
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.state = 'audited'
    and not exists (
        select from ops.published p where p.dataset = l.dataset and p.partition_date = l.partition_date)
    and exists (
        select from ops.loads old where old.dataset = l.dataset and old.partition_date = l.partition_date
            and old.state = 'published')
"""


def flip(conn: Connection, write: PartitionWrite, published: PublishedRows) -> None:
    """Publish all targets of an audited write within the caller's transaction; a write that is published already stays as it is.

    Args:
        conn: A connection in a transaction.
        write: The audited write.
        published: What ``look_at_published`` found a moment ago. A load that became published since
            is in neither list: then the write is no duplicate of it, and is published beside it.

    Raises:
        StaleTokenError: A newer attempt has taken a partition.
        AuditError: A load has no passed audit.
        ContentConflictError: Same inputs and code, other content.
    """
    stale = _hold_tokens(conn, write.load_id)
    states = {
        state
        for (state,) in conn.execute(
            "select distinct state from ops.loads where load_id = %s", [write.load_id]
        )
    }
    if states <= _DONE:
        return
    _refuse_stale(stale)
    _refuse_unaudited(write.load_id, states)
    _set_aside(conn, write, published.damages)
    _refuse_conflicts(conn, write)
    for target in write.targets:
        _flip_target(conn, target, write.load_id, published)


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


def _set_aside(conn: Connection, write: PartitionWrite, damages: Sequence[Damage]) -> None:
    """Take damaged loads out of the history that people read, and record what was found; their rows stay as evidence."""
    for damage in damages:
        conn.execute(
            _SET_ASIDE,
            {
                "dataset": damage.dataset,
                "day": damage.partition_date,
                "damaged": damage.load_id,
                "what": damage.what,
                "load_id": write.load_id,
            },
        )


_SET_ASIDE = """
with aside as (
    update ops.loads set state = 'damaged', superseded_at = coalesce(superseded_at, clock_timestamp()),
        detail = detail || jsonb_build_object('damaged', %(what)s::text)
    where dataset = %(dataset)s and partition_date = %(day)s and load_id = %(damaged)s and state = 'published'
    returning dataset, partition_date, load_id, token, content_hash, n_rows
)
insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows, reason)
select a.dataset, a.partition_date, a.load_id, 'damaged', a.token, mine.run_id, mine.actor, a.content_hash, a.n_rows, %(what)s::text
from aside a join ops.loads mine
    on mine.dataset = a.dataset and mine.partition_date = a.partition_date and mine.load_id = %(load_id)s
"""


def _refuse_conflicts(conn: Connection, write: PartitionWrite) -> None:
    """Refuse other content from equal inputs, unless the older load is known to prove nothing.

    That is so when a person has voided it, or when rows that it may have read were found damaged
    later: its inputs were then not what their digests say.
    """
    conflict = conn.execute(
        """
        select l.dataset, l.partition_date, old.content_hash, l.content_hash
        from ops.loads l join ops.loads old using (dataset, partition_date, inputs_digest)
        where l.load_id = %s and old.state in ('published', 'duplicate') and l.content_hash <> old.content_hash
            and not exists (
                select from ops.ledger g where g.dataset = old.dataset and g.partition_date = old.partition_date
                    and g.load_id = old.load_id and g.event = 'voided')
            and not exists (
                select from jsonb_each_text(l.detail -> 'reads') r (dataset, n_days) join ops.ledger g on g.dataset = r.dataset
                    and g.partition_date between l.partition_date - r.n_days::int and l.partition_date
                where g.event = 'damaged' and g.load_id < old.load_id and g.at > old.started_at)
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
            todo="The published rows stand. Find what is not deterministic, or that its inputs were damaged: then `nightshift void`.",
        )


def _flip_target(conn: Connection, target: Target, load_id: int, published: PublishedRows) -> None:
    """Mark duplicates, publish the rest, move the pointer, and record it."""
    intact = published.intact.get(target.dataset, ())
    reasons = {
        day: reason
        for (dataset, day), reason in published.reasons.items()
        if dataset == target.dataset
    }
    parameters = {
        "dataset": target.dataset,
        "load_id": load_id,
        "intact_days": [day for day, _ in intact],
        "intact_loads": [intact_load for _, intact_load in intact],
        "repaired_days": list(reasons),
        "reasons": list(reasons.values()),
    }
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
    and (p.partition_date, p.load_id) in (select * from unnest(%(intact_days)s::date[], %(intact_loads)s::bigint[]))
"""
_MARK_PUBLISHED = """
update ops.loads l set state = 'published', published_at = greatest(clock_timestamp(), (
    select p.published_at from ops.published p where p.dataset = l.dataset and p.partition_date = l.partition_date))
where l.dataset = %(dataset)s and l.load_id = %(load_id)s and l.state = 'audited'
"""
"""A clock that is set back must not end a load before it began: within a partition, times of
publication never fall.
"""
_MOVE_POINTER = """
with mine as (
    select dataset, partition_date, load_id, token, published_at from ops.loads
    where dataset = %(dataset)s and load_id = %(load_id)s and state = 'published'
), superseded as (
    update ops.loads l set superseded_at = mine.published_at from mine
    where l.dataset = mine.dataset and l.partition_date = mine.partition_date and l.load_id <> mine.load_id
        and l.state = 'published' and l.superseded_at is null
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
"""Let every delivery of the partitions say again whether it differs from the one before it: one
that arrives late may come between two. A delivery that was read again under another contract
counts as it was read last.
"""
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
insert into ops.ledger (dataset, partition_date, load_id, event, token, run_id, actor, content_hash, n_rows, reason)
select l.dataset, l.partition_date, l.load_id, l.state, l.token, l.run_id, l.actor, l.content_hash, l.n_rows, r.reason
from ops.loads l left join unnest(%(repaired_days)s::date[], %(reasons)s::text[]) r (partition_date, reason) using (partition_date)
where l.dataset = %(dataset)s and l.load_id = %(load_id)s order by l.partition_date
"""
