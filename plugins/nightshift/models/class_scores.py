"""Scores of several classes: raw scores to probabilities that add up to 1, and their calibration.

Source: Guo et al. (2017), On calibration of modern neural networks (temperature and vector
scaling); docs/adr/0057-multiclass.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightshift.models.arrays import Integers, Matrix, Vector

EDGE = 1e-6
"""Smallest distance of a probability from 0 and 1.

No row can make the log loss infinite then.
"""
DIGITS = 9
"""Significant digits of fitted numbers: the last bits, which depend on the machine, must not reach
the model file.
"""
MINIMUM_CLASS_ROWS = 20
"""Rows of each class from which it gets a slope and a shift of its own."""
_BOUNDS = (0.05, 20.0)
"""Slopes: beyond them the days that calibrate have told nothing."""


def softmax(raw: Matrix) -> Matrix:
    """Return probabilities of raw scores, shape (n, classes), without overflow."""
    import numpy as np

    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def clip_shares(probability: Matrix) -> Matrix:
    """Return probabilities, shape (n, classes), at least ``EDGE`` each, that add up to 1."""
    import numpy as np

    clipped = np.clip(probability, EDGE, None)
    return np.asarray(clipped / clipped.sum(axis=1, keepdims=True))


def of_rows(values: Matrix, index: Integers | Vector) -> Vector:
    """Return from each row the value of one column, shape (n,).

    Args:
        values: Shape (n, classes).
        index: The column of each row: its class; shape (n,).
    """
    import numpy as np

    return np.asarray(values[np.arange(len(values)), index.astype(np.int64)])


def fit_class_calibration(method: str, raw: Matrix, label: Vector) -> dict[str, Any]:
    """Fit the map from raw scores to probabilities of the classes.

    Args:
        method: ``vector``, ``temperature`` or ``none``. A ``vector`` of rows that hardly hold some
            class becomes a ``temperature``, and that of rows of one class ``none``.
        raw: Raw scores, shape (n, classes), of rows that the trees were not fitted on.
        label: Numbers of the classes, shape (n,).

    Returns:
        Plain numbers for ``apply_class_calibration``.
    """
    import numpy as np

    n_classes = raw.shape[1]
    counts = np.bincount(label.astype(np.int64), minlength=n_classes)
    if method == "none" or (counts > 0).sum() < 2:  # noqa: PLR2004 - one class tells no scale
        return {"method": "none"}
    if method == "vector" and counts.min() >= MINIMUM_CLASS_ROWS:
        start = np.concatenate([np.ones(n_classes), np.zeros(n_classes)])
        bounds = [_BOUNDS] * n_classes + [(None, None)] * n_classes
        slope, shift = np.split(_minimize(raw, label, start, bounds), 2)
        # Only differences between classes change a probability.
        shift = shift - shift.mean()
        return {
            "method": "vector",
            "slope": [rounded(value) for value in slope],
            "shift": [rounded(value) for value in shift],
        }
    (slope,) = _minimize(raw, label, np.ones(1), [_BOUNDS])
    return {"method": "temperature", "slope": rounded(slope)}


def _minimize(raw: Matrix, label: Vector, start: Vector, bounds: list[Any]) -> Vector:
    """Return the slopes, and shifts if any, with the lowest log loss; the problem is convex."""
    import numpy as np
    from scipy.optimize import minimize

    n_rows = len(raw)
    truth = np.zeros(raw.shape)
    truth[np.arange(n_rows), label.astype(np.int64)] = 1.0

    def loss(parameters: Vector) -> tuple[float, Vector]:
        # One slope of all classes, or a slope of each and then a shift of each.
        slope: Vector = parameters
        shift: Vector = np.zeros(1)
        if parameters.size > 1:
            slope, shift = np.split(parameters, 2)
        probability = softmax(raw * slope + shift)
        error = (probability - truth) / n_rows
        value = float(-np.log(np.maximum(of_rows(probability, label), 1e-300)).mean())
        of_slopes = (error * raw).sum(axis=0)
        if parameters.size == 1:
            return value, of_slopes.sum(keepdims=True)
        return value, np.concatenate([of_slopes, error.sum(axis=0)])

    # A tight tolerance: the result must not depend on where the solver stopped.
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10}
    fit = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(fit.x, dtype=np.float64)


def apply_class_calibration(calibration: dict[str, Any], raw: Matrix) -> Matrix:
    """Return probabilities for raw scores of shape (n, classes); above 0, they add up to 1."""
    import numpy as np

    slope = np.asarray(calibration.get("slope", 1.0))
    shift = np.asarray(calibration.get("shift", 0.0))
    return clip_shares(softmax(raw * slope + shift))


def rounded(value: float) -> float:
    """Return a fitted number with ``DIGITS`` significant digits."""
    return float(f"{value:.{DIGITS}g}")
