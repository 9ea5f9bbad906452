"""Confidence intervals and probabilities from draws of days, valid also for few days.

Sources: Hesterberg (2015), What teachers should know about the bootstrap (expanded percentiles);
Holm (1979), A simple sequentially rejective multiple test procedure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.metrics import METRICS
from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix
    from nightshift.training.statistics.block_bootstrap import Statistic

N_DRAWS = 2_000
"""Draws of days; the bounds of seven days then rest on 36 draws beyond them."""
MINIMUM_DAYS = 2
_MAXIMUM_UNDEFINED = 0.1
"""Share of draws that may be undefined, such as an AUC of days without a positive row."""
NO_SPREAD = 1e-12
"""A standard deviation up to this is rounding."""


class NoEstimateError(NightshiftError):
    """The days do not give an estimate."""

    code = "NS-TRAIN-013"


@dataclass(frozen=True)
class BoundedEstimate:
    """A number with its confidence interval.

    Attributes:
        value: On all rows.
        low: One-sided lower bound.
        high: One-sided upper bound; together an interval that misses on either side with
            probability ``1 - confidence``.
        standard_error: Corrected for few days.
        n_days: Number of days that were drawn.
    """

    value: float
    low: float
    high: float
    standard_error: float
    n_days: int

    def probability_above(self, limit: float) -> float:
        """Return the probability that the true value is above a limit; 0.5 where equal.

        It follows Student's t with ``n_days - 1`` degrees of freedom.
        """
        from scipy.stats import t

        distance = self.value - limit
        # Equal models differ on no draw: Student's t is not defined, and nothing is proved.
        if self.standard_error <= NO_SPREAD:
            is_equal = abs(distance) <= NO_SPREAD
            return 0.5 if is_equal else float(distance > 0)
        n_errors = distance / self.standard_error
        return float(t.cdf(n_errors, self.n_days - 1))


def estimate(value: Statistic, draws: Matrix, confidence: float) -> BoundedEstimate:
    """Estimate a statistic by a bootstrap over days.

    Args:
        value: From weights to values.
        draws: How often each day is drawn; shape (draws, days).
        confidence: Of each of the two bounds.

    Raises:
        NoEstimateError: There are fewer than two days, or the statistic is not defined on them.
    """
    n_days = draws.shape[1]
    if n_days < MINIMUM_DAYS:
        raise NoEstimateError(
            "One day has no interval.",
            expected="at least 2 days",
            got=str(n_days),
        )
    # Every day once: the statistic of all rows.
    each_day_once = np.ones((1, n_days))
    observed = float(value(each_day_once)[0])
    # A draw without a positive row has no AUC, for example.
    drawn = value(draws)
    defined = drawn[np.isfinite(drawn)]
    n_required = (1 - _MAXIMUM_UNDEFINED) * drawn.size
    if not np.isfinite(observed) or defined.size < n_required:
        raise NoEstimateError(
            "The days do not define the number.",
            expected="a finite value on nearly every draw of days",
            got=f"{defined.size}/{drawn.size}",
        )
    # Plain percentiles of few days are too narrow (Hesterberg 2015).
    tail = _expanded_tail(n_days, confidence)
    low, high = np.quantile(defined, [tail, 1 - tail]).tolist()
    return BoundedEstimate(
        value=observed,
        low=low,
        high=high,
        standard_error=float(defined.std()) * _small_sample(n_days),
        n_days=n_days,
    )


def difference(first: Statistic, second: Statistic, sign: float = 1.0) -> Statistic:
    """Return ``sign * (first - second)`` on the same draws: a paired comparison.

    Args:
        first: What is compared.
        second: What it is compared with.
        sign: -1 where lower is better, so that a gain is positive.
    """
    return lambda weights: sign * (first(weights) - second(weights))


def gain_over(metric: str, first: Statistic, second: Statistic) -> Statistic:
    """Return by how much the first is better than the second in a metric, on the same draws."""
    is_higher_better = METRICS[metric].better == "higher"
    sign = 1.0 if is_higher_better else -1.0
    return difference(first, second, sign)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's procedure, in the given order."""
    adjusted = list(p_values)
    # The smallest p-value is compared with the strictest limit, the next with a milder one.
    n_left = len(adjusted)
    highest = 0.0
    for position in np.argsort(adjusted, kind="stable"):
        p_value = min(1.0, n_left * adjusted[position])
        # An adjusted p-value is never smaller than that of a smaller p-value.
        highest = max(highest, p_value)
        adjusted[position] = highest
        n_left -= 1
    return adjusted


def _expanded_tail(n_days: int, confidence: float) -> float:
    """Return the tail's share that makes percentiles of few days as wide as Student's t."""
    from scipy.stats import norm, t

    n_errors = t.ppf(confidence, n_days - 1)
    return float(norm.cdf(-_small_sample(n_days) * n_errors))


def _small_sample(n_days: int) -> float:
    """Return the factor by which the spread of draws is too small: they divide by n, not n - 1."""
    return float((n_days / (n_days - 1)) ** 0.5)
