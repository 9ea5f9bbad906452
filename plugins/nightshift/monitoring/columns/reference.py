"""What is usual of a champion's columns: the partitions that it was trained on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.monitoring.columns.change_sums import SlowChanges
from nightshift.monitoring.columns.column_drift import ColumnDistances
from nightshift.monitoring.columns.input_faults import InputChecks
from nightshift.monitoring.columns.night_series import Profile, SeriesTable
from nightshift.monitoring.columns.order_relations import learn_orders

if TYPE_CHECKING:
    from nightshift.quality.column_order import ColumnOrder


@dataclass(frozen=True)
class ColumnReference:
    """What is usual of the features and the score of a champion.

    Attributes:
        features: Distances of the features from the training partitions.
        score: Distance of the score; None without scores of the training partitions.
        orders: Pairs of columns of which the first was never above the second.
    """

    features: ColumnDistances
    score: ColumnDistances | None
    orders: frozenset[tuple[str, str]]

    @classmethod
    def of(
        cls,
        profiles: Mapping[dt.date, Profile],
        orders: Mapping[dt.date, ColumnOrder],
        scores: Mapping[dt.date, Profile],
        limit: float,
    ) -> ColumnReference:
        """Describe the training partitions by their columns, their rows' order and their scores."""
        table = SeriesTable.of(profiles)
        score = (
            ColumnDistances(
                SeriesTable.of(scores),
                limit,
            )
            if scores
            else None
        )
        return cls(
            ColumnDistances(table, limit),
            score,
            learn_orders(table, orders),
        )

    @cached_property
    def slow(self) -> SlowChanges:
        """Return the slow changes since the training, of which a champion's nights are kept."""
        return SlowChanges(self.features.table, self.features.usual)

    def checks(
        self,
        recent: Mapping[dt.date, Profile],
        broken: Mapping[dt.date, frozenset[str]],
    ) -> InputChecks:
        """Return the checks of a partition.

        Args:
            recent: The partitions between the training and it.
            broken: The columns that were broken on some of these; they tell nothing.
        """
        table = self.features.table
        newest = table.days[-1] if table.days else dt.date.min
        for day in sorted(recent):
            if day > newest:
                table = table.extended(
                    day,
                    recent[day],
                    broken.get(day, frozenset()),
                )
        return InputChecks(table, self.orders)
