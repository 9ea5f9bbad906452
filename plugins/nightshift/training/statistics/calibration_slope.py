"""Estimate how an outcome rises with its prediction: the slope of a calibration, by day.

Source: Liang & Zeger (1986), Longitudinal data analysis using generalized linear models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.calibration import fit_logistic, sigmoid
from nightshift.training.statistics.confidence_intervals import (
    MINIMUM_DAYS,
    NO_SPREAD,
    BoundedEstimate,
    NoEstimateError,
)

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.training.statistics.block_bootstrap import Days


def slope_estimate(
    label: Vector,
    predicted: Vector,
    days: Days,
    confidence: float,
    *,
    is_logistic: bool,
) -> BoundedEstimate:
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

    has_spread = predicted.std() > NO_SPREAD and label.std() > NO_SPREAD
    if days.n < MINIMUM_DAYS or not has_spread:
        raise NoEstimateError(
            "A slope needs two days, and predictions and outcomes that differ.",
            got=f"{days.n} day(s)",
        )
    design = np.column_stack([predicted, np.ones(predicted.size)])
    if is_logistic:
        coefficients = np.array(fit_logistic(predicted, label))
        fitted = sigmoid(design @ coefficients)
        spread = fitted * (1 - fitted)
    else:
        coefficients = np.linalg.lstsq(design, label, rcond=None)[0]
        fitted = design @ coefficients
        spread = np.ones(label.size)

    # Errors of one day are correlated, so scores are summed by day before they are squared.
    residuals = label - fitted
    scores = days.sums(*(design * residuals[:, None]).T)
    information = design.T @ (design * spread[:, None])
    variance = _sandwich(information, scores.T @ scores)
    # Few days give too small a variance.
    variance = variance * days.n / (days.n - 1)
    error = float(np.sqrt(variance))
    slope = float(coefficients[0])
    half_width = float(t.ppf(confidence, days.n - 1)) * error
    return BoundedEstimate(
        value=slope,
        low=slope - half_width,
        high=slope + half_width,
        standard_error=error,
        n_days=days.n,
    )


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
