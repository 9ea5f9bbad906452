"""Running means of nightly gains in standard errors, for nights that are dependent and skewed.

Everything is a sum that grows by one night, so the value of a night never depends on later ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector

_VARIANCE_NIGHTS = 2.0
"""Share of the variance, divided by the number of nights, that is added to it."""
_CORRELATION_ALLOWANCE = 1.0
"""Standard errors that are added to the estimated lag-1 correlation."""
_MAXIMUM_CORRELATION = 0.9
_USUAL_SKEWNESS = 0.4
"""Negative skewness of symmetric gains that chance gives in a few weeks."""
_SKEWNESS_WEIGHT = 1.5
"""The skewness of few nights is estimated too small: what is seen counts more."""
_NO_SPREAD = 1e-30
"""A variance up to this is rounding."""


def standardized_means(gains: Matrix) -> Matrix:
    """Return the mean after each night in standard errors, reduced for skewness to the bad side.

    Args:
        gains: By night in their order, last axis; other axes are independent streams.
    """
    mean = running_means(gains)
    z = divide(mean, standard_errors(gains))
    return _skewness_corrected(z, mean, gains)


def running_means(values: Matrix) -> Matrix:
    """Return the mean after each night."""
    return np.cumsum(values, axis=-1) / night_numbers(values)


def standard_errors(gains: Matrix) -> Matrix:
    """Return the standard error of the mean after each night, for nights that are dependent."""
    n = night_numbers(gains)
    mean = running_means(gains)
    squares = _sums(gains**2) - n * mean**2
    correlation = _correlations(gains, mean, squares)
    # The variance of few nights is uncertain: it is inflated by what vanishes with more of them.
    variance = squares / np.maximum(n - 1, 1)
    variance = variance * (1 + _VARIANCE_NIGHTS / n)
    dependence = (1 + correlation) / (1 - correlation)
    variance_of_mean = np.maximum(variance * dependence, 0.0) / n
    return np.sqrt(variance_of_mean)


def _correlations(gains: Matrix, mean: Matrix, squares: Matrix) -> Matrix:
    """Return the lag-1 correlation after each night, with an allowance, from 0 on."""
    n = night_numbers(gains)
    products = np.zeros_like(gains)
    products[..., 1:] = gains[..., 1:] * gains[..., :-1]
    # The sum of centred products of neighbours, written with sums that grow by one night.
    first = gains[..., :1]
    neighbours = 2 * n * mean - first - gains
    centred = _sums(products) - mean * neighbours
    covariance = centred + (n - 1) * mean**2
    correlation = divide(covariance, squares)
    # An estimate of few nights is too low by about (1 + 3 r) / n.
    bias = (1 + 3 * np.clip(correlation, 0, 1)) / n
    allowance = _CORRELATION_ALLOWANCE / np.sqrt(n)
    return np.clip(correlation + bias + allowance, 0.0, _MAXIMUM_CORRELATION)


def _skewness_corrected(z: Matrix, mean: Matrix, gains: Matrix) -> Matrix:
    """Return the standardized mean, reduced where the gains are skewed to the bad side."""
    n = night_numbers(gains)
    second = running_means(gains**2)
    third = running_means(gains**3)
    variance = np.maximum(second - mean**2, 0.0)
    moment = third - 3 * mean * second + 2 * mean**3
    skewness = divide(moment, variance**1.5)
    # Johnson's correction; the other side would raise the evidence and is left out.
    excess = np.maximum(0.0, -skewness - _USUAL_SKEWNESS)
    factor = (1 + 2 * z**2) / (6 * np.sqrt(n))
    reduced = z - _SKEWNESS_WEIGHT * excess * factor
    return np.where(z > 0, np.maximum(reduced, 0.0), z)


def night_numbers(gains: Matrix) -> Vector:
    """Return 1, 2, … up to the number of nights."""
    return np.arange(1, gains.shape[-1] + 1, dtype=np.float64)


def _sums(values: Matrix) -> Matrix:
    return np.cumsum(values, axis=-1)


def divide(numerator: Matrix, denominator: Matrix) -> Matrix:
    """Return the ratio, 0 where nothing varies beyond rounding."""
    is_defined = denominator > _NO_SPREAD
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=is_defined)
