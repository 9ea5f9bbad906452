"""Play the upstream system: write the drops of a range of operating days into the landing prefix."""

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
from nightshift.contracts.partitions import Partition
from nightshift.lake.drops import PARALLEL_REQUESTS, NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.partitions import PartitionRange
    from nightshift.settings import Settings


@dataclass(frozen=True)
class DeliverySummary:
    """What was delivered.

    Attributes:
        partitions: The operating days asked for.
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
    """Deliver the files of a range of operating days; delivering again changes nothing.

    Args:
        settings: Where the lake is, and the folder of the virtual clock.
        partitions: The days.
        faults: What goes wrong, each for its dataset and day; in this order.
        datasets: Which datasets; all by default.

    Raises:
        SourceDataError: The data files are absent.
        ObjectConflictError: Other content was delivered under the same name.
        ObjectStoreError: The store cannot be written.
    """
    store = ObjectStore.open(settings)
    store.ensure_bucket()
    drops = list(_with_faults(_drops(partitions, datasets), faults))
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        list(pool.map(lambda drop: write_drop(store, drop), drops))
    now = advance_clock(
        settings, max([partitions.last.cutoff, *(drop.delivered_at for drop in drops)])
    )
    n_drops, n_rows = Counter(drop.dataset for drop in drops), Counter[str]()
    for drop in drops:
        n_rows[drop.dataset] += drop.n_rows
    return DeliverySummary(
        partitions, dict(n_drops), dict(n_rows), tuple(_silent(partitions, datasets)), now
    )


def _drops(partitions: PartitionRange, datasets: Iterable[str]) -> Iterator[NewDrop]:
    for dataset in datasets:
        tables = read_by_partition(dataset)
        for partition in partitions:
            if partition.day in tables:
                yield _drop(dataset, partition, tables[partition.day])


def _drop(dataset: str, partition: Partition, table: pa.Table) -> NewDrop:
    return NewDrop(
        dataset,
        partition.day,
        delivery_time(dataset, partition),
        _csv(table),
        table.num_rows,
        dataset,
    )


def _csv(table: pa.Table) -> bytes:
    import pyarrow as pa
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    csv.write_csv(table, sink, csv.WriteOptions(quoting_style="needed", quoting_header="none"))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _with_faults(drops: Iterable[NewDrop], faults: Sequence[Fault]) -> Iterator[NewDrop]:
    for drop in drops:
        played = [drop]
        for fault in faults:
            if (fault.dataset, fault.day) == (drop.dataset, drop.partition):
                played = [after for before in played for after in apply_fault(fault, before)]
        yield from played


def _silent(partitions: PartitionRange, datasets: Iterable[str]) -> Iterator[str]:
    for dataset in datasets:
        tables = read_by_partition(dataset)
        if len(tables) > 1:
            yield from (f"{dataset}/{day}" for day in partitions.days if day not in tables)
