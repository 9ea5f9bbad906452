"""Input faults as they are published: since when a column is broken, and which feeds it has."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import read_contracts
from nightshift.monitoring.columns.faults import PublishedFault

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition, PartitionRange
    from nightshift.monitoring.columns.faults import InputFault
    from nightshift.warehouse.connection import Connection

RESET_DAYS = 7
"""After so many days a broken column counts again as what is usual: a jump that stays is the world.

Kinds that compare with the training partitions, as a frozen column, stay broken all the same.
"""


@dataclass(frozen=True)
class FaultHistory:
    """The published faults of a model before a partition.

    Attributes:
        partition: The partition.
        since: By day and column, the first of the consecutive partitions.
    """

    partition: Partition
    since: Mapping[dt.date, Mapping[str, dt.date]]

    @classmethod
    def read(
        cls, conn: Connection, spec: ModelSpec, partition: Partition, n_days: int = RESET_DAYS
    ) -> FaultHistory:
        """Read what was published of so many days before a partition."""
        rows = conn.execute(
            """
            select night, "column", since from monitoring.input_faults
            where model = %s and night < %s and night >= %s::date - %s order by 1, 2
            """,
            [spec.name, partition.day, partition.day, n_days],
        )
        # By day and column: a column may be broken on some days of the week only.
        since: dict[dt.date, dict[str, dt.date]] = {}
        for day, column, first in rows:
            since.setdefault(day, {})[column] = first
        return cls(partition, since)

    @classmethod
    def of(
        cls,
        partition: Partition,
        faults: Mapping[dt.date, Sequence[PublishedFault]],
        n_days: int = RESET_DAYS,
    ) -> FaultHistory:
        """Return the history of faults by day; only those that ``read`` would read count."""
        oldest = partition.day - dt.timedelta(days=n_days)
        since = {}
        for day, of_day in faults.items():
            if oldest <= day < partition.day and of_day:
                since[day] = {fault.feature: fault.since for fault in of_day}
        return cls(partition, since)

    @property
    def broken(self) -> dict[dt.date, frozenset[str]]:
        """Return the columns that were broken, by day; those of long faults are left out."""
        oldest = self.partition.day - dt.timedelta(days=RESET_DAYS)
        # A column that has been broken for a week tells again what is usual now.
        broken = {}
        for day, columns in self.since.items():
            broken[day] = frozenset(name for name, first in columns.items() if first > oldest)
        return broken

    def broken_nights(self, tonight: Sequence[PublishedFault]) -> dict[dt.date, frozenset[str]]:
        """Return by day the columns that were broken then, and for less than a week; tonight too.

        What has stayed for a week is the world, also where it is looked at later.
        """
        by_day = {**self.since, self.partition.day: {of.feature: of.since for of in tonight}}
        broken = {}
        for day, columns in by_day.items():
            oldest = day - dt.timedelta(days=RESET_DAYS)
            broken[day] = frozenset(name for name, first in columns.items() if first > oldest)
        return broken

    def publish(
        self, faults: Sequence[InputFault], feeds: Mapping[str, Sequence[str]]
    ) -> list[PublishedFault]:
        """Return faults with the day since which each column is broken, and its feeds."""
        before = self.since.get(
            self.partition.shift(-1).day,
            {},
        )
        published = []
        for fault in faults:
            # Broken on the night before too: it is the same fault, whatever its kind is called.
            first = before.get(
                fault.column,
                self.partition.day,
            )
            of_column = feeds.get(fault.column, ())
            row_of_fault = PublishedFault(
                feature=fault.column,
                kind=fault.kind,
                distance=fault.distance,
                detail=fault.detail,
                since=first,
                feeds=of_column,
            )
            published.append(row_of_fault)
        return published


def column_feeds(
    conn: Connection, spec: ModelSpec, partition: Partition, datasets_dir: Path
) -> dict[str, list[str]]:
    """Return the raw datasets behind each feature, of those that the feature load read.

    A dataset stands behind a feature whose name begins with that of a column of its contract, or
    with the name of the dataset; where none does, all that the load read stand behind it.
    """
    row = conn.execute(
        """
        select l.inputs from ops.published p
            join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %s and p.partition_date = %s
        """,
        [spec.features_dataset, partition.day],
    ).fetchone()
    contracts = read_contracts(datasets_dir).documents.values()
    # Only what this load read can have broken it.
    read = {
        contract.dataset: contract for contract in contracts if row and contract.dataset in row[0]
    }
    feeds = {}
    for feature in spec.features.names:
        lengths = {}
        for dataset, contract in read.items():
            named = [column.name for column in contract.columns if feature.startswith(column.name)]
            lengths[dataset] = max(map(len, named), default=0)
        # ``temperature_f_last`` is of the dataset with ``temperature_f``, not of one with ``t``.
        longest = max(lengths.values(), default=0)
        chosen = [dataset for dataset, length in lengths.items() if length == longest]
        feeds[feature] = sorted(chosen)
    return feeds


def faults_between(conn: Connection, spec: ModelSpec, partitions: PartitionRange) -> list[str]:
    """Return the published faults of some partitions, one line a column and day."""
    rows = conn.execute(
        """
        select night, "column", kind, feeds from monitoring.input_faults
        where model = %s and night between %s and %s order by 1, 2
        """,
        [spec.name, partitions.first.day, partitions.last.day],
    )
    lines = []
    for day, column, name, feeds in rows:
        named = ", ".join(feeds) or "no raw dataset"
        lines.append(f"{column} of {day} was {name} (feed: {named})")
    return lines
