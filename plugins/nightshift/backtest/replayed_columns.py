"""The columns of a partition as a policy of a backtest left them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.columns.fault_history import FaultHistory
from nightshift.monitoring.columns.faults import PublishedFault
from nightshift.monitoring.columns.night_series import SCORE, Profile
from nightshift.monitoring.columns.partition_columns import PartitionColumns
from nightshift.monitoring.columns.reference import ColumnReference
from nightshift.monitoring.columns.slow_change import MAX_SLOW_DAYS
from nightshift.monitoring.outcomes import read_features
from nightshift.quality.column_summary import summarize
from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    from nightshift.monitoring.champion import Champion
    from nightshift.monitoring.estimation import Estimate


@dataclass(kw_only=True)
class ReplayedColumns(PartitionColumns):
    """The columns of a partition whose scores and earlier faults are those of a policy.

    Attributes:
        found_faults: By partition, the broken columns that the policy's monitor found.
    """

    found_faults: Mapping[dt.date, Sequence[PublishedFault]]

    def reference(self, champion: Champion) -> ColumnReference:
        """Return what is usual of the columns of the model that served this partition."""
        if champion.reference is None:
            loads = self.training_loads(champion)
            scores = {}
            for day, sketch in champion.training_scores().items():
                scores[day] = {SCORE: summarize(sketch)}
            champion.reference = ColumnReference.of(
                self.reader.summaries(loads),
                self.reader.orders(loads),
                scores,
                self.spec.monitoring.drift_limit,
            )
        return champion.reference

    def training_loads(self, champion: Champion) -> dict[dt.date, int]:
        """Return the feature loads of a champion's training days."""
        # The features are published in the backtest's warehouse; scores and sets are not.
        return published_loads(self.conn, self.spec.features_dataset, champion.window)

    @cached_property
    def fault_history(self) -> FaultHistory:
        """Return the faults that this policy's monitor found before this partition."""
        return FaultHistory.of(self.partition, self.found_faults)

    @cached_property
    def slow_history(self) -> FaultHistory:
        """Return the faults that this policy's monitor found on the nights that are added up."""
        return FaultHistory.of(self.partition, self.found_faults, MAX_SLOW_DAYS)

    def faults_since(self, first: Partition) -> list[str]:
        """Return the broken columns from a partition on to the one before this, for people."""
        # Nothing of a replay is published, so the faults are those that it found itself.
        lines = []
        for day in PartitionRange(first, self.partition.shift(-1)).days:
            lines += [f"{day}: {fault}" for fault in self.found_faults.get(day, ())]
        return lines

    @property
    def slice_loads(self) -> dict[dt.date, int]:
        """Return nothing: slices cost a scan a night and decide nothing here."""
        return {}

    def score_profile(self) -> Profile:
        """Return the summary of the scores of all rows: in a replay nothing is published."""
        if self.champion is None:
            return {}
        rows = read_features(
            self.settings,
            self.spec,
            self.partition,
            self.run.application_name,
        )
        # All rows of the partition, as the monitor counts all published ones.
        sketch = NumberSketch()
        sketch.add(self.champion.trained.predictions(rows).score)
        return {SCORE: summarize(sketch)}

    def estimate(self) -> list[Estimate]:
        """Return nothing: estimates request no retrain."""
        return []
