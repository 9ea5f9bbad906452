"""Ingest drops: from the landing prefix to published partitions of ``raw.<dataset>``.

The way of a partition: ``deliveries`` lists its drops, ``drop_batches`` reads and checks the files
(very large ones stream, ``large_drop``), ``rows`` types the rows and refuses bad ones, ``raw_load``
stages all good rows by one COPY, runs the gate and publishes. Refused rows go to quarantine.

Consecutive days are one load, as far as they fit into memory. Each delivered content is a version
with its own ``known_at``; a drop that is in already is skipped. A drop that breaks its contract is
recorded and left out; at the end it stops the call, unless a later drop of its partition replaces
it. Source: docs/adr/0005-raw-versions.md, docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, Delivery
from nightshift.errors import LoadStateError, NightshiftError
from nightshift.ingestion.deliveries import (
    Deliveries,
    Identity,
    identity,
    read_deliveries,
    record_received,
)
from nightshift.ingestion.drop_batches import load_drops
from nightshift.ingestion.ingest_call import IngestCall, open_call
from nightshift.ingestion.refusals import Refusals
from nightshift.lake.drops import DropManifest, partition_prefix
from nightshift.lake.landing import list_undelivered
from nightshift.warehouse.content_hash import LoadKey, hash_basis
from nightshift.warehouse.damage import LoadRecord, find_damage, find_damage_cheaply
from nightshift.warehouse.published import join_published

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)


class DropMissingError(NightshiftError):
    """A daily file has not been delivered yet."""

    code = "NS-INGEST-001"
    is_retryable = True
    is_waiting = True


class FileAbsentError(DropMissingError):
    """A manifest came before its data file: the drop is not delivered yet."""

    code = "NS-INGEST-003"


@dataclass(frozen=True)
class IngestedPartition:
    """One partition as readers see it.

    Attributes:
        day: The operating day.
        n_rows: Rows of the published version.
        n_refused: Refused rows of its file; quarantine holds equal ones once.
        load_id: The published load.
        is_new: Whether this call published it.
    """

    day: dt.date
    n_rows: int
    n_refused: int
    load_id: int
    is_new: bool


@dataclass(frozen=True)
class IngestResult:
    """Result of ``ingest``, as read back from the warehouse.

    Attributes:
        dataset: Name in the ledger.
        partitions: Partitions with a drop, by day; a dataset that comes on change may have none.
    """

    dataset: str
    partitions: tuple[IngestedPartition, ...]

    @property
    def n_rows(self) -> int:
        """Return the rows that readers see in the range."""
        return sum(partition.n_rows for partition in self.partitions)

    @property
    def n_refused(self) -> int:
        """Return the refused rows of the files of these partitions."""
        return sum(partition.n_refused for partition in self.partitions)

    @property
    def is_new(self) -> bool:
        """Return whether this call published anything."""
        return any(partition.is_new for partition in self.partitions)


def ingest(
    settings: Settings, dataset: str, partitions: PartitionRange, run: RunContext
) -> IngestResult:
    """Load every delivered drop of a range into ``raw.<dataset>``; a rerun changes nothing.

    Args:
        settings: Endpoints of lake and warehouse, and the folders of contracts and suites.
        dataset: Name of the contract.
        partitions: Both ends included; days before the dataset's history are skipped.
        run: Who loads.

    Raises:
        DropMissingError: A daily dataset has no drop for a day; retry later.
        ContractError: The newest file of a day does not keep its contract; all other files of the
            range are in.
        GateError: The expectation suite refused the rows, or there is none.
        ManifestError: A manifest is wrong, and no good drop of its day came after it; all other
            files are in.
        StaleTokenError: A newer attempt has taken a partition.
    """
    with open_call(settings, dataset, run) as call:
        deliveries = read_deliveries(call.conn, call.store, dataset, partitions)
        refusals = Refusals(call, deliveries, is_late=False)
        refusals.add_wrong_manifests()
        _refuse_missing(call, partitions, deliveries)
        record_received(call.conn, call.store, deliveries)
        _hold_off_late_loads(call)

        # After the lock: a load of late drops may have brought some of them in.
        known = _known_drops(call, deliveries.newest)
        new = [drop for drop in deliveries.drops if identity(drop) not in known]
        published = load_drops(new, refusals)
        for wrong in deliveries.standing_manifests:
            refusals.block(wrong.error)
        # Last: one bad file must not keep the good ones of other days out.
        refusals.raise_first()
        return _read_back(call, deliveries.newest, published)


def _hold_off_late_loads(call: IngestCall) -> None:
    """Wait for a load of late drops of this dataset, and let none start while the connection lives.

    Ordinary loads do not exclude each other: they share the lock.
    """
    with call.conn.transaction():
        call.conn.execute("set local lock_timeout = '120s'")
        call.conn.execute(
            "select pg_advisory_lock_shared(hashtextextended(%s, 0))",
            [f"sweep {call.contract.dataset}"],
        )


def _refuse_missing(call: IngestCall, partitions: PartitionRange, deliveries: Deliveries) -> None:
    """Raise if a day of a daily dataset has neither a drop nor a wrong manifest.

    Raises:
        DropMissingError: The first such day.
    """
    contract = call.contract
    if contract.delivery is not Delivery.DAILY:
        return
    delivered = set(deliveries.newest)
    # A wrong manifest is a fault of its own: waiting would not repair it.
    delivered |= {wrong.partition for wrong in deliveries.wrong}
    due = [day for day in partitions.days if day >= contract.history_start]
    missing = [day for day in due if day not in delivered]
    if not missing:
        return
    for drop in deliveries.absent:
        if drop.partition in missing:
            raise absent_error(call, drop)
    folders = tuple(partition_prefix(contract.name, day) for day in missing)
    undelivered = list_undelivered(call.store, contract.name, partitions)
    n_files = sum(key.startswith(folders) for key in undelivered)
    got = f"{n_files} file(s) without a manifest" if n_files else "nothing"
    raise DropMissingError(
        f"{contract.name}: {len(missing)} of {len(partitions)} days have no drop,"
        f" the first is {missing[0]}.",
        expected=f"a data file and its manifest under {call.store.uri(folders[0])}",
        got=got,
        todo=_waiting_todo(contract),
    )


def absent_error(call: IngestCall, drop: DropManifest) -> FileAbsentError:
    """Return the error of a manifest whose data file has not arrived yet."""
    return FileAbsentError(
        f"{call.contract.name}: the manifest of {drop.partition} is there, its data file is not.",
        expected=f"a file at {call.store.uri(drop.data_key)}",
        got="nothing",
        todo=_waiting_todo(call.contract),
    )


def _waiting_todo(contract: DatasetContract) -> str:
    return (
        f"The run waits up to {contract.maximum_wait_minutes} minutes;"
        " after that ask upstream for the file."
    )


def _known_drops(call: IngestCall, days: Iterable[dt.date]) -> set[Identity]:
    """Return the drops that need no load: read under this contract, published and undamaged.

    A pointer that somebody has lost comes back when its drops are read again, and so do rows that
    vanished or changed. Only a rerun has something to hash: the drops of an ordinary run are new.
    """
    # Joined by hand: a duplicate is known as well, and the pointer is on the load that it equals.
    rows = call.conn.execute(
        """
        select d.partition_date, d.source_sha256, d.known_at, l.state,
            l.load_id, l.n_rows, l.content_hash, l.detail ->> 'hash_basis'
        from raw.ingested_drops d join ops.loads l using (dataset, partition_date, load_id)
        join ops.published p using (dataset, partition_date)
        where d.dataset = %s and d.contract_digest = %s and d.partition_date = any(%s)
            and l.state in ('published', 'duplicate')
        """,
        [call.contract.dataset, call.contract_digest, list(days)],
    ).fetchall()
    records = [LoadRecord(row[0], *row[4:]) for row in rows if row[3] == "published"]
    damaged = _find_damaged(call, records)
    known: set[Identity] = set()
    damaged_drops: set[Identity] = set()
    for day, digest, known_at, _, load_id, *_ in rows:
        drop = (day, digest, known_at)
        if (day, load_id) in damaged:
            damaged_drops.add(drop)
        else:
            known.add(drop)
    # A drop may be in twice, the second time as a duplicate of the load that is damaged.
    return known - damaged_drops


def _find_damaged(call: IngestCall, records: list[LoadRecord]) -> set[LoadKey]:
    """Return the loads whose rows are not those that were published.

    A load that was hashed in another way is only counted.
    """
    basis = hash_basis(call.conn, call.target)
    hashed = [record for record in records if record.basis in (None, basis)]
    counted = [record for record in records if record.basis not in (None, basis)]
    damages = find_damage(call.conn, call.target, hashed)
    damages += find_damage_cheaply(call.conn, call.target, counted)
    damaged = {(damage.partition_date, damage.load_id) for damage in damages}
    for day, load_id in sorted(damaged):
        logger.warning(
            "Rows of load %s of %s of %s vanished or changed; its drop is read again.",
            load_id,
            call.contract.dataset,
            day,
        )
    return damaged


def _read_back(
    call: IngestCall, days: Collection[dt.date], published: set[dt.date]
) -> IngestResult:
    """Return the partitions as readers see them.

    Raises:
        LoadStateError: A delivered partition is not visible.
    """
    from psycopg import sql

    statement = sql.SQL(
        """
        select l.partition_date, l.n_rows, coalesce(d.n_refused, 0), l.load_id
        from ops.loads l {}
        left join raw.ingested_drops d on (d.dataset, d.partition_date, d.load_id)
            = (l.dataset, l.partition_date, l.load_id)
        where l.dataset = %s and l.partition_date = any(%s)
        order by l.partition_date
        """
    )
    dataset = call.contract.dataset
    query = statement.format(join_published(dataset, "l"))
    rows = call.conn.execute(query, [dataset, list(days)]).fetchall()
    if len(rows) != len(days):
        raise LoadStateError(
            f"{dataset}: not every delivered partition became visible.",
            expected=f"{len(days)} published partitions",
            got=str(len(rows)),
            todo="Rerun the task; if it stays so, read ops.loads of this run.",
        )
    ingested = []
    for day, n_rows, n_refused, load_id in rows:
        is_new = day in published
        ingested.append(IngestedPartition(day, n_rows, n_refused, load_id, is_new))
    return IngestResult(dataset, tuple(ingested))
