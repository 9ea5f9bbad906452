"""Drops to raw partitions: check every file, stage all good rows by one COPY, gate, publish; refused rows to quarantine.

Consecutive days are one load, as far as they fit into memory; drops of very many rows stream one by
one. Each delivered content is a version with its own ``known_at``; a drop that is in already is
passed over. A drop that breaks its contract is recorded and left out; at the end it stops the call,
unless a later drop of its partition stands for it. Source: docs/adr/0005-raw-versions.md,
docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import Delivery, load_contract
from nightshift.errors import LoadStateError, NightshiftError
from nightshift.ingestion.deliveries import (
    Identity,
    backdated,
    identity,
    read_deliveries,
    record_received,
)
from nightshift.ingestion.drop_batches import Refusals, load_drops
from nightshift.ingestion.raw_load import IngestCall
from nightshift.lake.drops import partition_prefix
from nightshift.lake.landing import list_undelivered
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.quarantine import keep_manifest
from nightshift.warehouse.connection import connect
from nightshift.warehouse.content_hash import hash_basis
from nightshift.warehouse.damage import Damage, LoadRecord, find_damage, find_damage_cheaply

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.ingestion.deliveries import Deliveries
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

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
    """What readers see of one partition.

    Attributes:
        day: The operating day.
        n_rows: Rows of the published version.
        n_refused: Refused rows of its file; equal ones stand in quarantine once.
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
    """What ``ingest`` leaves behind, as read back from the warehouse.

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
        """Return the refused rows of the files behind them."""
        return sum(partition.n_refused for partition in self.partitions)

    @property
    def is_new(self) -> bool:
        """Return whether this call published anything."""
        return any(partition.is_new for partition in self.partitions)


def ingest(
    settings: Settings, dataset: str, partitions: PartitionRange, run: RunContext
) -> IngestResult:
    """Bring every delivered drop of a range into ``raw.<dataset>``; calling it again changes nothing.

    Args:
        settings: Where lake and warehouse are, and the folders of contracts and suites.
        dataset: Name of the contract.
        partitions: Both ends included; days before the dataset's history are passed over.
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
    contract = load_contract(settings.datasets_dir, dataset)
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        call = IngestCall(settings, store, conn, contract, run)
        deliveries = read_deliveries(conn, store, dataset, partitions)
        keep_wrong_manifests(call, deliveries)
        _refuse_missing(call, partitions, deliveries)
        record_received(conn, store, deliveries)
        hold_off_sweeps(conn, contract.dataset)
        refusals = Refusals(call, deliveries, is_late=False)
        published = _load_new(refusals)
        for wrong in deliveries.standing_manifests:
            refusals.stand(wrong.error)
        refusals.raise_first()
        return _read_back(call, sorted(deliveries.newest), published)


def hold_off_sweeps(conn: Connection, dataset: str) -> None:
    """Let no sweep of this dataset start while the connection lives, and wait for the one that runs; loads do not exclude each other."""
    with conn.transaction():
        conn.execute("set local lock_timeout = '120s'")
        conn.execute(
            "select pg_advisory_lock_shared(hashtextextended(%s, 0))", [f"sweep {dataset}"]
        )


def _refuse_missing(call: IngestCall, partitions: PartitionRange, deliveries: Deliveries) -> None:
    """Wait for the days of a daily dataset that nothing came for; a wrong manifest is no missing drop."""
    contract, store = call.contract, call.store
    if contract.delivery is not Delivery.DAILY:
        return
    came = {drop.partition for drop in deliveries.drops} | {
        wrong.partition for wrong in deliveries.wrong
    }
    missing = [day for day in partitions.days if day >= contract.history_start and day not in came]
    if not missing:
        return
    promised = [drop for drop in deliveries.absent if drop.partition in missing]
    if promised:
        raise absent_error(call, promised[0])
    halfway = [
        key
        for key in list_undelivered(store, contract.name, partitions)
        if any(f"dt={day}/" in key for day in missing)
    ]
    raise DropMissingError(
        f"{contract.name}: {len(missing)} of {len(partitions)} days have no drop, the first is {missing[0]}.",
        expected=f"a data file and its manifest under {store.uri(partition_prefix(contract.name, missing[0]))}",
        got=f"{len(halfway)} file(s) without a manifest" if halfway else "nothing",
        todo=f"The night waits up to {contract.maximum_wait_minutes} minutes; after that ask upstream for the file.",
    )


def absent_error(call: IngestCall, drop: DropManifest) -> FileAbsentError:
    """Return what is wrong with a manifest whose file is not there yet."""
    return FileAbsentError(
        f"{call.contract.name}: the manifest of {drop.partition} is there, its data file is not.",
        expected=f"a file at {call.store.uri(drop.data_key)}",
        got="nothing",
        todo=f"A night waits up to {call.contract.maximum_wait_minutes} minutes; after that ask upstream for the file.",
    )


def _load_new(refusals: Refusals) -> set[dt.date]:
    """Load what is not in yet and return the days that got a new version."""
    call, deliveries = refusals.call, refusals.deliveries
    known = _known_drops(call, sorted({drop.partition for drop in deliveries.drops}))
    new = [drop for drop in deliveries.drops if identity(drop) not in known]
    too_old = backdated(call.contract, deliveries, new)
    for drop, error in too_old.items():
        refusals.add(drop, error)
    return load_drops([drop for drop in new if drop not in too_old], refusals)


def keep_wrong_manifests(call: IngestCall, deliveries: Deliveries) -> None:
    """Record the manifests that describe no drop."""
    for wrong in deliveries.wrong:
        keep_manifest(
            call.conn, call.contract.name, wrong, call.store.uri(wrong.object.key), call.run
        )


def _known_drops(call: IngestCall, days: Sequence[dt.date]) -> set[Identity]:
    """Return what was ingested under this contract, has not been refused since, and whose rows readers see as they were published.

    A pointer that somebody has lost comes back when its drops are read again, and so do rows that
    vanished or changed. Only a rerun has something to hash: the drops of an ordinary night are new.
    """
    rows = call.conn.execute(
        """
        select d.partition_date, d.source_sha256, d.known_at, l.state, l.load_id, l.n_rows, l.content_hash, l.detail ->> 'hash_basis'
        from raw.ingested_drops d join ops.loads l using (dataset, partition_date, load_id)
        join ops.published p using (dataset, partition_date)
        where d.dataset = %s and d.contract_digest = %s and d.partition_date = any(%s) and l.state in ('published', 'duplicate')
        """,
        [call.contract.dataset, call.contract_digest, list(days)],
    ).fetchall()
    records = [LoadRecord(row[0], *row[4:]) for row in rows if row[3] == "published"]
    damaged = {(damage.partition_date, damage.load_id) for damage in _damages(call, records)}
    for day, load_id in sorted(damaged):
        logger.warning(
            "Rows of load %s of %s of %s vanished or changed; its drop is read again.",
            load_id,
            call.contract.dataset,
            day,
        )
    # A drop may be in twice, the second time as a duplicate: it is read again if what it is a
    # duplicate of is damaged.
    read_again = {(row[0], row[1], row[2]) for row in rows if (row[0], row[4]) in damaged}
    return {(row[0], row[1], row[2]) for row in rows} - read_again


def _damages(call: IngestCall, records: Sequence[LoadRecord]) -> list[Damage]:
    """Return the loads whose rows are not what was published; one that was hashed in another way is only counted."""
    basis = hash_basis(call.conn, call.target)
    hashed = [record for record in records if record.basis in (None, basis)]
    counted = [record for record in records if record.basis not in (None, basis)]
    return find_damage(call.conn, call.target, hashed) + find_damage_cheaply(
        call.conn, call.target, counted
    )


def _read_back(call: IngestCall, days: Sequence[dt.date], published: set[dt.date]) -> IngestResult:
    rows = call.conn.execute(
        """
        select p.partition_date, l.n_rows, coalesce(d.n_refused, 0), p.load_id
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        left join raw.ingested_drops d using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date = any(%s) order by p.partition_date
        """,
        [call.contract.dataset, list(days)],
    ).fetchall()
    if len(rows) != len(days):
        raise LoadStateError(
            f"{call.contract.dataset}: not every delivered partition became visible.",
            expected=f"{len(days)} published partitions",
            got=str(len(rows)),
            todo="Rerun the task; if it stays so, read ops.loads of this run.",
        )
    return IngestResult(
        call.contract.dataset,
        tuple(
            IngestedPartition(day, n_rows, n_refused, load_id, day in published)
            for day, n_rows, n_refused, load_id in rows
        ),
    )
