"""The summaries of columns as series: one row a partition, one column a statistic of a column."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nightshift.monitoring.columns.usual_variation import column_quantile, quiet, robust_scale
from nightshift.quality.column_summary import QUANTILES, ColumnSummary

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

SCORE = "score"
"""The column of the model's own output."""
QUANTILE_NAMES = tuple(f"q{share * 100:02.0f}" for share in QUANTILES)
LOCATIONS = ("mean", "std", "minimum", *QUANTILE_NAMES, "maximum")
SHARES = ("missing_share", "zero_share", "total_variation", "other_share", "repeated_share")
NUMBER_STATISTICS = (*LOCATIONS, "missing_share", "zero_share", "n_distinct", "repeated_share")
TEXT_STATISTICS = ("missing_share", "n_distinct", "total_variation", "other_share")
DRIFT_STATISTICS = frozenset(("mean", "std", *QUANTILE_NAMES, "missing_share", "total_variation"))
"""What a slow change of the world moves; extremes and counts of values tell broken inputs only."""
MATERIAL_SHARE = 0.0025
"""Smallest usual variation of a share: four times as much, one row in a hundred, is always seen."""
MATERIAL_PART = 0.02
"""Smallest usual variation of a location, in standard deviations of the column."""
SAME = 1e-9
"""Numbers closer than this share of them are one: sums in another order."""
QUANTILE_ERROR = 1 / 64
"""A quantile of a sketch is off by so much of itself at most."""

Profile = Mapping[str, ColumnSummary]


class Series(NamedTuple):
    """The name of a series: a statistic of a column."""

    column: str
    statistic: str


@dataclass(frozen=True)
class SeriesTable:
    """Summaries of some partitions.

    Attributes:
        days: The partitions, rising; n of them.
        profiles: The columns' summaries, one profile a day.
        names: The series; k of them.
        shares: By column of strings, the share of each level over the training partitions.
        n_reference: The first partitions are those of the training set.
        rows: The values of the series, one row a partition.
    """

    days: Sequence[dt.date]
    profiles: Sequence[Profile]
    names: Sequence[Series]
    shares: Mapping[str, Mapping[str, float]]
    n_reference: int
    rows: Sequence[Sequence[float]]

    @classmethod
    def of(cls, reference: Mapping[dt.date, Profile]) -> SeriesTable:
        """Return the series of the training partitions."""
        names: list[Series] = []
        shares: dict[str, Mapping[str, float]] = {}
        for column in sorted(set().union(*reference.values())):
            summaries = [profile[column] for profile in reference.values() if column in profile]
            is_text = any(summary.is_text for summary in summaries)
            statistics = TEXT_STATISTICS if is_text else NUMBER_STATISTICS
            names += [Series(column, statistic) for statistic in statistics]
            if is_text:
                shares[column] = pooled_shares(summaries)
        table = cls([], [], names, shares, 0, [])
        for day, profile in reference.items():
            table = table.extended(day, profile)
        return replace(
            table,
            n_reference=len(reference),
        )

    def extended(
        self, day: dt.date, profile: Profile, broken: frozenset[str] = frozenset()
    ) -> SeriesTable:
        """Return the series with one partition more, which is newer than all.

        Args:
            day: The partition.
            profile: Its columns.
            broken: Columns that tell nothing, because an input was broken.
        """
        # Repeated values are those of the newest partition before, whether it was broken or not.
        row = self.row(
            profile,
            self.profiles[-1] if self.profiles else None,
        )
        for position, name in enumerate(self.names):
            if name.column in broken:
                row[position] = np.nan
        return replace(
            self,
            days=[*self.days, day],
            profiles=[*self.profiles, profile],
            rows=[*self.rows, row],
        )

    @cached_property
    def values(self) -> Doubles:
        """Return the series; shape (n, k)."""
        return np.array(self.rows, np.float64).reshape(
            len(self.rows),
            len(self.names),
        )

    @cached_property
    def weekdays(self) -> npt.NDArray[np.int64]:
        """Return the weekday of each partition, 0 to 6; shape (n,)."""
        return np.array(
            [day.weekday() for day in self.days],
            np.int64,
        )

    @cached_property
    def index(self) -> dict[Series, int]:
        """Return where each series stands."""
        return {name: position for position, name in enumerate(self.names)}

    def row(self, profile: Profile, before: Profile | None) -> list[float]:
        """Return the values of one partition; NaN where the column has none.

        Args:
            profile: Its columns.
            before: Those of the partition before.
        """
        values = []
        for column, statistic in self.names:
            # A partition may lack a column: the view of an earlier release did not have it.
            summary = profile.get(column)
            if summary is None or not summary.n_rows:
                values.append(np.nan)
            elif statistic == "repeated_share":
                earlier = before.get(column) if before else None
                values.append(summary.repeated_share(earlier) if earlier else np.nan)
            else:
                values.append(
                    _value(
                        summary,
                        statistic,
                        self.shares.get(column, {}),
                    )
                )
        return values

    @cached_property
    def floors(self) -> Doubles:
        """Return the smallest usual variation that matters, by series; shape (k,)."""
        # Only what is usual counts, so the partitions since the training are left out.
        with quiet():
            reference = self.values[: self.n_reference]
            centers = column_quantile(reference, 0.5)
            spreads = robust_scale(reference - centers)
        floors = []
        for position, (column, statistic) in enumerate(self.names):
            center = abs(centers[position])
            if statistic in SHARES:
                floors.append(MATERIAL_SHARE)
            elif statistic == "n_distinct":
                floors.append(max(0.25, MATERIAL_PART * center))
            else:
                # A column with one value a night has no spread within, only across nights.
                within = abs(centers[self.index[Series(column, "std")]])
                across = spreads[self.index[Series(column, "mean")]]
                part = MATERIAL_PART * np.fmax(within, across)
                floor = part + SAME * max(center, 1.0)
                if statistic in QUANTILE_NAMES:
                    floor += QUANTILE_ERROR * center
                floors.append(floor)
        return np.nan_to_num(
            np.array(floors, np.float64),
            nan=MATERIAL_SHARE,
        )


def pooled_shares(summaries: Sequence[ColumnSummary]) -> dict[str, float]:
    """Return the mean share of each level over partitions."""
    shares: dict[str, float] = {}
    for summary in summaries:
        n_known = max(
            summary.n_rows - summary.n_missing,
            1,
        )
        for level, n_rows in summary.levels.items():
            shares[level] = shares.get(level, 0.0) + n_rows / n_known / len(summaries)
    return shares


def _value(summary: ColumnSummary, statistic: str, shares: Mapping[str, float]) -> float:
    if statistic in ("missing_share", "n_distinct"):
        return float(getattr(summary, statistic))
    n_known = summary.n_rows - summary.n_missing
    if not n_known:
        return np.nan
    if statistic == "other_share":
        unseen = [n for level, n in summary.levels.items() if level not in shares]
        return sum(unseen) / n_known
    if statistic == "total_variation":
        levels = {*shares, *summary.levels}
        own = summary.levels
        gaps = []
        for level in levels:
            share = own.get(level, 0) / n_known
            usual = shares.get(level, 0.0)
            gaps.append(abs(share - usual))
        # Exactly rounded: the levels come in another order in each process.
        return math.fsum(gaps) / 2
    if statistic in QUANTILE_NAMES:
        if not summary.quantiles:
            return np.nan
        return summary.quantiles[QUANTILE_NAMES.index(statistic)]
    value = getattr(summary, statistic)
    return np.nan if value is None else float(value)
