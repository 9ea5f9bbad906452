"""Estimate the interval of one partition from how wrong the newest nights were.

The night is the unit. Nights differ from each other more than rows do, so quantiles are those of
a mixture of nights, each with the same weight, and a night that nobody has seen may lie beyond all
of them. What the last nights missed moves the quantiles of the next. Sources: Dunn, Wasserman &
Ramdas (2022), Distribution-free prediction sets for two-layer hierarchical models; Gibbs & Candès
(2021), Adaptive conformal inference under distribution shift; docs/adr/0054-intervals.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.scoring.interval.night_interval import NightInterval

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.scoring_spec import Interval
    from nightshift.models.arrays import Integers, Vector
    from nightshift.models.unseen_nights import NightErrors

MINIMUM_ROWS = 100
"""Fewer rows of all nights say nothing about the tails."""
_MAXIMUM_BINS = 5
_BIN_ROWS = 200
"""Rows of all nights that a bin of predictions has at least."""
_EDGE = 0.005
"""A quantile nearer to 0 or 1 would be the most extreme row that was ever seen."""
_DIGITS = 7


@dataclass(frozen=True)
class IntervalEstimate:
    """An interval, or why there is none.

    Attributes:
        interval: None without one.
        reason: None with one, and where the spec wants none.
    """

    interval: NightInterval | None = None
    reason: str | None = None


NO_INTERVAL = IntervalEstimate()
"""Of rows that no model scores, and of models whose spec wants none."""


def without_interval(reason: str) -> IntervalEstimate:
    """Return no interval, for a reason that is recorded."""
    return IntervalEstimate(reason=reason)


def estimate_interval(
    spec: ModelSpec, history: Sequence[NightErrors], last_known: Callable[[dt.date], dt.date]
) -> IntervalEstimate:
    """Estimate the interval of a partition; a function of its arguments only.

    Args:
        spec: The model; it has ``scoring.interval``.
        history: Nights that the version was not fitted on, mature and known, in order.
        last_known: The newest night whose outcomes a partition knew.
    """
    declared = spec.scoring.interval
    if declared is None:
        return NO_INTERVAL
    newest = history[-declared.mature_nights :]
    if len(newest) < declared.minimum_nights:
        return without_interval(
            f"{len(newest)} night(s) that no fit has seen, {declared.minimum_nights} needed"
        )
    if spec.task is Task.BINARY:
        return IntervalEstimate(_band(declared, newest))
    n_rows = sum(entry.error.size for entry in newest)
    if n_rows < MINIMUM_ROWS:
        return without_interval(f"{n_rows} labelled row(s), {MINIMUM_ROWS} needed")
    return IntervalEstimate(_RowIntervals(declared, history, last_known).estimate())


def _band(declared: Interval, history: Sequence[NightErrors]) -> NightInterval:
    """Return by how much the whole of a night may lie lower or higher."""
    import numpy as np

    shifts = np.array([entry.error[0] for entry in history])
    below = (1 - declared.level) / 2
    # n nights and the next one are exchangeable: it is the k-th of n + 1 with the same chance for
    # each k. This is the quantile that says so.
    low, high = np.quantile(shifts, [below, 1 - below], method="weibull")
    # A probability outside of its own band would be a riddle: its level follows the nights.
    low, high = min(low, 0.0), max(high, 0.0)
    return NightInterval(
        level=declared.level,
        value=(0.0,),
        low=(_rounded(low),),
        high=(_rounded(high),),
        quantiles=(below, 1 - below),
        n_nights=len(history),
        n_unseen=0,
        first_night=history[0].day,
        last_night=history[-1].day,
    )


@dataclass(frozen=True)
class _RowIntervals:
    """The intervals of the rows of each night in turn, and of the one that comes next.

    Attributes:
        declared: Of the spec.
        history: All nights, in order.
        last_known: As for ``estimate_interval``.
    """

    declared: Interval
    history: Sequence[NightErrors]
    last_known: Callable[[dt.date], dt.date]

    def estimate(self) -> NightInterval:
        """Return the interval of a partition that knows all of the nights."""
        quantiles = self._adapted()
        newest = self.history[-self.declared.mature_nights :]
        offsets = self._offsets(len(self.history), quantiles)
        low, median, high = (tuple(map(_rounded, row)) for row in offsets)
        return NightInterval(
            level=self.declared.level,
            value=tuple(map(_rounded, self._value)),
            low=low,
            median=median,
            high=high,
            quantiles=tuple(map(_rounded, quantiles)),
            n_nights=len(newest),
            n_unseen=0,
            first_night=newest[0].day,
            last_night=newest[-1].day,
        )

    @cached_property
    def _bins(self) -> list[Integers]:
        """Return the bin of each row of each night, by its predicted value."""
        import numpy as np

        values = np.concatenate([entry.value for entry in self.history])
        n_bins = min(_MAXIMUM_BINS, max(1, values.size // _BIN_ROWS))
        shares = np.arange(1, n_bins) / n_bins
        # Equal values share a bin, so there may be fewer.
        edges = np.unique(np.quantile(values, shares, method="higher"))
        edges = edges[edges > values.min()]
        return [np.searchsorted(edges, entry.value, side="right") for entry in self.history]

    @cached_property
    def _value(self) -> Vector:
        """Return the mean predicted value of each bin, which rises."""
        import numpy as np

        values = np.concatenate([entry.value for entry in self.history])
        bins = np.concatenate(self._bins)
        means: Vector = np.bincount(bins, values) / np.bincount(bins)
        return means

    @cached_property
    def _asked(self) -> Vector:
        """Return the shares below low, median and high that the spec asks for."""
        import numpy as np

        below = (1 - self.declared.level) / 2
        return np.array([below, 0.5, 1 - below])

    def _adapted(self) -> Vector:
        """Return the quantiles to take next, after what the newest nights have missed.

        Each night gets the interval that it would have had, from the nights before it. A quantile
        below which too few outcomes were moves up for the nights that follow, and the other way.
        """
        import numpy as np

        quantiles = self._asked
        days = [entry.day for entry in self.history]
        first = max(0, len(self.history) - self.declared.mature_nights)
        for position in range(first, len(self.history)):
            # What was known on the evening on which the night was scored.
            n_known = bisect_right(days, self.last_known(days[position]))
            if n_known < self.declared.minimum_nights:
                continue
            entry = self.history[position]
            offsets = self._offsets(n_known, quantiles)
            ends = [np.interp(entry.value, self._value, row) for row in offsets]
            share_below = np.array([(entry.error <= end).mean() for end in ends])
            moved = quantiles + self.declared.adaptation * (self._asked - share_below)
            # No further than half of the way to the median, or to the end.
            quantiles = np.clip(moved, *self._bounds)
        return quantiles

    @cached_property
    def _bounds(self) -> tuple[Vector, Vector]:
        import numpy as np

        low, median, high = self._asked
        lowest = np.array([_EDGE, median - (median - low) / 2, (high + median) / 2])
        highest = np.array([(low + median) / 2, median + (high - median) / 2, 1 - _EDGE])
        return lowest, highest

    def _offsets(self, n_known: int, quantiles: Vector) -> list[Vector]:
        """Return low, median and high of the errors in each bin.

        Args:
            n_known: How many of the nights are known; the newest of them count.
            quantiles: Shares of the errors below.
        """
        import numpy as np

        known = slice(max(0, n_known - self.declared.mature_nights), n_known)
        history, night_bins = self.history[known], self._bins[known]
        bins = np.concatenate(night_bins)
        error = np.concatenate([entry.error for entry in history])
        # A busy night is one night: all have the same weight.
        weight = np.concatenate(
            [np.full(entry.error.size, 1 / entry.error.size) for entry in history]
        )
        shares = self._widened(quantiles, len(history))
        columns = []
        for number in range(self._value.size):
            is_bin = bins == number
            # A bin that no known night has takes the errors of all.
            rows = is_bin if is_bin.any() else np.full(bins.size, fill_value=True)
            columns.append(_weighted_quantiles(error[rows], weight[rows], shares))
        low, median, high = np.column_stack(columns)
        return [low, median, high]

    @staticmethod
    def _widened(quantiles: Vector, n_nights: int) -> Vector:
        """Return quantiles of n nights that are those of n + 1, of which one is unknown.

        The unknown night may lie beyond all others on either side, with a weight of 1 in n + 1.
        """
        import numpy as np

        widened = 0.5 + (quantiles - 0.5) * (n_nights + 1) / n_nights
        widened[1] = quantiles[1]
        clipped: Vector = np.clip(widened, _EDGE, 1 - _EDGE)
        return clipped


def _weighted_quantiles(values: Vector, weights: Vector, shares: Vector) -> Vector:
    """Return the values below which these shares of the weight lie; half of a row's is below it."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered = weights[order]
    total = np.cumsum(ordered)
    quantiles: Vector = np.interp(shares * total[-1], total - ordered / 2, values[order])
    return quantiles


def _rounded(value: float) -> float:
    # The last bits of a sum depend on the machine.
    return float(f"{value:.{_DIGITS}g}")
