"""Play the upstream system: write the drops of a range of operating days into the lake."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from examples.flights.clock import advance_clock, delivery_time
from examples.flights.faults import Fault, apply_fault
from examples.flights.flights_2013 import DATASETS, read_by_partition
from nightshift.lake.drops import PARALLEL_REQUESTS, NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.partitions import Partition, PartitionRange
    from nightshift.settings import Settings


@dataclass(frozen=True)
class DeliverySummary:
    """What was delivered.

    Attributes:
        partitions: The requested operating days.
        n_drops: Drops by dataset.
        n_rows: Rows by dataset.
        silent: Days and daily datasets for which upstream has nothing, as ``<dataset>/<day>``.
        now: The virtual clock afterwards, UTC.
    """

    partitions: PartitionRange
    n_drops: dict[str, int]
    n_rows: dict[str, int]
    silent: tuple[str, ...]
    now: dt.datetime


def deliver(
    settings: Settings,
    partitions: PartitionRange,
    faults: Sequence[Fault] = (),
    datasets: Sequence[str] = DATASETS,
) -> DeliverySummary:
    """Deliver the files of a range of operating days; a repeated delivery changes nothing.

    Args:
        settings: The lake, and the folder of the virtual clock.
        partitions: The days.
        faults: What goes wrong, each for its dataset and day; applied in this order.
        datasets: Which datasets; all by default.

    Raises:
        SourceDataError: The data files are absent.
        ObjectConflictError: Other content was delivered under the same name.
        ObjectStoreError: The store cannot be written.
    """
    store = ObjectStore.open(settings)
    # Upstream may deliver before `migrate` has made the bucket.
    store.ensure_bucket()
    drops: list[NewDrop] = []
    silent: list[str] = []
    for dataset in datasets:
        tables = read_by_partition(dataset)
        for partition in partitions:
            table = tables.get(partition.day)
            if table is not None:
                drop = _drop(dataset, partition, table)
                drops += _apply_faults(drop, faults)
            # Reference data has one day only: on any other day it is not silent.
            elif len(tables) > 1:
                silent.append(f"{dataset}/{partition.day}")
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        list(pool.map(lambda drop: write_drop(store, drop), drops))

    # The virtual now is after everything that was delivered, also after what arrived late.
    arrivals = [drop.delivered_at for drop in drops]
    now = advance_clock(settings, max([partitions.last.cutoff, *arrivals]))
    n_drops: Counter[str] = Counter()
    n_rows: Counter[str] = Counter()
    for drop in drops:
        n_drops[drop.dataset] += 1
        n_rows[drop.dataset] += drop.n_rows
    return DeliverySummary(
        partitions,
        dict(n_drops),
        dict(n_rows),
        tuple(silent),
        now,
    )


def _drop(dataset: str, partition: Partition, table: pa.Table) -> NewDrop:
    return NewDrop(
        dataset,
        partition.day,
        delivery_time(dataset, partition),
        _csv(table),
        table.num_rows,
        name=dataset,
    )


def _csv(table: pa.Table) -> bytes:
    import pyarrow as pa
    from pyarrow import csv

    options = csv.WriteOptions(quoting_style="needed", quoting_header="none")
    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, options)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _apply_faults(drop: NewDrop, faults: Iterable[Fault]) -> Iterator[NewDrop]:
    """Yield the drops that arrive instead of a good one; faults of other drops do nothing."""
    arriving = [drop]
    for fault in faults:
        if (fault.dataset, fault.day) != (drop.dataset, drop.partition):
            continue
        # A fault applies to each drop that an earlier fault made: a late copy may be wrong too.
        before, arriving = arriving, []
        for damaged in before:
            arriving += apply_fault(fault, damaged)
    yield from arriving
