"""Find drops that landed after their partition was loaded, or for a partition that never was, and load them.

Nobody starts a night for such a drop, so each night looks through its look-back, and ``nightshift redo`` through everything. A broken
one is recorded and left: it must not stop a night that does not need it. Source: docs/adr/0014-late-and-wrong-data.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contract
from nightshift.ingestion.large_drop import is_large
from nightshift.ingestion.load import check_drops, drops_in_order, load_large
from nightshift.ingestion.raw_version import IngestCall, write_version
from nightshift.lake.object_store import ObjectStore
from nightshift.quality.gates import GateError
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.ingestion.raw_version import CheckedDrops
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

Delivered = tuple[dt.date, str, dt.datetime]


@dataclass(frozen=True)
class SweepResult:
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


def late_drops(
    conn: Connection, store: ObjectStore, dataset: str, partitions: PartitionRange, contract_digest: str | None = None
) -> list[DropManifest]:
    """Return drops that landed and are not in, by partition and delivery; a refused one only while nothing newer stands for it.

    A wrong manifest is logged and passed over: it stops its own partition, when that is loaded, and no other.

    Args:
        conn: Any connection.
        store: The lake; one listing per thousand keys, and one small read per drop.
        dataset: Name of the contract.
        partitions: Both ends included.
        contract_digest: Count only what was read under this contract as in; None counts what was read under any.
    """
    drops = drops_in_order(store, dataset, partitions, lambda error: logger.warning("A manifest is passed over:\n%s", error))
    newest = {drop.partition: drop for drop in drops}
    ingested, refused = _ingested(conn, f"raw/{dataset}", contract_digest), _refused(conn, f"raw/{dataset}")
    return [
        drop for drop in drops if _identity(drop) not in ingested and (_identity(drop) not in refused or newest[drop.partition] == drop)
    ]


def sweep(settings: Settings, dataset: str, partitions: PartitionRange, run: RunContext, *, reread: bool = False) -> SweepResult:
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
        if conn.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", [f"sweep {contract.dataset}"]).fetchone() != (True,):
            return SweepResult(contract.dataset, is_busy=True)
        call = IngestCall(settings, store, conn, contract, run)
        digest = call.contract_digest if reread else None
        late = late_drops(conn, store, dataset, partitions, digest)
        published: set[dt.date] = set()
        gated: dict[Delivered, str] = {}
        for checked, places in check_drops(call, [drop for drop in late if not is_large(drop)], {}):
            published |= _write(call, checked, places, gated)
        for drop in filter(is_large, late):
            published |= _write_large(call, drop, gated)
        ingested, refused = _ingested(conn, contract.dataset, digest), _refused(conn, contract.dataset) | gated
    return SweepResult(
        contract.dataset,
        loaded=tuple(drop for drop in late if _identity(drop) in ingested),
        left=tuple((drop, refused.get(_identity(drop), "?")) for drop in late if _identity(drop) not in ingested),
        published=tuple(sorted(published)),
    )


def _write(call: IngestCall, checked: CheckedDrops, places: Sequence[int], gated: dict[Delivered, str]) -> set[dt.date]:
    """Load drops together, and one by one when the gate refuses them together."""
    try:
        return write_version(call, checked, places)
    except GateError as error:
        if len(places) > 1:
            return {day for place in places for day in _write(call, checked, [place], gated)}
        gated[_identity(checked.drops[places[0]])] = error.code
        return set()


def _write_large(call: IngestCall, drop: DropManifest, gated: dict[Delivered, str]) -> set[dt.date]:
    try:
        return load_large(call, drop, {})
    except GateError as error:
        gated[_identity(drop)] = error.code
        return set()


def _identity(drop: DropManifest) -> Delivered:
    return drop.partition, drop.sha256, drop.delivered_at


def _ingested(conn: Connection, dataset: str, contract_digest: str | None) -> set[Delivered]:
    rows = conn.execute(
        """
        select d.partition_date, d.source_sha256, d.known_at
        from raw.ingested_drops d join ops.loads l using (dataset, partition_date, load_id)
        where d.dataset = %s and l.state in ('published', 'duplicate') and coalesce(d.contract_digest = %s, true)
        """,
        [dataset, contract_digest],
    )
    return {(day, digest, known_at) for day, digest, known_at in rows}


def _refused(conn: Connection, dataset: str) -> dict[Delivered, str]:
    rows = conn.execute(
        "select partition_date, source_sha256, known_at, code from quarantine.refused_drops where dataset = %s order by quarantined_at",
        [dataset],
    )
    return {(day, digest, known_at): code for day, digest, known_at, code in rows}
