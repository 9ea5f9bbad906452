"""Confidence intervals and probabilities from draws of days, valid also for few days.

Sources: Hesterberg (2015), What teachers should know about the bootstrap (expanded percentiles);
Holm (1979), A simple sequentially rejective multiple test procedure; Liang & Zeger (1986),
Longitudinal data analysis using generalized linear models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.metrics import METRICS
from nightshift.errors import NightshiftError

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.training.statistics.block_bootstrap import Days, Statistic

N_DRAWS = 2_000
"""Draws of days; the bounds of seven days then rest on 36 draws beyond them."""
_MINIMUM_DAYS = 2
_MAXIMUM_UNDEFINED = 0.1
"""Share of draws that may be undefined, such as an AUC of days without a positive row."""
_NO_SPREAD = 1e-12


class NoEstimateError(NightshiftError):
    """The days do not give an estimate."""

    code = "NS-TRAIN-013"


@dataclass(frozen=True)
class Estimate:
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
        if self.standard_error <= _NO_SPREAD:
            return 0.5 if abs(distance) <= _NO_SPREAD else float(distance > 0)
        return float(t.cdf(distance / self.standard_error, self.n_days - 1))

    def smallest_visible(self, confidence: float, power: float = 0.8) -> float:
        """Return the true value that is detected above 0 with ``power`` at this confidence."""
        from scipy.stats import t

        n_errors = t.ppf(confidence, self.n_days - 1) + t.ppf(power, self.n_days - 1)
        return float(n_errors * self.standard_error)


def estimate(value: Statistic, draws: Matrix, confidence: float) -> Estimate:
    """Estimate a statistic by a bootstrap over days.

    Args:
        value: From weights to values.
        draws: How often each day is drawn; shape (draws, days).
        confidence: Of each of the two bounds.

    Raises:
        NoEstimateError: There are fewer than two days, or the statistic is not defined on them.
    """
    n_days = draws.shape[1]
    if n_days < _MINIMUM_DAYS:
        raise NoEstimateError(
            "One day has no interval.", expected="at least 2 days", got=str(n_days)
        )
    observed = float(value(np.ones((1, n_days)))[0])
    drawn = value(draws)
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(observed) or defined.size < (1 - _MAXIMUM_UNDEFINED) * drawn.size:
        raise NoEstimateError(
            "The days do not define the number.",
            expected="a finite value on nearly every draw of days",
            got=f"{defined.size}/{drawn.size}",
        )
    # Plain percentiles of few days are too narrow (Hesterberg 2015).
    tail = _expanded_tail(n_days, confidence)
    low, high = np.quantile(defined, [tail, 1 - tail]).tolist()
    standard_error = float(defined.std()) * _small_sample(n_days)
    return Estimate(observed, low, high, standard_error, n_days)


def difference(first: Statistic, second: Statistic, sign: float = 1.0) -> Statistic:
    """Return ``sign * (first - second)`` on the same draws: a paired comparison."""
    return lambda weights: sign * (first(weights) - second(weights))


def gain_over(metric: str, first: Statistic, second: Statistic) -> Statistic:
    """Return by how much the first is better than the second in a metric, on the same draws."""
    is_higher_better = METRICS[metric].better == "higher"
    return difference(first, second, 1.0 if is_higher_better else -1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's procedure, in the given order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    by_p_value = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, position in enumerate(by_p_value):
        p_value = min(1.0, (len(p_values) - rank) * p_values[position])
        # An adjusted p-value is never smaller than that of a smaller p-value.
        highest = max(highest, p_value)
        adjusted[position] = highest
    return adjusted


def slope_estimate(
    label: Vector, predicted: Vector, days: Days, confidence: float, *, is_logistic: bool
) -> Estimate:
    """Estimate the slope of the outcome on the prediction; 1 is best.

    The variance is a sandwich estimate, clustered by day.

    Args:
        label: Shape (n,).
        predicted: Log-odds if ``is_logistic``, else values in the label's unit; shape (n,).
        days: Of the same rows.
        confidence: Of each of the two bounds.
        is_logistic: Whether the outcome is 0 or 1.

    Raises:
        NoEstimateError: There are fewer than two days, or all predictions are equal.
    """
    from scipy.stats import t

    from nightshift.models.calibration import fit_logistic, sigmoid

    has_spread = predicted.std() > _NO_SPREAD and label.std() > _NO_SPREAD
    if days.n < _MINIMUM_DAYS or not has_spread:
        raise NoEstimateError(
            "A slope needs two days, and predictions and outcomes that differ.",
            got=f"{days.n} day(s)",
        )
    design = np.column_stack([predicted, np.ones(predicted.size)])
    if is_logistic:
        beta = np.array(fit_logistic(predicted, label))
        fitted = sigmoid(design @ beta)
        spread = fitted * (1 - fitted)
    else:
        beta = np.linalg.lstsq(design, label, rcond=None)[0]
        fitted, spread = design @ beta, np.ones(label.size)

    # Errors of one day are correlated, so scores are summed by day before they are squared.
    scores = days.sums(*(design * (label - fitted)[:, None]).T)
    variance = _sandwich(design.T @ (design * spread[:, None]), scores.T @ scores)
    error = float(np.sqrt(variance * days.n / (days.n - 1)))
    slope, half_width = float(beta[0]), float(t.ppf(confidence, days.n - 1)) * error
    return Estimate(slope, slope - half_width, slope + half_width, error, days.n)


def _sandwich(information: Matrix, noise: Matrix) -> float:
    """Return the variance of the first coefficient.

    Raises:
        NoEstimateError: It has none: predictions that separate the outcomes perfectly.
    """
    try:
        bread = np.linalg.inv(information)
        with np.errstate(invalid="ignore", over="ignore"):
            variance = float((bread @ noise @ bread)[0, 0])
    except np.linalg.LinAlgError:
        variance = float("nan")
    if not np.isfinite(variance):
        raise NoEstimateError(
            "The predictions do not define a slope.",
            expected="outcomes that the predictions do not separate perfectly",
        )
    # Rounding may give a tiny negative variance.
    return max(variance, 0.0)


def _expanded_tail(n_days: int, confidence: float) -> float:
    """Return the tail's share that makes percentiles of few days as wide as Student's t."""
    from scipy.stats import norm, t

    return float(norm.cdf(-_small_sample(n_days) * t.ppf(confidence, n_days - 1)))


def _small_sample(n_days: int) -> float:
    return float((n_days / (n_days - 1)) ** 0.5)
