"""A partition compared with the partitions before it: steps, jumps, and what is expected."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nightshift.monitoring.columns.night_series import QUANTILE_NAMES, Profile, Series, SeriesTable
from nightshift.monitoring.columns.usual_variation import UsualStep, column_quantile, quiet
from nightshift.quality.column_summary import N_HASHES

if TYPE_CHECKING:
    import datetime as dt

    import numpy.typing as npt

    from nightshift.quality.column_summary import ColumnSummary

    Doubles = npt.NDArray[np.float64]

STEP_LIMIT = 6.0
"""Usual steps above which a jump is no chance, whatever the shape of the variation."""
BEYOND_LARGEST = 1.3
"""And it must exceed the largest step of the training partitions by so much."""
RECENT = 7
"""After so many nights a jump that stays is no fault: the world has changed, and drift says so."""
MIN_RECENT = 4


@dataclass(frozen=True)
class ComparedNight:
    """A partition, compared with those before it.

    Attributes:
        table: Training partitions, and those since.
        usual: How much the series usually step.
        day: The partition.
        profile: Its columns.
        before: Those of the partition before; None if it is not known.
        values: Its values of the series; shape (k,).
    """

    table: SeriesTable
    usual: UsualStep
    day: dt.date
    profile: Profile
    before: Profile | None
    values: Doubles

    @cached_property
    def steps(self) -> Doubles:
        """Return the step of each series, in usual steps."""
        return self.usual.steps(
            self.values,
            self.day.weekday(),
        )

    @cached_property
    def jumps(self) -> npt.NDArray[np.bool_]:
        """Return which series step further than any step before, from training and from lately."""
        # Three questions: further than chance, further than ever, and further than lately?
        usual = self.usual
        expected = usual.expected(self.day.weekday())
        with quiet():
            size = np.abs(self.values - expected) / usual.scale
            is_far = np.abs(self.steps) > STEP_LIMIT
            lately = np.abs(self.values - self.recent_level()) / usual.scale
        # Without enough nights since the training, these do not speak.
        has_returned = lately <= STEP_LIMIT
        return is_far & (size > BEYOND_LARGEST * usual.largest) & ~has_returned

    def recent_level(self) -> Doubles:
        """Return the median of the last nights since the training; NaN for too few. Shape (k,)."""
        table = self.table
        # Columns that were broken on these nights are NaN there.
        recent = table.values[table.n_reference :][-RECENT:]
        n_known = np.sum(~np.isnan(recent), axis=0)
        return np.where(
            n_known >= MIN_RECENT,
            column_quantile(recent, 0.5),
            np.nan,
        )

    def reference(self, column: str, statistic: str) -> Doubles:
        """Return the values of a series over the training partitions, those without one left out.

        Shape (any,).
        """
        table = self.table
        # Strings have no mean, and numbers no levels.
        position = table.index.get(Series(column, statistic))
        if position is None:
            return np.empty(0)
        values = table.values[: table.n_reference, position]
        return values[~np.isnan(values)]

    def value(self, column: str, statistic: str) -> float:
        """Return tonight's value of a series; NaN without one."""
        position = self.table.index.get(Series(column, statistic))
        return math.nan if position is None else float(self.values[position])

    def expected(self, column: str, statistic: str) -> float:
        """Return what the partitions before let expect of a series."""
        expected = self.usual.expected(self.day.weekday())
        return float(expected[self.table.index[Series(column, statistic)]])

    def step(self, column: str, statistic: str) -> float:
        """Return the size of a series' step, in usual steps."""
        position = self.table.index[Series(column, statistic)]
        return float(abs(np.nan_to_num(self.steps[position])))

    @property
    def columns(self) -> Iterator[tuple[str, ColumnSummary]]:
        """Return the columns that the training partitions have."""
        # A column that the training never had cannot be compared.
        known = {name.column for name in self.table.names}
        for column, summary in self.profile.items():
            if column in known and summary.n_rows:
                yield column, summary

    def seen_shares(self, column: str, summary: ColumnSummary) -> tuple[float, Doubles]:
        """Return the share of distinct values that training partitions had: tonight's, and theirs.

        A training partition is compared with all but itself. The second is empty for columns with
        too many values to keep all their hashes.
        """
        reference = self.table.profiles[: self.table.n_reference]
        nightly = [profile[column] for profile in reference if column in profile]
        if max((known.n_distinct for known in nightly), default=N_HASHES + 1) > N_HASHES:
            return 1.0, np.empty(0)
        values, counts = np.unique(
            np.concatenate([known.hashes for known in nightly]),
            return_counts=True,
        )
        # A value that two partitions had was seen by each of them in the other one.
        shared = values[counts > 1]
        usual = [np.isin(known.hashes, shared).mean() for known in nightly if known.hashes.size]
        tonight = float(np.isin(summary.hashes, values).mean())
        return tonight, np.array(usual, np.float64)

    def n_known_values(self, column: str) -> int:
        """Return how many distinct values the training partitions had, as far as hashes tell."""
        reference = self.table.profiles[: self.table.n_reference]
        hashes = [profile[column].hashes for profile in reference if column in profile]
        return int(np.unique(np.concatenate(hashes)).size) if hashes else 0

    def locations(self, column: str) -> tuple[Doubles, Doubles, Doubles]:
        """Return expected and tonight's quantiles of a column of numbers, and their usual steps."""
        expected = self.usual.expected(self.day.weekday())
        index = self.table.index
        where = [index[Series(column, q)] for q in QUANTILE_NAMES if Series(column, q) in index]
        return expected[where], self.values[where], self.usual.scale[where]

    def jumped(self, statistics: tuple[str, ...]) -> list[str]:
        """Return the columns of which one of some statistics jumped."""
        names = self.table.names
        jumped = {
            name.column
            for name, jump in zip(
                names,
                self.jumps,
                strict=True,
            )
            if jump and name.statistic in statistics
        }
        return sorted(jumped & set(self.profile))

    def largest(self, column: str) -> float:
        """Return a column's largest step, in usual steps."""
        names = self.table.names
        sizes = [
            abs(float(step))
            for name, step in zip(
                names,
                np.nan_to_num(self.steps),
                strict=True,
            )
            if name.column == column
        ]
        return max(sizes)
