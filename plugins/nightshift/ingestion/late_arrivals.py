"""Load late drops: those that landed after their partition was loaded, or for one that never was.

No run is started by such a drop, so each run checks its look-back, and ``nightshift redo`` checks
everything. A broken drop is recorded and skipped: it must not stop a run that does not need it.
Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.ingestion.deliveries import (
    Deliveries,
    Identity,
    identity,
    read_deliveries,
    read_ingested,
    record_received,
)
from nightshift.ingestion.drop_batches import load_drops
from nightshift.ingestion.ingest_call import IngestCall, open_call
from nightshift.ingestion.load import FileAbsentError, absent_error
from nightshift.ingestion.refusals import Refusals
from nightshift.lake.object_store import ObjectStore
from nightshift.warehouse.schema_lock import try_session_lock

if TYPE_CHECKING:
    from collections.abc import Collection

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LateLoad:
    """Result of a load of late drops.

    Attributes:
        dataset: Name in the ledger.
        loaded: Late drops that are in now.
        left: Late drops that were refused, with the code of the reason.
        published: Days that got a new version.
        is_busy: Another process was loading the dataset: nothing was done, the next load will.
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
    """Return drops that landed and are not in, by partition and delivery.

    A refused drop is late only while no newer drop of its partition replaces it.

    Args:
        conn: Any connection; nothing is written.
        store: The lake; one listing per thousand keys, and one small read per drop.
        dataset: Name of the contract.
        partitions: Both ends included.
        contract_digest: Only what was read under this contract counts as in; None counts what was
            read under any.
    """
    deliveries = read_deliveries(conn, store, dataset, partitions)
    ingested = read_ingested(conn, f"raw/{dataset}", partitions, contract_digest)
    return _late_drops(deliveries, ingested, _read_refused(conn, f"raw/{dataset}"))


def load_late_drops(
    settings: Settings,
    dataset: str,
    partitions: PartitionRange,
    run: RunContext,
    *,
    reread: bool = False,
) -> LateLoad:
    """Load the late drops of a range; safe at any time, alongside any other load.

    Args:
        settings: Lake, warehouse, contracts and suites.
        dataset: Name of the contract.
        partitions: Both ends included.
        run: Who loads.
        reread: Load also those that are in, but were read under another contract than today's.

    Raises:
        StaleTokenError: A newer attempt has taken a partition.
    """
    with (
        open_call(settings, dataset, run) as call,
        # One load at a time, and no `ingest`: two at once would take each other's tokens.
        try_session_lock(call.conn, f"sweep {call.contract.dataset}") as is_ours,
    ):
        name = call.contract.dataset
        if not is_ours:
            return LateLoad(name, is_busy=True)
        deliveries = read_deliveries(call.conn, call.store, dataset, partitions)
        record_received(call.conn, call.store, deliveries)
        refusals = Refusals(call, deliveries, is_late=True)
        _record_incomplete(call, refusals)

        digest = call.contract_digest if reread else None
        ingested = read_ingested(call.conn, name, partitions, digest)
        late = _late_drops(deliveries, ingested, _read_refused(call.conn, name))
        published = load_drops(late, refusals)
        # Read back: what was loaded is what the warehouse says, not what was tried.
        ingested = read_ingested(call.conn, name, partitions, digest)
        codes = _read_refused(call.conn, name) | refusals.codes
    loaded = [drop for drop in late if identity(drop) in ingested]
    refused = [drop for drop in late if identity(drop) not in ingested]
    left = [*deliveries.absent, *refused]
    return LateLoad(
        name,
        loaded=tuple(loaded),
        left=tuple((drop, codes.get(identity(drop), "?")) for drop in left),
        published=tuple(sorted(published)),
    )


def _late_drops(
    deliveries: Deliveries, ingested: Collection[Identity], refused: Collection[Identity]
) -> list[DropManifest]:
    """Return the drops that are not in; of refused ones only those that no newer one replaces."""
    late = [drop for drop in deliveries.drops if identity(drop) not in ingested]
    # The newest one is tried again: since it was refused, a person may have edited the contract.
    newest = set(deliveries.newest.values())
    return [drop for drop in late if identity(drop) not in refused or drop in newest]


def _record_incomplete(call: IngestCall, refusals: Refusals) -> None:
    """Record wrong manifests, and those whose file has not arrived: it may still come."""
    # Only recorded: a run must not stop because of a drop that it does not need.
    refusals.add_wrong_manifests()
    for wrong in refusals.deliveries.wrong:
        logger.warning("A manifest is ignored:\n%s", wrong.error)
    for drop in refusals.deliveries.absent:
        refusals.add(drop, absent_error(call, drop))


def _read_refused(conn: Connection, dataset: str) -> dict[Identity, str]:
    """Return the code of each refused drop.

    A drop whose file was absent is left out: it may still come, and is then checked first.
    """
    rows = conn.execute(
        """
        select partition_date, source_sha256, known_at, code from quarantine.refused_drops
        where dataset = %s and code <> %s order by quarantined_at
        """,
        [dataset, FileAbsentError.code],
    )
    return {(day, digest, known_at): code for day, digest, known_at, code in rows}
