"""A test of paired nightly losses that may be looked at every night: the running e-value.

The gain of a night is the champion's loss minus the challenger's. The hypothesis to refute is that
the gains have a mean of at most 0, whatever their scale. The e-value of so many nights is the
evidence against it: a fair bet would have multiplied its stake by that much. A test that rejects at
``1 / alpha`` rejects a true hypothesis with probability ``alpha`` in all its nights together, so
nobody has to decide beforehand on which night to look.

It is the half-normal mixture of Robbins for a sum of known variance, with an estimated variance: an
asymptotic e-process. Four things keep it honest in the first weeks, and each is measured by
``python -m benchmarks.sequential_test``:

- the variance of the sum is that of dependent nights, by their lag-1 correlation with an allowance;
- the variance is inflated by a term that vanishes with the number of nights;
- gains that are skewed to the bad side have their sum reduced, as Johnson's t-test does;
- fewer than ``MINIMUM_NIGHTS`` nights are no evidence.

Sources: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2024), Time-uniform central limit theory and
asymptotic confidence sequences; Henzi & Ziegel (2022), Valid sequential inference on probability
forecast performance; Johnson (1978), Modified t tests for asymmetrical populations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.training.statistics.running_means import (
    night_numbers,
    standard_errors,
    standardized_means,
)

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector

MINIMUM_NIGHTS = 14
"""Nights before which the e-value is at most 1: a variance of fewer nights is hardly known."""
_MIXTURE_NIGHTS = 10.0
"""Nights around which the mixture is most sensitive; more of them favour smaller gains."""
_MAXIMUM_LOG_E = 300.0
_MAXIMUM_Z = 100.0


@dataclass(frozen=True)
class SequentialResult:
    """The evidence of some nights.

    Attributes:
        n_nights: Number of nights.
        mean_gain: Mean gain a night, in the loss's unit; 0 without a night.
        low: Lower bound of the mean that holds on all nights together; None without enough nights.
        e_value: Evidence that the mean is above 0; 1 is none.
    """

    n_nights: int
    mean_gain: float
    low: float | None
    e_value: float


def sequential_result(gains: Vector, confidence: float) -> SequentialResult:
    """Return the evidence of nights so far, in their order.

    Args:
        gains: Champion's loss minus the challenger's, by night; shape (nights,).
        confidence: Of the lower bound, on all nights together.
    """
    n = gains.size
    if n == 0:
        return SequentialResult(0, 0.0, None, 1.0)
    mean = float(gains.mean())
    if n < MINIMUM_NIGHTS:
        return SequentialResult(n, mean, None, 1.0)
    e_value = float(running_e_values(gains)[-1])
    # The bound is the mean that this evidence just does not refute.
    error = float(standard_errors(gains)[-1])
    low = mean - _critical_z(n, 1 - confidence) * error
    return SequentialResult(n, mean, low, e_value)


def running_e_values(gains: Matrix) -> Matrix:
    """Return the e-value after each night.

    Args:
        gains: By night in their order, last axis; other axes are independent streams.

    Returns:
        Shape of the gains; gains without any spread have an e-value below 1.
    """
    n = night_numbers(gains)
    z = standardized_means(gains)
    # The exponent is bounded: an e-value is stored as a finite number.
    log_e_values = np.minimum(_log_mixture(z, n), _MAXIMUM_LOG_E)
    e_values = np.exp(log_e_values)
    is_early = n < MINIMUM_NIGHTS
    return np.where(is_early, np.minimum(e_values, 1.0), e_values)


def _log_mixture(z: Matrix, n: Vector) -> Matrix:
    """Return the logarithm of Robbins' half-normal mixture of a standardized sum of n nights."""
    from scipy.special import log_ndtr

    # Gains above 0 alone are mixed: a worse challenger is no evidence for a better one.
    weight = n / (n + _MIXTURE_NIGHTS)
    spread = 0.5 * np.log1p(-weight)
    exponent = 0.5 * weight * z**2
    side = log_ndtr(z * np.sqrt(weight))
    return np.asarray(np.log(2) + spread + exponent + side)


def _critical_z(n: int, alpha: float) -> float:
    """Return the standardized sum at which the e-value of n nights is ``1 / alpha``."""
    from scipy.optimize import brentq

    numbers = np.array([n], dtype=np.float64)

    def excess(z: float) -> float:
        log_e_value = _log_mixture(np.array([z]), numbers)
        return float(log_e_value[0] + np.log(alpha))

    return float(brentq(excess, 0.0, _MAXIMUM_Z))
