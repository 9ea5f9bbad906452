"""Find drops that were due and did not land, and the days whose features wait for them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import Delivery
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.lake.landing import list_undelivered
from nightshift.reprocess.stale import data_days
from nightshift.warehouse.ledger import lookback_of

if TYPE_CHECKING:
    from nightshift.lake.object_store import ObjectStore
    from nightshift.reprocess.scope import Scope
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.staleness import RawKnowledge


@dataclass(frozen=True)
class MissingDrop:
    """A drop that was due and did not land.

    Attributes:
        dataset: Name of the contract.
        day: Its operating day.
        status: What there is instead.
        n_waiting: Days whose features need it.
    """

    dataset: str
    day: dt.date
    status: str
    n_waiting: int


def find_missing_drops(
    conn: Connection, store: ObjectStore, knowledge: RawKnowledge, scope: Scope
) -> list[MissingDrop]:
    """Return the drops that were due by the newest day of any daily dataset and did not land.

    Args:
        conn: Any connection of the warehouse.
        store: The bucket that upstream delivers to.
        knowledge: All raw versions, and the contracts.
        scope: The drops that count.
    """
    loaded = {(version.dataset, version.day) for version in knowledge.versions}
    refused = _refused_drops(conn)
    days = data_days(knowledge)
    missing = []
    for name, contract in knowledge.contracts.items():
        in_scope = scope.range_of(contract)
        # Reference data comes when it changes, so none of it is ever missing.
        if in_scope is None or contract.delivery is not Delivery.DAILY:
            continue
        lookbacks = [lookback_of(contract, Partition(day)) for day in days]
        for day in days:
            is_due = in_scope.first.day <= day <= in_scope.last.day
            drop = (contract.dataset, day)
            if not is_due or drop in loaded:
                continue
            status = "nothing landed"
            if drop in refused:
                status = f"refused with {refused[drop]}"
            # Asked last: every question lists a folder of the bucket.
            elif list_undelivered(store, name, PartitionRange.single(Partition(day))):
                status = "a file without a manifest"
            n_waiting = sum(day in lookback for lookback in lookbacks)
            missing.append(MissingDrop(name, day, status, n_waiting))
    return missing


def _refused_drops(conn: Connection) -> dict[tuple[str, dt.date], str]:
    rows = conn.execute("select dataset, partition_date, code from quarantine.refused_drops")
    return {(dataset, day): code for dataset, day, code in rows}
