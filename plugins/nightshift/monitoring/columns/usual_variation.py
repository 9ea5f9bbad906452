"""The usual variation of a column's summaries from partition to partition, and distances in it.

One partition is one observation. All rows of a day share one weather and one set of recent rates,
so a thousand rows of a day say no more about a season than one row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution in median absolute deviations."""
NORMAL_90 = 1.645
"""Its quantile of the absolute value at 90 percent, in standard deviations."""
WITHIN_RANGE = 3.5
"""Distance of the training partition that is furthest from usual, at most: rain falls on few of
them, and a night that rains as much as one of these has not drifted.
"""
WEEKDAY_GAIN = 0.8
"""Weekdays count if they leave at most this share of the variation."""
MIN_WEEKS = 4
MIN_EFFECTIVE = 3.0
SMOOTHINGS = (0.0, 0.3, 1.0)
"""Weights of the newest partition in the level that the next one is compared with; 0 is the median
of all training partitions.
"""


@dataclass(frozen=True)
class UsualVariation:
    """How some series, one value a partition, usually vary.

    Attributes:
        center: Median; shape (k,).
        weekday: Deviation of each weekday from it; shape (7, k).
        scale: Robust standard deviation around both; shape (k,).
        n_effective: Independent partitions that the series are worth; shape (k,).
    """

    center: Doubles
    weekday: Doubles
    scale: Doubles
    n_effective: Doubles

    @classmethod
    def of(cls, series: Doubles, weekdays: Integers, floor: Doubles) -> UsualVariation:
        """Describe series of shape (n, k); NaN is no observation.

        Args:
            series: One row a partition, oldest first.
            weekdays: 0 to 6; shape (n,).
            floor: Smallest scale that matters; shape (k,).
        """
        with quiet():
            center = column_quantile(series, 0.5)
            weekday = weekday_effects(
                series - center,
                weekdays,
            )
            # What is left once center and weekday are taken out.
            rest = series - center - weekday[weekdays]
            # A rare event has no spread in its quantiles, only in its extremes.
            furthest = np.nanmax(
                np.abs(rest),
                axis=0,
                initial=0.0,
            )
            scale = np.fmax(
                np.fmax(
                    robust_scale(rest),
                    furthest / WITHIN_RANGE,
                ),
                floor,
            )
            n_effective = _effective_number(rest)
        return cls(
            center,
            weekday,
            scale,
            n_effective,
        )

    def distances(self, values: Doubles, weekday: int) -> Doubles:
        """Return how far values are from usual, in standard deviations; shape (k,).

        A partition that belongs to the series has a standard normal distance, however few
        partitions they have.
        """
        # A weekday that explains nothing has an effect of 0.
        # So a series without weeks is compared with its median alone.
        deviation = values - self.center - self.weekday[weekday]
        # The center of few partitions is uncertain itself.
        widened = self.scale * np.sqrt(1 + 1 / self.n_effective)
        return np.asarray(
            normal_equivalent(
                deviation / widened,
                self.n_effective - 1,
            )
        )


@dataclass(frozen=True)
class UsualStep:
    """How much series usually differ from what the partitions before let expect.

    Attributes:
        smoothing: Weight of the newest partition in the level, of ``SMOOTHINGS``; shape (k,).
        weekday: Deviation of each weekday; shape (7, k).
        scale: Robust standard deviation of the steps; shape (k,).
        largest: Largest step, in these; shape (k,).
        levels: What the newest partition lets expect of the next one, by smoothing; shape
            (smoothings, k).
        n: Observed steps; shape (k,).
    """

    smoothing: Integers
    weekday: Doubles
    scale: Doubles
    largest: Doubles
    levels: Doubles
    n: Doubles

    @classmethod
    def of(cls, series: Doubles, weekdays: Integers, floor: Doubles, n_reference: int) -> UsualStep:
        """Describe series of shape (n, k), oldest first.

        Args:
            series: Training partitions, then those since; NaN is no observation.
            weekdays: 0 to 6; shape (n,).
            floor: Smallest scale that matters; shape (k,).
            n_reference: Number of training partitions; only these tell what is usual.
        """
        with quiet():
            reference = series[:n_reference]
            center = column_quantile(reference, 0.5)
            weekday = weekday_effects(
                reference - center,
                weekdays[:n_reference],
            )
            adjusted = series - center - weekday[weekdays]
            levels, errors = _follow(adjusted)
            usual = errors[:, :n_reference]
            size = np.nanmean(np.abs(usual), axis=1)
            # A level that follows must be clearly better than the median of all.
            size[0] *= 0.9
            smoothing = np.argmin(
                np.where(
                    np.isnan(size),
                    np.inf,
                    size,
                ),
                axis=0,
            )
            columns = np.arange(series.shape[1])
            steps = usual[smoothing, :, columns].T
            scale = np.fmax(
                robust_scale(steps),
                floor,
            )
            largest = np.nan_to_num(np.nanmax(np.abs(steps), axis=0)) / scale
            n = np.sum(~np.isnan(steps), axis=0).astype(np.float64)
        return cls(
            smoothing,
            weekday,
            scale,
            largest,
            levels + center,
            n,
        )

    def steps(self, values: Doubles, weekday: int) -> Doubles:
        """Return the step to the next partition, in usual steps; shape (k,)."""
        expected = self.expected(weekday)
        widened = self.scale * np.sqrt(1 + 1 / np.fmax(self.n, 1))
        return np.asarray(
            normal_equivalent(
                (values - expected) / widened,
                self.n - 1,
            )
        )

    def expected(self, weekday: int) -> Doubles:
        """Return the values that are expected of the next partition; shape (k,)."""
        level = self.levels[self.smoothing, np.arange(self.smoothing.size)]
        return np.asarray(level + self.weekday[weekday])


def normal_equivalent(statistic: Doubles, degrees: Doubles) -> Doubles:
    """Return the normal quantile that is as improbable as Student's t of some degrees of freedom.

    Source: Wallace (1959), Bounds on normal approximations to Student's and the chi-square
    distributions; off by less than 0.03 up to a quantile of 4 from three degrees on.
    """
    free = np.fmax(degrees, 1.0)
    # Written with log1p, so that a huge statistic stays finite.
    size = np.sqrt(free * np.log1p(statistic**2 / free)) * (8 * free + 1) / (8 * free + 3)
    return np.asarray(np.sign(statistic) * size)


def robust_scale(rest: Doubles) -> Doubles:
    """Return the standard deviation of a normal distribution with such quantiles; shape (k,).

    The larger one of two: of the middle half, and of the outer tenth, for heavy tails.
    """
    # Both halves count as one: the sign of a deviation is no matter.
    size = np.abs(rest)
    middle = NORMAL_MAD * column_quantile(size, 0.5)
    outer = column_quantile(size, 0.9) / NORMAL_90
    return np.asarray(np.fmax(middle, outer))


def column_quantile(values: Doubles, share: float) -> Doubles:
    """Return a quantile of each column, NaN left out; NaN for a column without values.

    As ``np.nanquantile``, which takes a hundred times as long for a thousand short columns.
    """
    if not values.shape[0]:
        return np.full(values.shape[1], np.nan)
    # NaN sorts last.
    ranked = np.sort(values, axis=0)
    n = np.sum(~np.isnan(values), axis=0)
    # Between two values the quantile lies where a straight line puts it.
    position = share * np.maximum(n - 1, 0)
    below = np.floor(position).astype(np.int64)
    above = np.ceil(position).astype(np.int64)
    columns = np.arange(values.shape[1])
    low, high = ranked[below, columns], ranked[above, columns]
    return np.asarray(low + (position - below) * (high - low))


def weekday_effects(rest: Doubles, weekdays: Integers) -> Doubles:
    """Return the median of each weekday where weekdays explain much, else 0; shape (7, k)."""
    effects = np.zeros((7, rest.shape[1]))
    # Of three weeks a median of a weekday is one of three numbers.
    n_weeks = rest.shape[0] // 7
    if n_weeks < MIN_WEEKS:
        return effects
    for weekday in range(7):
        effects[weekday] = np.nan_to_num(
            column_quantile(
                rest[weekdays == weekday],
                0.5,
            )
        )
    # Medians of few weeks follow their own noise: what they leave looks smaller than it is.
    fitted = np.sqrt(n_weeks / (n_weeks - 1))
    without = rest - effects[weekdays]
    left = robust_scale(without) * fitted
    # A weekday that explains little is noise, and would be taken out of every night.
    explains = left <= WEEKDAY_GAIN * robust_scale(rest)
    return np.where(explains, effects, 0.0)


def _effective_number(rest: Doubles) -> Doubles:
    """Return how many independent partitions a series is worth, by its lag-1 correlation."""
    n = np.sum(~np.isnan(rest), axis=0).astype(np.float64)
    filled = np.nan_to_num(rest)
    spread = np.sum(filled**2, axis=0)
    product = np.sum(
        filled[1:] * filled[:-1],
        axis=0,
    )
    # A series without any variation has no correlation.
    spread = np.where(spread > 0, spread, np.inf)
    correlation = np.clip(
        product / spread,
        0.0,
        0.99,
    )
    # Source: Bartlett (1946), the variance of the mean of an autoregression of order one.
    ratio = (1 - correlation) / (1 + correlation)
    n_effective = n * ratio
    effective: Doubles = np.fmax(n_effective, MIN_EFFECTIVE)
    return effective


def _follow(adjusted: Doubles) -> tuple[Doubles, Doubles]:
    """Return the last level and the errors of each smoothing: (s, k) and (s, n, k)."""
    n, k = adjusted.shape
    levels = np.zeros((len(SMOOTHINGS), k))
    errors = np.full(
        (len(SMOOTHINGS), n, k),
        np.nan,
    )
    for index, weight in enumerate(SMOOTHINGS):
        level = np.zeros(k)
        for row in range(n):
            value = adjusted[row]
            # The first partition has nothing before it, except for the median of all.
            if row or not weight:
                errors[index, row] = value - level
            start = 1.0 if weight and not row else weight
            # A partition without a value leaves the level where it was.
            level = np.where(
                np.isnan(value),
                level,
                level + start * (value - level),
            )
        levels[index] = level
    return levels, errors


def quiet() -> warnings.catch_warnings[None]:
    """Return a context in which a column without any value is no warning."""
    return warnings.catch_warnings(
        action="ignore",
        category=RuntimeWarning,
    )
