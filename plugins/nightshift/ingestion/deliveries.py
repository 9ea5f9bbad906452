"""What a range of partitions is to be loaded from: what lies in the landing prefix, without what a person withdrew or set aside."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.ingestion.drop_decisions import DropAction, read_decisions, redeliveries
from nightshift.lake.landing import read_landing
from nightshift.quality.contract_errors import BackdatedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.landing import Landing, WrongManifest
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.connection import Connection

Identity = tuple[dt.date, str, dt.datetime]


@dataclass(frozen=True)
class Deliveries:
    """Drops of a range, as ingest takes them.

    Attributes:
        drops: By partition and delivery; of two delivered at the same instant the one with the
            greater digest counts.
        absent: What manifests promise whose files are not there yet.
        wrong: Manifests that describe no drop.
        n_bytes: Size of each data file, by key.
        received_at: When we received each drop, UTC.
        first_received_at: When we received the first version of a partition that is in, UTC.
        ingested: Drops that are in, whatever contract they were read under.
    """

    drops: tuple[DropManifest, ...]
    absent: tuple[DropManifest, ...] = ()
    wrong: tuple[WrongManifest, ...] = ()
    n_bytes: Mapping[str, int] = field(default_factory=dict)
    received_at: Mapping[DropManifest, dt.datetime] = field(default_factory=dict)
    first_received_at: Mapping[dt.date, dt.datetime] = field(default_factory=dict)
    ingested: frozenset[Identity] = frozenset()

    @cached_property
    def newest(self) -> dict[dt.date, DropManifest]:
        """Return the drop of each partition that counts."""
        return {drop.partition: drop for drop in self.drops}

    @property
    def standing_manifests(self) -> list[WrongManifest]:
        """Return the wrong manifests that no good drop has followed: each might be the newest version of its day.

        The store's clock has whole seconds; of two in the same second the good one stands.
        """
        newest: dict[dt.date, dt.datetime] = {}
        for drop in self.drops:
            at = self.received_at[drop]
            newest[drop.partition] = max(at, newest.get(drop.partition, at))
        return [
            one
            for one in self.wrong
            if one.partition not in newest or newest[one.partition] < one.object.received_at
        ]


def identity(drop: DropManifest) -> Identity:
    """Return what a drop is known by: the same content delivered again is another one."""
    return drop.partition, drop.sha256, drop.delivered_at


def read_deliveries(
    conn: Connection, store: ObjectStore, dataset: str, partitions: PartitionRange
) -> Deliveries:
    """Return the drops of a range; one listing per thousand keys, and one small read per drop.

    Args:
        conn: Any connection to the warehouse; nothing is written.
        store: The lake.
        dataset: Name of the contract.
        partitions: Both ends included.
    """
    landing = read_landing(store, dataset, partitions)
    decisions = read_decisions(conn, f"raw/{dataset}", partitions)
    received = _received(conn, store, landing, f"raw/{dataset}", partitions)
    ingested, first_received_at = _ingested(conn, f"raw/{dataset}", partitions)
    withdrawn = {(one.key, one.sha256) for one in decisions if one.action is DropAction.WITHDRAWN}
    aside = {one.key for one in decisions if one.action is DropAction.SET_ASIDE}
    again = redeliveries(sorted(landing.drops, key=_order), decisions, ingested)
    received |= {drop: drop.delivered_at for drop in again}
    taken = [drop for drop in landing.drops if (drop.data_key, drop.sha256) not in withdrawn]
    return Deliveries(
        drops=tuple(sorted({*taken, *again}, key=_order)),
        absent=tuple(
            drop for drop in landing.absent if (drop.data_key, drop.sha256) not in withdrawn
        ),
        wrong=tuple(one for one in landing.wrong if one.object.key not in aside),
        n_bytes={key: listed.n_bytes for key, listed in landing.files.items()},
        received_at=received,
        first_received_at=first_received_at,
        ingested=frozenset(ingested),
    )


def record_received(conn: Connection, store: ObjectStore, deliveries: Deliveries) -> None:
    """Keep when each drop was received; what is kept already stays, whatever the store says now."""
    drops = list(deliveries.received_at)
    conn.execute(
        """
        insert into ops.received_drops (dataset, partition_date, source_uri, source_sha256, known_at, received_at)
        select * from unnest(%s::text[], %s::date[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
        on conflict do nothing
        """,
        [
            [f"raw/{drop.dataset}" for drop in drops],
            [drop.partition for drop in drops],
            [store.uri(drop.data_key) for drop in drops],
            [drop.sha256 for drop in drops],
            [drop.delivered_at for drop in drops],
            [deliveries.received_at[drop] for drop in drops],
        ],
    )


def backdated(
    contract: DatasetContract, deliveries: Deliveries, drops: Iterable[DropManifest]
) -> dict[DropManifest, BackdatedError]:
    """Return the drops that would rewrite what nights of before knew, further back than the contract allows.

    A first delivery may be as old as it likes: nobody knew anything of its partition. Once a
    partition has been known for a while, a drop that was received today is news of today.

    Args:
        contract: Whose bound counts.
        deliveries: The range.
        drops: Which of them.
    """
    if contract.maximum_backdating_days == "unlimited":
        return {}
    most = dt.timedelta(days=contract.maximum_backdating_days)
    found = {}
    for drop in drops:
        received_at = deliveries.received_at[drop]
        first = deliveries.first_received_at.get(drop.partition, received_at)
        is_old = received_at - drop.delivered_at > most and received_at - first > most
        if is_old and identity(drop) not in deliveries.ingested:
            found[drop] = BackdatedError(
                f"{drop.dataset} of {drop.partition} ({drop.data_key}) is dated long before we received it,"
                " and its partition was known already.",
                expected=f"delivered_at at most {contract.maximum_backdating_days} day(s) before {received_at.isoformat()}",
                got=drop.delivered_at.isoformat(),
                todo="Ask upstream who wrote it, and to deliver it with today's time."
                " `maximum_backdating_days` in the contract says what is allowed.",
            )
    return found


def _order(drop: DropManifest) -> tuple[dt.date, dt.datetime, str]:
    return drop.partition, drop.delivered_at, drop.sha256


def _received(
    conn: Connection, store: ObjectStore, landing: Landing, dataset: str, partitions: PartitionRange
) -> dict[DropManifest, dt.datetime]:
    rows = conn.execute(
        """
        select partition_date, source_uri, source_sha256, known_at, received_at from ops.received_drops
        where dataset = %s and partition_date between %s and %s
        """,
        [dataset, partitions.first.day, partitions.last.day],
    )
    kept = {tuple(key): received_at for *key, received_at in rows}
    return {
        drop: kept.get(
            (drop.partition, store.uri(drop.data_key), drop.sha256, drop.delivered_at),
            landing.received_at(drop),
        )
        for drop in landing.drops
    }


def _ingested(
    conn: Connection, dataset: str, partitions: PartitionRange
) -> tuple[set[Identity], dict[dt.date, dt.datetime]]:
    rows = conn.execute(
        """
        select d.partition_date, d.source_sha256, d.known_at, coalesce(r.received_at, l.started_at)
        from raw.ingested_drops d join ops.loads l using (dataset, partition_date, load_id)
        left join ops.received_drops r
            on (r.dataset, r.partition_date, r.source_uri, r.source_sha256, r.known_at)
            = (d.dataset, d.partition_date, d.source_uri, d.source_sha256, d.known_at)
        where d.dataset = %s and d.partition_date between %s and %s and l.state in ('published', 'duplicate')
        """,
        [dataset, partitions.first.day, partitions.last.day],
    ).fetchall()
    first: dict[dt.date, dt.datetime] = {}
    for day, _, _, received_at in rows:
        first[day] = min(received_at, first.get(day, received_at))
    return {(day, digest, known_at) for day, digest, known_at, _ in rows}, first
