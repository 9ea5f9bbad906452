"""Read the summaries of the partitions that a champion was trained on, and of those since.

The loads are those that the training set's manifest names, so a champion has the same reference on
every rerun, whatever was corrected since. Their summaries lie with the profiles; a load without one
is scanned once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.columns.night_series import SCORE, Profile
from nightshift.monitoring.columns.slow_change import MAX_SLOW_DAYS
from nightshift.monitoring.scans import profile_missing
from nightshift.quality.profiles import LoadTable, keep_profile
from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.quality.stored_summaries import read_orders, read_summaries
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.monitoring.champion import Champion
    from nightshift.quality.column_order import ColumnOrder
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

    Doubles = npt.NDArray[np.float64]

MAX_RECENT_DAYS = 42
"""Partitions since the training that tell where a column stands now."""


class PublishedColumns(NamedTuple):
    """The features of one published partition.

    Attributes:
        profile: Their summaries; empty without rows.
        order: How they compare row by row; None without rows.
    """

    profile: Profile
    order: ColumnOrder | None


@dataclass
class ReferenceReader:
    """Reads the summaries of loads, and makes those that are missing.

    Attributes:
        settings: Where the warehouse is.
        conn: A connection outside of a transaction.
        spec: The model.
        run: Recorded with the profiles.
    """

    settings: Settings
    conn: Connection
    spec: ModelSpec
    run: RunContext
    _names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self._names = frozenset(self.spec.features.names)

    def training_loads(self, training_set: str, window: PartitionRange) -> dict[dt.date, int]:
        """Return the feature loads of a training set by day, rising."""
        row = self.conn.execute(
            "select manifest -> 'partitions' from ml.training_sets where training_set = %s",
            [training_set],
        ).fetchone()
        # The manifest names the load of each partition, also of those replaced since.
        loads = {}
        for load in (row and row[0]) or []:
            if load.get("load_id") is not None:
                loads[dt.date.fromisoformat(load["partition"])] = int(load["load_id"])
        # Training sets of early releases name no loads: what is published describes them best.
        return loads or published_loads(
            self.conn,
            self.spec.features_dataset,
            window,
        )

    def recent_loads(self, partition: Partition) -> dict[dt.date, int]:
        """Return the published feature loads before a partition, by day, rising."""
        days = PartitionRange(
            partition.shift(-MAX_RECENT_DAYS),
            partition.shift(-1),
        )
        return published_loads(
            self.conn,
            self.spec.features_dataset,
            days,
        )

    def loads_since(self, window: PartitionRange, partition: Partition) -> dict[dt.date, int]:
        """Return the published feature loads since a training window, a partition's included."""
        first = max(window.last.shift(1).day, partition.shift(-MAX_SLOW_DAYS).day)
        # A night of the training itself has nothing since.
        if first > partition.day:
            return {}
        days = PartitionRange(Partition(first), partition)
        return published_loads(self.conn, self.spec.features_dataset, days)

    def summaries(self, loads: Mapping[dt.date, int]) -> dict[dt.date, Profile]:
        """Return the features' summaries of some loads by day, rising.

        A load whose rows are gone, and that was never profiled, is left out.
        """
        profile_missing(
            self.settings,
            self.conn,
            self.spec,
            self.run,
            loads,
        )
        # Read back, so that the first verdict and all later ones see the same bytes.
        known = read_summaries(
            self.conn,
            self.spec.features_dataset,
            loads,
        )
        # The champion's features only: the view may have columns that no model reads.
        chosen: dict[dt.date, Profile] = {}
        for day in sorted(known):
            chosen[day] = {
                name: summary for name, summary in known[day].items() if name in self._names
            }
        return chosen

    def published(self, partition: Partition) -> PublishedColumns:
        """Return the features of a published partition.

        They are read from the store, so that a rerun and the other models of the view see the same.

        Raises:
            ProfileError: The partition is not published.
        """
        load = LoadTable.published(
            self.conn,
            self.spec.features_dataset,
            partition.day,
        )
        loads = {load.day: load.load_id}
        profile = self.summaries(loads).get(load.day, {})
        order = self.orders(loads).get(load.day)
        return PublishedColumns(profile, order)

    def orders(self, loads: Mapping[dt.date, int]) -> dict[dt.date, ColumnOrder]:
        """Return how the columns of some loads compare, by day."""
        return read_orders(
            self.conn,
            self.spec.features_dataset,
            loads,
        )

    def scores(self, champion: Champion) -> dict[dt.date, Profile]:
        """Return the summaries of a champion's scores of its training rows, by day, rising."""
        dataset = f"training_scores/{self.spec.name}"
        version = champion.version.version
        loads = dict.fromkeys(
            champion.window.days,
            version,
        )
        known = read_summaries(
            self.conn,
            dataset,
            loads,
        )
        if known:
            return known
        # Made once: rows and scores of a version never change.
        sketches = champion.training_scores()
        # One transaction: some of the days would count as the whole reference.
        with self.conn.transaction():
            for day, sketch in sketches.items():
                load = LoadTable(
                    dataset,
                    "ml",
                    "training_sets",
                    version,
                    day,
                )
                keep_profile(
                    self.conn,
                    load,
                    {SCORE: sketch},
                    self.run,
                )
        return read_summaries(
            self.conn,
            dataset,
            loads,
        )


def score_sketches(rows: pa.Table, scores: Doubles) -> dict[dt.date, NumberSketch]:
    """Return the sketches of scores by day.

    Args:
        rows: Ordered by ``partition_date``.
        scores: Shape (n,).
    """
    days = rows.column("partition_date").to_numpy().astype("datetime64[D]")
    unique, starts = np.unique(
        days,
        return_index=True,
    )
    sketches = {}
    for day, part in zip(
        unique,
        np.split(scores, starts[1:]),
        strict=True,
    ):
        sketch = NumberSketch()
        sketch.add(np.array(part, np.float64))
        sketches[day.item()] = sketch
    return sketches
