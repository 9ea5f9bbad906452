"""Drops to raw partitions: check every file, stage all good rows by one COPY, gate, publish; refused rows to quarantine.

A range is one load per dataset, but for drops of very many rows, which stream one by one.
Each delivered content is a version with its own ``known_at``; a drop that is in already is passed over.
A drop that breaks its contract stops the load, unless a later drop of its partition stands for it.
Source: docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import Delivery, load_contract
from nightshift.errors import LoadStateError, NightshiftError
from nightshift.ingestion.large_drop import is_large, write_large
from nightshift.ingestion.raw_version import CheckedDrops, IngestCall, write_version
from nightshift.ingestion.row_check import check_rows
from nightshift.lake.drops import list_drops, list_undelivered, partition_prefix, read_data
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.contract_check import ContractError, DeliveredFile, check_file
from nightshift.quality.quarantine import keep_drop
from nightshift.warehouse.connection import connect
from nightshift.warehouse.content_hash import hash_basis
from nightshift.warehouse.damage import Damage, LoadRecord, find_damage, find_damage_cheaply

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.lake.drops import DropManifest, ManifestError
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


class DropMissingError(NightshiftError):
    """A daily file has not been delivered yet."""

    code = "NS-INGEST-001"
    is_retryable = True
    is_waiting = True


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


def ingest(settings: Settings, dataset: str, partitions: PartitionRange, run: RunContext) -> IngestResult:
    """Bring every delivered drop of a range into ``raw.<dataset>``; calling it again changes nothing.

    Args:
        settings: Where lake and warehouse are, and the folders of contracts and suites.
        dataset: Name of the contract.
        partitions: Both ends included; days before the dataset's history are passed over.
        run: Who loads.

    Raises:
        DropMissingError: A daily dataset has no drop for a day; retry later.
        ContractError: A file does not keep its contract; nothing of the range is visible.
        GateError: The expectation suite refused the rows, or there is none.
        ManifestError: A manifest is wrong.
        StaleTokenError: A newer attempt has taken a partition.
    """
    contract = load_contract(settings.datasets_dir, dataset)
    store = ObjectStore.open(settings)
    drops = drops_in_order(store, dataset, partitions)
    _refuse_missing(store, contract, partitions, drops)
    with connect(settings, run.application_name) as conn:
        hold_off_sweeps(conn, contract.dataset)
        call = IngestCall(settings, store, conn, contract, run)
        published = _load_new(call, drops)
        return _read_back(call, sorted({drop.partition for drop in drops}), published)


def drops_in_order(
    store: ObjectStore, dataset: str, partitions: PartitionRange, pass_over: Callable[[ManifestError], None] | None = None
) -> list[DropManifest]:
    """Return the drops of a range by partition and delivery; of two delivered at the same instant the one with the greater digest counts.

    Args:
        store: The lake.
        dataset: Name of the contract.
        partitions: Both ends included.
        pass_over: Is told of each wrong manifest, whose drop is then left out.

    Raises:
        ManifestError: A manifest is wrong, and nobody is told.
    """
    return sorted(list_drops(store, dataset, partitions, pass_over), key=lambda drop: (drop.partition, drop.delivered_at, drop.sha256))


def hold_off_sweeps(conn: Connection, dataset: str) -> None:
    """Let no sweep of this dataset start while the connection lives, and wait for the one that runs; loads do not exclude each other."""
    with conn.transaction():
        conn.execute("set local lock_timeout = '120s'")
        conn.execute("select pg_advisory_lock_shared(hashtextextended(%s, 0))", [f"sweep {dataset}"])


def _refuse_missing(store: ObjectStore, contract: DatasetContract, partitions: PartitionRange, drops: Sequence[DropManifest]) -> None:
    if contract.delivery is not Delivery.DAILY:
        return
    delivered = {drop.partition for drop in drops}
    missing = [day for day in partitions.days if day >= contract.history_start and day not in delivered]
    if missing:
        halfway = [key for key in list_undelivered(store, contract.name, partitions) if any(f"dt={day}/" in key for day in missing)]
        raise DropMissingError(
            f"{contract.name}: {len(missing)} of {len(partitions)} days have no drop, the first is {missing[0]}.",
            expected=f"a data file and its manifest under {store.uri(partition_prefix(contract.name, missing[0]))}",
            got=f"{len(halfway)} file(s) without a manifest" if halfway else "nothing",
            todo=f"The night waits up to {contract.maximum_wait_minutes} minutes; after that ask upstream for the file.",
        )


def _load_new(call: IngestCall, drops: Sequence[DropManifest]) -> set[dt.date]:
    """Load what is not in yet and return the days that got a new version."""
    known = _known_drops(call, sorted({drop.partition for drop in drops}))
    newest = {drop.partition: drop for drop in drops}
    new = [drop for drop in drops if (drop.partition, drop.sha256, drop.delivered_at) not in known]
    published: set[dt.date] = set()
    for checked, places in check_drops(call, [drop for drop in new if not is_large(drop)], newest):
        published |= write_version(call, checked, places)
    for drop in filter(is_large, new):
        published |= load_large(call, drop, newest)
    return published


def load_large(call: IngestCall, drop: DropManifest, newest: Mapping[dt.date, DropManifest]) -> set[dt.date]:
    """Load one drop that streams, or record that it is broken, and return its day if it got a new version.

    Raises:
        ContractError: It is broken and the newest of its partition: nothing stands for it.
    """
    try:
        return write_large(call, drop)
    except ContractError as error:
        _settle_errors(call, [(drop, error)], newest)
        return set()


def check_drops(
    call: IngestCall, drops: Sequence[DropManifest], newest: Mapping[dt.date, DropManifest]
) -> list[tuple[CheckedDrops, list[int]]]:
    """Check files and rows, record the broken drops, and return for each load the drops and the places of those that it takes.

    Raises:
        ContractError: The newest drop of a partition is broken: nothing stands for it.
    """
    whole, files = _checked_files(call, drops, newest)
    if not whole:
        return []
    rows = check_rows(call.contract, whole, files)
    _settle_errors(call, [(whole[place], error) for place, error in rows.errors.items()], newest)
    good = [place for place in range(len(whole)) if place not in rows.errors]
    checked = CheckedDrops(whole, files, rows)
    return [(checked, places) for places in _loads(whole, good)]


def _known_drops(call: IngestCall, days: Sequence[dt.date]) -> set[tuple[dt.date, str, dt.datetime]]:
    """Return what was ingested under this contract, has not been refused since, and whose rows readers see as they were published.

    A pointer that somebody has lost comes back when its drops are read again, and so do rows that vanished or changed. Only a rerun has
    something to hash: the drops of an ordinary night are new.
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
        logger.warning("Rows of load %s of %s of %s vanished or changed; its drop is read again.", load_id, call.contract.dataset, day)
    # A drop may be in twice, the second time as a duplicate: it is read again if what it is a duplicate of is damaged.
    read_again = {(row[0], row[1], row[2]) for row in rows if (row[0], row[4]) in damaged}
    return {(row[0], row[1], row[2]) for row in rows} - read_again


def _damages(call: IngestCall, records: Sequence[LoadRecord]) -> list[Damage]:
    """Return the loads whose rows are not what was published; one that was hashed in another way is only counted."""
    basis = hash_basis(call.conn, call.target)
    hashed = [record for record in records if record.basis in (None, basis)]
    counted = [record for record in records if record.basis not in (None, basis)]
    return find_damage(call.conn, call.target, hashed) + find_damage_cheaply(call.conn, call.target, counted)


def _checked_files(
    call: IngestCall, drops: Sequence[DropManifest], newest: Mapping[dt.date, DropManifest]
) -> tuple[list[DropManifest], list[DeliveredFile]]:
    whole: list[DropManifest] = []
    files: list[DeliveredFile] = []
    errors: list[tuple[DropManifest, ContractError]] = []
    for drop, data in zip(drops, read_data(call.store, drops), strict=True):
        try:
            files.append(check_file(call.contract, drop, data))
            whole.append(drop)
        except ContractError as error:
            errors.append((drop, error))
    _settle_errors(call, errors, newest)
    return whole, files


def _settle_errors(call: IngestCall, errors: Sequence[tuple[DropManifest, ContractError]], newest: Mapping[dt.date, DropManifest]) -> None:
    """Record broken drops; those that no later drop stands for stop the load.

    Raises:
        ContractError: The first of them.
    """
    for drop, error in errors:
        keep_drop(call.conn, drop, call.store.uri(drop.data_key), error, call.run)
    for drop, error in errors:
        if newest.get(drop.partition) == drop:
            raise error


def _loads(drops: Sequence[DropManifest], places: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of drops that become one load: consecutive days, one drop each, versions of a day in the order of delivery."""
    waves: list[dict[dt.date, int]] = []
    for place in places:
        day = drops[place].partition
        wave = next((wave for wave in waves if day not in wave), None)
        if wave is None:
            wave = {}
            waves.append(wave)
        wave[day] = place
    for wave in waves:
        days = sorted(wave)
        breaks = [i for i, day in enumerate(days) if i == 0 or day != days[i - 1] + dt.timedelta(days=1)]
        for start, end in zip(breaks, [*breaks[1:], len(days)], strict=True):
            yield [wave[day] for day in days[start:end]]


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
        tuple(IngestedPartition(day, n_rows, n_refused, load_id, day in published) for day, n_rows, n_refused, load_id in rows),
    )
