"""Find drops that landed after their partition was loaded, or for a partition that never was, and load them.

Nobody starts a night for such a drop, so each night looks through its look-back, and ``nightshift
redo`` through everything. A broken one is recorded and left: it must not stop a night that does not
need it. Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contract
from nightshift.ingestion.deliveries import (
    Deliveries,
    Identity,
    find_backdated,
    identity,
    read_deliveries,
    record_received,
)
from nightshift.ingestion.drop_batches import Refusals, load_drops
from nightshift.ingestion.load import FileAbsentError, absent_error, record_wrong_manifests
from nightshift.ingestion.raw_load import IngestCall
from nightshift.lake.object_store import ObjectStore
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LateLoad:
    """What a sweep did.

    Attributes:
        dataset: Name in the ledger.
        loaded: Late drops that are in now.
        left: Late drops that were refused, with the code of the reason.
        published: Days that got a new version.
        is_busy: Somebody else was loading the dataset: nothing was done, the next sweep will.
    """

    dataset: str
    loaded: tuple[DropManifest, ...] = ()
    left: tuple[tuple[DropManifest, str], ...] = ()
    published: tuple[dt.date, ...] = ()
    is_busy: bool = False


def find_late_drops(
    conn: Connection,
    store: ObjectStore,
    dataset: str,
    partitions: PartitionRange,
    contract_digest: str | None = None,
) -> list[DropManifest]:
    """Return drops that landed and are not in, by partition and delivery; a refused one only while nothing newer stands for it.

    Args:
        conn: Any connection; nothing is written.
        store: The lake; one listing per thousand keys, and one small read per drop.
        dataset: Name of the contract.
        partitions: Both ends included.
        contract_digest: Count only what was read under this contract as in; None counts what was
            read under any.
    """
    return _late(
        conn, read_deliveries(conn, store, dataset, partitions), f"raw/{dataset}", contract_digest
    )


def _late(
    conn: Connection, deliveries: Deliveries, dataset: str, contract_digest: str | None
) -> list[DropManifest]:
    ingested, refused = _ingested(conn, dataset, contract_digest), _refused(conn, dataset)
    late = [drop for drop in deliveries.drops if identity(drop) not in ingested]
    newest = set(deliveries.newest.values())
    return [drop for drop in late if identity(drop) not in refused or drop in newest]


def load_late_drops(
    settings: Settings,
    dataset: str,
    partitions: PartitionRange,
    run: RunContext,
    *,
    reread: bool = False,
) -> LateLoad:
    """Load the late drops of a range; safe at any time, beside any other load.

    Args:
        settings: Lake, warehouse, contracts and suites.
        dataset: Name of the contract.
        partitions: Both ends included.
        run: Who loads.
        reread: Take those too that are in, but were read under another contract than today's.

    Raises:
        StaleTokenError: A newer attempt has taken a partition.
    """
    contract = load_contract(settings.datasets_dir, dataset)
    store = ObjectStore.open(settings)
    with connect(settings, run.application_name) as conn:
        if conn.execute(
            "select pg_try_advisory_lock(hashtextextended(%s, 0))", [f"sweep {contract.dataset}"]
        ).fetchone() != (True,):
            return LateLoad(contract.dataset, is_busy=True)
        call = IngestCall(settings, store, conn, contract, run)
        digest = call.contract_digest if reread else None
        deliveries = read_deliveries(conn, store, dataset, partitions)
        record_received(conn, store, deliveries)
        refusals = Refusals(call, deliveries, is_late=True)
        _keep_incomplete(call, refusals)
        late = _late(conn, deliveries, contract.dataset, digest)
        too_old = find_backdated(contract, deliveries, late)
        for drop, error in too_old.items():
            refusals.add(drop, error)
        published = load_drops([drop for drop in late if drop not in too_old], refusals)
        ingested = _ingested(conn, contract.dataset, digest)
        refused = _refused(conn, contract.dataset) | refusals.codes
    left = [*deliveries.absent, *(drop for drop in late if identity(drop) not in ingested)]
    return LateLoad(
        contract.dataset,
        loaded=tuple(drop for drop in late if identity(drop) in ingested),
        left=tuple((drop, refused.get(identity(drop), "?")) for drop in left),
        published=tuple(sorted(published)),
    )


def _keep_incomplete(call: IngestCall, refusals: Refusals) -> None:
    """Record wrong manifests, and those whose file is not there: it may still come."""
    record_wrong_manifests(call, refusals.deliveries)
    for wrong in refusals.deliveries.wrong:
        logger.warning("A manifest is passed over:\n%s", wrong.error)
    for drop in refusals.deliveries.absent:
        refusals.add(drop, absent_error(call, drop))


def _ingested(conn: Connection, dataset: str, contract_digest: str | None) -> set[Identity]:
    rows = conn.execute(
        """
        select d.partition_date, d.source_sha256, d.known_at
        from raw.ingested_drops d join ops.loads l using (dataset, partition_date, load_id)
        where d.dataset = %s and l.state in ('published', 'duplicate') and coalesce(d.contract_digest = %s, true)
        """,
        [dataset, contract_digest],
    )
    return {(day, digest, known_at) for day, digest, known_at in rows}


def _refused(conn: Connection, dataset: str) -> dict[Identity, str]:
    rows = conn.execute(
        """
        select partition_date, source_sha256, known_at, code from quarantine.refused_drops
        where dataset = %s and code <> %s order by quarantined_at
        """,
        [
            dataset,
            FileAbsentError.code,
        ],  # such a file may still come, and is then judged for the first time
    )
    return {(day, digest, known_at): code for day, digest, known_at, code in rows}
