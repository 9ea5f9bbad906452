"""The drops of a range of partitions, without those that a person withdrew or set aside."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.ingestion.drop_decisions import DropAction, DropDecision, read_decisions
from nightshift.lake.landing import Landing, WrongManifest, read_landing
from nightshift.quality.contract_errors import BackdatedError, describe_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.object_store import ObjectStore
    from nightshift.warehouse.connection import Connection

Identity = tuple[dt.date, str, dt.datetime]


@dataclass(frozen=True)
class Deliveries:
    """Drops of a range, as ingest takes them.

    Attributes:
        drops: By partition and delivery; of two delivered at the same instant the one with the
            greater digest counts.
        absent: Drops of manifests whose data files have not arrived yet.
        wrong: Manifests that describe no drop.
        n_bytes: Size of each data file, by key.
        received_at: When we received each drop, UTC.
        ingested: Drops that are in, whatever contract they were read under, and when the first of
            them was received, UTC.
    """

    drops: tuple[DropManifest, ...]
    absent: tuple[DropManifest, ...]
    wrong: tuple[WrongManifest, ...]
    n_bytes: Mapping[str, int]
    received_at: Mapping[DropManifest, dt.datetime]
    ingested: Mapping[Identity, dt.datetime]

    @cached_property
    def newest(self) -> dict[dt.date, DropManifest]:
        """Return the drop of each partition that counts."""
        return {drop.partition: drop for drop in self.drops}

    @property
    def standing_manifests(self) -> list[WrongManifest]:
        """Return the wrong manifests after which no good drop of their partition came.

        Each might be the newest version of its day. The store's clock has whole seconds; of two in
        the same second the good one counts.
        """
        newest: dict[dt.date, dt.datetime] = {}
        for drop in self.drops:
            received_at = self.received_at[drop]
            newest[drop.partition] = max(received_at, newest.get(drop.partition, received_at))
        standing = []
        for wrong in self.wrong:
            last_good = newest.get(wrong.partition)
            if last_good is None or last_good < wrong.object.received_at:
                standing.append(wrong)
        return standing


def identity(drop: DropManifest) -> Identity:
    """Return the identity of a drop: the same content delivered again is another drop."""
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
    name = f"raw/{dataset}"
    landing = read_landing(store, dataset, partitions)
    decisions = read_decisions(conn, name, partitions)
    received_at = _read_received(conn, store, landing, name, partitions)
    ingested = read_ingested(conn, name, partitions)

    withdrawals = [decision for decision in decisions if decision.action is DropAction.WITHDRAWN]
    withdrawn = {(decision.key, decision.sha256) for decision in withdrawals}
    set_aside = {decision.key for decision in decisions if decision.action is DropAction.SET_ASIDE}
    standing = [drop for drop in landing.drops if _object_of(drop) not in withdrawn]

    # Withdrawn drops are among these: what they replaced is known from their order.
    ordered = sorted(landing.drops, key=_order)
    successors = _successors(ordered, withdrawals, ingested)
    received_at |= {drop: drop.delivered_at for drop in successors}
    drops = sorted({*standing, *successors}, key=_order)
    absent = [drop for drop in landing.absent if _object_of(drop) not in withdrawn]
    wrong = [manifest for manifest in landing.wrong if manifest.object.key not in set_aside]
    return Deliveries(
        drops=tuple(drops),
        absent=tuple(absent),
        wrong=tuple(wrong),
        n_bytes={key: listed.n_bytes for key, listed in landing.files.items()},
        received_at=received_at,
        ingested=ingested,
    )


def read_ingested(
    conn: Connection, dataset: str, partitions: PartitionRange, contract_digest: str | None = None
) -> dict[Identity, dt.datetime]:
    """Return the drops of a range that are in, and when each was received first, UTC.

    Args:
        conn: Any connection.
        dataset: Name in the ledger, ``raw/<name>``.
        partitions: Both ends included.
        contract_digest: Only what was read under this contract; None takes any.
    """
    # By state and not by pointer: a drop is in although a newer one has replaced it.
    rows = conn.execute(
        """
        select d.partition_date, d.source_sha256, d.known_at,
            min(coalesce(r.received_at, l.started_at))
        from raw.ingested_drops d join ops.loads l using (dataset, partition_date, load_id)
        left join ops.received_drops r
            on (r.dataset, r.partition_date, r.source_uri, r.source_sha256, r.known_at)
            = (d.dataset, d.partition_date, d.source_uri, d.source_sha256, d.known_at)
        where d.dataset = %s and d.partition_date between %s and %s
            and l.state in ('published', 'duplicate') and coalesce(d.contract_digest = %s, true)
        group by d.partition_date, d.source_sha256, d.known_at
        """,
        [dataset, partitions.first.day, partitions.last.day, contract_digest],
    )
    return {(day, digest, known_at): received_at for day, digest, known_at, received_at in rows}


def record_received(conn: Connection, store: ObjectStore, deliveries: Deliveries) -> None:
    """Record when each drop was received; an earlier record stays, whatever the store reports."""
    drops = list(deliveries.received_at)
    # Nothing is overwritten: a manifest that is written again was still received when it first was.
    conn.execute(
        """
        insert into ops.received_drops (
            dataset, partition_date, source_uri, source_sha256, known_at, received_at
        )
        select * from unnest(
            %s::text[], %s::date[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]
        )
        on conflict do nothing
        """,
        [
            [f"raw/{drop.dataset}" for drop in drops],
            [drop.partition for drop in drops],
            [store.uri(drop.data_key) for drop in drops],
            [drop.sha256 for drop in drops],
            [drop.delivered_at for drop in drops],
            list(deliveries.received_at.values()),
        ],
    )


def find_backdated(
    contract: DatasetContract, deliveries: Deliveries, drops: Iterable[DropManifest]
) -> dict[DropManifest, BackdatedError]:
    """Return the drops that would rewrite earlier knowledge further back than the contract allows.

    A first delivery may be as old as it likes: nobody knew anything of its partition. Once a
    partition has been known for a while, a drop that was received today is news of today.

    Args:
        contract: Its bound ``maximum_backdating_days``.
        deliveries: The range.
        drops: The drops to check.
    """
    if contract.maximum_backdating_days == "unlimited":
        return {}
    bound = dt.timedelta(days=contract.maximum_backdating_days)
    first_received: dict[dt.date, dt.datetime] = {}
    for (day, _, _), received_at in deliveries.ingested.items():
        first_received[day] = min(received_at, first_received.get(day, received_at))
    errors = {}
    for drop in drops:
        received_at = deliveries.received_at[drop]
        known_since = first_received.get(drop.partition, received_at)
        is_old = received_at - drop.delivered_at > bound
        was_known = received_at - known_since > bound
        # A drop that is in was accepted before, so it may be read again.
        if is_old and was_known and identity(drop) not in deliveries.ingested:
            errors[drop] = BackdatedError(
                f"{describe_file(drop)} is dated long before we received it, and its partition"
                " was known already.",
                expected=f"delivered_at at most {contract.maximum_backdating_days} day(s) before"
                f" {received_at.isoformat()}",
                got=drop.delivered_at.isoformat(),
                todo="Ask upstream who wrote it, and to deliver it with today's time."
                " `maximum_backdating_days` in the contract sets the bound.",
            )
    return errors


def _order(drop: DropManifest) -> tuple[dt.date, dt.datetime, str]:
    return drop.partition, drop.delivered_at, drop.sha256


def _object_of(drop: DropManifest) -> tuple[str, str]:
    return drop.data_key, drop.sha256


def _read_received(
    conn: Connection, store: ObjectStore, landing: Landing, dataset: str, partitions: PartitionRange
) -> dict[DropManifest, dt.datetime]:
    """Return when each drop was received: the first record, else what the store reports."""
    rows = conn.execute(
        """
        select partition_date, source_uri, source_sha256, known_at, received_at
        from ops.received_drops where dataset = %s and partition_date between %s and %s
        """,
        [dataset, partitions.first.day, partitions.last.day],
    )
    recorded = {tuple(key): received_at for *key, received_at in rows}
    received = {}
    # The record comes first: the store gives a manifest that is written again a new time.
    for drop in landing.drops:
        key = (drop.partition, store.uri(drop.data_key), drop.sha256, drop.delivered_at)
        received[drop] = recorded.get(key) or landing.received_at(drop)
    return received


def _successors(
    drops: Sequence[DropManifest],
    withdrawals: Sequence[DropDecision],
    ingested: Collection[Identity],
) -> list[DropManifest]:
    """Return the next best drop for each withdrawal, as delivered when it was withdrawn.

    What a withdrawn drop contained stays what we knew until then. Only a drop that is in and was
    the newest then has a successor: what nobody read needs none.

    Args:
        drops: All drops of the range in order, withdrawn ones too.
        withdrawals: Withdrawals of the range in order.
        ingested: Drops that are in.
    """
    gone: set[tuple[str, str]] = set()
    successors = []
    for decision in withdrawals:
        withdrawn = (decision.key, decision.sha256)
        standing = _standing_at(decision, drops, gone)
        gone.add(withdrawn)
        if len(standing) < 2 or _object_of(standing[-1]) != withdrawn:  # noqa: PLR2004
            continue
        *earlier, newest = standing
        if identity(newest) not in ingested:
            continue
        # One that was read before is preferred: its content is what was known until then.
        read_before = [drop for drop in earlier if identity(drop) in ingested]
        successor = (read_before or earlier)[-1]
        successors.append(successor.model_copy(update={"delivered_at": decision.at}))
    # A successor may itself have been withdrawn later.
    return [drop for drop in successors if _object_of(drop) not in gone]


def _standing_at(
    decision: DropDecision, drops: Iterable[DropManifest], gone: Collection[tuple[str, str]]
) -> list[DropManifest]:
    """Return the drops of a decision's partition that were delivered, and not withdrawn, then."""
    standing = []
    for drop in drops:
        is_there = drop.partition == decision.partition and drop.delivered_at <= decision.at
        if is_there and _object_of(drop) not in gone:
            standing.append(drop)
    return standing
