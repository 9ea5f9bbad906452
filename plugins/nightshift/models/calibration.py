"""Turn raw scores into probabilities by plain numbers that a model file can carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightshift.models.class_scores import (
    EDGE,
    apply_class_calibration,
    fit_class_calibration,
    rounded,
)

if TYPE_CHECKING:
    from nightshift.contracts.training_spec import Calibration
    from nightshift.models.arrays import Matrix, Vector

__all__ = ["EDGE", "apply_calibration", "fit_calibration", "fit_logistic", "sigmoid"]

_MAX_STEPS = 50
_STEP_TOLERANCE = 1e-12


def fit_calibration(method: Calibration, raw: Matrix, label: Vector) -> dict[str, Any]:
    """Fit the map from raw score to probability; of classes see ``fit_class_calibration``.

    Args:
        method: ``platt`` (a logistic curve, keeps the order), ``isotonic`` (steps, may tie rows) or
            ``none``.
        raw: Raw scores (log-odds), shape (n,), of rows that the trees were not fitted on.
        label: 0 or 1, shape (n,).

    Returns:
        Plain numbers for ``apply_calibration``.

    Source: Platt (1999), Probabilistic outputs for support vector machines; Zadrozny & Elkan
    (2002), Transforming classifier scores.
    """
    if raw.ndim > 1:
        return fit_class_calibration(method, raw, label)
    if method == "platt":
        slope, intercept = fit_logistic(raw, label)
        # A falling curve would reverse the order: these days cannot tell the scale.
        if slope > 0:
            return {
                "method": "platt",
                "slope": slope,
                "intercept": intercept,
            }
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        # Beyond the fitted scores the nearest step holds: a later score may be higher than all.
        steps = IsotonicRegression(
            y_min=0.0,
            y_max=1.0,
            out_of_bounds="clip",
        )
        steps.fit(raw, label)
        return {
            "method": "isotonic",
            "raw": steps.X_thresholds_.tolist(),
            "probability": steps.y_thresholds_.tolist(),
        }
    return {"method": "none"}


def apply_calibration(calibration: dict[str, Any], raw: Matrix) -> Matrix:
    """Return probabilities, strictly between 0 and 1, for raw scores of shape (n,).

    Raw scores of classes, shape (n, classes), give probabilities of the same shape.
    """
    import numpy as np

    if raw.ndim > 1:
        return apply_class_calibration(calibration, raw)
    method = calibration["method"]
    if method == "platt":
        with np.errstate(over="ignore"):  # infinity becomes a probability at the edge
            log_odds = calibration["slope"] * raw + calibration["intercept"]
        probability = sigmoid(log_odds)
    elif method == "isotonic":
        probability = np.interp(raw, calibration["raw"], calibration["probability"])
    else:
        probability = sigmoid(raw)
    return np.clip(probability, EDGE, 1 - EDGE)


def fit_logistic(log_odds: Vector, label: Vector) -> tuple[float, float]:
    """Fit a logistic curve of labels on log-odds, without a penalty.

    Args:
        log_odds: Shape (n,).
        label: 0 or 1, shape (n,).

    Returns:
        Slope and intercept.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    # A tight tolerance: the result must not depend on where the solver stopped.
    curve = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    curve.fit(log_odds.reshape(-1, 1), label)
    slope = rounded(curve.coef_[0, 0])
    intercept = rounded(curve.intercept_[0])
    return slope, intercept


def sigmoid(log_odds: Vector) -> Vector:
    """Return ``1 / (1 + exp(-x))`` for any shape, without overflow."""
    import numpy as np

    # exp overflows to infinity for very negative log-odds: the quotient is then exactly 0.
    with np.errstate(over="ignore"):
        probability = 1.0 / (1.0 + np.exp(-log_odds))
    return np.asarray(probability, dtype=np.float64)


def log_odds_of(probability: Vector) -> Vector:
    """Return ``log(p / (1 - p))`` of probabilities, clipped away from 0 and 1."""
    import numpy as np

    clipped = np.clip(probability, EDGE, 1 - EDGE)
    odds = clipped / (1 - clipped)
    return np.asarray(np.log(odds), dtype=np.float64)


def move_log_odds(probability: Vector, shift: Vector | float) -> Vector:
    """Return probabilities, shape (n,), whose log-odds are moved; strictly between 0 and 1.

    Args:
        probability: Of ``apply_calibration``, shape (n,).
        shift: Of all rows, or of each, shape (n,).
    """
    import numpy as np

    if not np.any(shift):
        return probability
    moved = sigmoid(log_odds_of(probability) + shift)
    # A row that is not moved keeps its bits, whichever rows are moved along with it.
    return np.where(shift == 0, probability, np.clip(moved, EDGE, 1 - EDGE))


def shift_of_log_odds(label: Vector, probability: Vector, weight: Vector | None = None) -> float:
    """Return what must be added to all log-odds so that their mean probability is the label's.

    Args:
        label: 0 or 1, shape (n,).
        probability: Shape (n,).
        weight: Of each row in both means, above 0, shape (n,); None weighs all alike.
    """
    import numpy as np

    # A night without, or with nothing but, positive rows has no finite log-odds.
    edge = 0.5 / label.size
    rate = float(np.clip(weighted_mean(label, weight), edge, 1 - edge))
    log_odds = log_odds_of(probability)
    # No closed form: the mean of a sigmoid is found step by step.
    shift = 0.0
    for _ in range(_MAX_STEPS):
        current = sigmoid(log_odds + shift)
        missing = rate - weighted_mean(current, weight)
        step = missing / weighted_mean(current * (1 - current), weight)
        # Far from the solution Newton's step overshoots.
        shift += float(np.clip(step, -1.0, 1.0))
        if abs(step) < _STEP_TOLERANCE:
            break
    return shift


def weighted_mean(values: Vector, weight: Vector | None) -> float:
    """Return the mean of values, shape (n,).

    Args:
        values: Shape (n,).
        weight: Of each value, above 0, shape (n,); None weighs all alike.
    """
    import numpy as np

    # Equal weights would add in another order, and so end in other last bits.
    if weight is None:
        return float(values.mean())
    return float(np.average(values, weights=weight))
