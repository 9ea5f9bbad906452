"""Sums over nights: deviations that are too small for any night, added up since the training.

Two sums a series, one for each side (Page 1954, Continuous inspection schemes): each grows with the
deviations to its side, and never falls below zero. A sum tells a change when it exceeds a boundary
that grows as the noise of such sums does. The boundary also allows for a usual value that is only
estimated, from a few months (Chu, Stinchcombe & White 1996, Monitoring structural change; Fremdt
2015, Page's sequential procedure for change-point detection in time series regression).

No state is kept: the sums are made again from the recorded nights, so a rerun gives the same.
Source: docs/adr/0060-slow-changes.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nightshift.monitoring.columns.night_series import DRIFT_STATISTICS, Profile, SeriesTable
from nightshift.monitoring.columns.slow_change import SlowChange
from nightshift.monitoring.columns.usual_variation import WITHIN_RANGE, quiet

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.monitoring.columns.usual_variation import UsualVariation

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

SLOW_STATISTICS = DRIFT_STATISTICS | {"zero_share", "n_distinct"}
"""A sensor that loses its resolution has fewer distinct values, night after night."""
MIN_NIGHTS = 28
"""Training nights below which nobody knows how slowly a series moves by itself."""
BATCHES = (1, 7, 14, 28)
"""Nights whose mean is one observation of how much sums vary."""
MIN_BATCHES = 4
SUM_LIMIT = 5.0
"""Height of the boundary. Measured by ``benchmarks.slow_changes``: see the ADR."""
EARLY = 0.25
"""Exponent that lowers the boundary for the first nights; 0 to 0.5."""


@dataclass(frozen=True)
class UsualSums:
    """How much sums of a series' deviations vary if nothing changes.

    Attributes:
        usual: How the series vary from night to night.
        offset: Mean deviation of the training nights, in usual variations; shape (k,).
        scale: Long-run standard deviation of a deviation, likewise; shape (k,).
        n: Training nights with a value; shape (k,).
    """

    usual: UsualVariation
    offset: Doubles
    scale: Doubles
    n: Doubles

    @classmethod
    def of(
        cls, series: Doubles, weekdays: Integers, usual: UsualVariation, floor: Doubles
    ) -> UsualSums:
        """Describe series of shape (n, k), one row a training night.

        Args:
            series: Oldest first; NaN is no observation.
            weekdays: 0 to 6; shape (n,).
            usual: Of the same series.
            floor: Smallest variation that matters; shape (k,).
        """
        deviations = bounded_deviations(usual, series, weekdays)
        with quiet():
            offset = np.nan_to_num(np.nanmean(deviations, axis=0))
        scale = np.fmax(long_run_scale(deviations - offset), floor / usual.scale)
        n = np.sum(~np.isnan(deviations), axis=0).astype(np.float64)
        return cls(usual, offset, scale, n)

    def add_up(self, values: Doubles, weekdays: Integers) -> tuple[Doubles, Integers]:
        """Return the evidence of each series, signed, and on which night its change began.

        Args:
            values: Nights since the training, shape (m, k); NaN is no observation.
            weekdays: 0 to 6; shape (m,).

        Returns:
            Shape (k,): the larger sum in units of the boundary, negative for the lower side; and
            the index of the first night of the change.
        """
        walk, n_added = self._walk(values, weekdays)
        # Page's sum is the distance of the walk from its lowest point so far; that point, when it
        # was reached last, is where the change began.
        above, below = walk[-1] - walk.min(axis=0), walk.max(axis=0) - walk[-1]
        up = len(values) - np.argmin(walk[::-1], axis=0)
        down = len(values) - np.argmax(walk[::-1], axis=0)
        evidence = np.where(above >= below, above, -below) / boundary(self.n, n_added)
        is_known = (self.n >= MIN_NIGHTS) & (n_added > 0)
        return np.where(is_known, evidence, 0.0), np.where(above >= below, up, down)

    def _walk(self, values: Doubles, weekdays: Integers) -> tuple[Doubles, Doubles]:
        """Return the summed deviations, from 0 on, and the added nights: (m + 1, k) and (k,)."""
        deviations = bounded_deviations(self.usual, values, weekdays) - self.offset
        steps = np.nan_to_num(deviations / self.scale)
        walk = np.vstack([np.zeros(steps.shape[1]), np.cumsum(steps, axis=0)])
        return walk, np.sum(~np.isnan(deviations), axis=0).astype(np.float64)


def bounded_deviations(usual: UsualVariation, values: Doubles, weekdays: Integers) -> Doubles:
    """Return deviations in usual variations, none further than the training nights have; (m, k).

    One night counts as one: a storm is no slow change, however far it is.
    """
    deviation = (values - usual.center - usual.weekday[weekdays]) / usual.scale
    return np.clip(deviation, -WITHIN_RANGE, WITHIN_RANGE)


def long_run_scale(deviations: Doubles) -> Doubles:
    """Return the standard deviation of sums of nights, per square root of a night; shape (k,).

    Nights that resemble their neighbours, and a season, make sums vary more than single nights do.
    The means of batches of nights know it, whatever the shape of the dependence.

    Source: Glynn & Whitt (1991), Estimating the asymptotic variance with batch means. The largest
    of several sizes is taken: few batches are noisy, small ones do not see a season.
    """
    filled = np.nan_to_num(deviations)
    scale = np.zeros(filled.shape[1])
    for size in BATCHES:
        n_batches = len(filled) // size
        if n_batches < MIN_BATCHES:
            continue
        # The newest nights are in whole batches; the oldest may be left out.
        newest = filled[len(filled) - n_batches * size :]
        means = newest.reshape(n_batches, size, -1).mean(axis=1)
        scale = np.fmax(scale, np.sqrt(size) * means.std(axis=0, ddof=1))
    return scale


def boundary(n: Doubles, m: Doubles) -> Doubles:
    """Return what sums of ``m`` nights must exceed after ``n`` training nights, as both broadcast.

    It grows as the noise of such sums does.
    """
    known, added = np.fmax(n, 1.0), np.fmax(m, 1.0)
    share = added / (known + added)
    return np.asarray(SUM_LIMIT * np.sqrt(known) * (1 + added / known) * share**EARLY)


@dataclass
class SlowChanges:
    """The slow changes of a champion's columns.

    Attributes:
        table: The training nights.
        usual: How their series vary from night to night.
    """

    table: SeriesTable
    usual: UsualVariation
    _rows: dict[tuple[dt.date, int], Sequence[float]] = field(default_factory=dict)

    @cached_property
    def _positions(self) -> dict[str, list[int]]:
        """Return where the statistics that are added up stand, by column."""
        positions: dict[str, list[int]] = {}
        for position, (column, statistic) in enumerate(self.table.names):
            if statistic in SLOW_STATISTICS:
                positions.setdefault(column, []).append(position)
        return positions

    @cached_property
    def _sums(self) -> UsualSums:
        table = self.table
        return UsualSums.of(table.values, table.weekdays, self.usual, table.floors)

    def unread(self, loads: Mapping[dt.date, int]) -> dict[dt.date, int]:
        """Return the loads whose columns are not known yet.

        What a load has of a day never changes. A range of days is one load.
        """
        return {day: load for day, load in loads.items() if (day, load) not in self._rows}

    def learn(self, loads: Mapping[dt.date, int], profiles: Mapping[dt.date, Profile]) -> None:
        """Keep the columns of some loads, by day."""
        for day, profile in profiles.items():
            self._rows[day, loads[day]] = self.table.row(profile, None)

    def find(
        self, loads: Mapping[dt.date, int], broken: Mapping[dt.date, frozenset[str]]
    ) -> dict[str, SlowChange]:
        """Return what each column adds up to over some nights.

        Args:
            loads: The nights since the training, tonight included, by day, rising; those that
                ``learn`` does not know are left out.
            broken: Columns that an input fault has broken on a night: it tells nothing of them.
        """
        days = [day for day, load in loads.items() if (day, load) in self._rows]
        if not days or not self.table.n_reference:
            return {}
        values = np.array([self._rows[day, loads[day]] for day in days], np.float64)
        for row, day in enumerate(days):
            for column in broken.get(day, frozenset()) & self._positions.keys():
                values[row, self._positions[column]] = np.nan
        weekdays = np.array([day.weekday() for day in days], np.int64)
        evidence, first = self._sums.add_up(values, weekdays)
        deviations = bounded_deviations(self.usual, values, weekdays) - self._sums.offset
        changes = {}
        for column, positions in self._positions.items():
            most = max(positions, key=lambda position: abs(evidence[position]))
            if not evidence[most]:
                continue
            # A sum that has just turned has no night yet.
            begun = min(int(first[most]), len(days) - 1)
            with quiet():
                shift = float(np.nan_to_num(np.nanmean(deviations[begun:, most])))
            changes[column] = SlowChange(
                self.table.names[most].statistic, abs(float(evidence[most])), days[begun], shift
            )
        return changes
