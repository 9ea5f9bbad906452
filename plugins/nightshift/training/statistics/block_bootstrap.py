"""Metrics as functions of how often each day counts: what a bootstrap blocked by day needs, without touching the rows again per draw.

Rows of one day share its weather, holiday and traffic, so days are drawn, never rows. Each metric
is reduced once to sums by day (the area under the ROC curve to a table of won pairs by day and
day); thousands of draws are then small matrix products. Source: docs/adr/0017-evidence-gate.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.errors import NightshiftError
from nightshift.models.calibration import EDGE
from nightshift.training.evaluation import CALIBRATION_BINS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.models.predictions import Predictions

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]
    Codes = npt.NDArray[np.int64]

Statistic = Callable[["Matrix"], "Vector"]
"""From weights of shape (draws, days) to one value per draw; NaN where the drawn days do not
define it.
"""


class NoStatisticError(NightshiftError):
    """A metric cannot be computed by day."""

    code = "NS-TRAIN-012"


@dataclass(frozen=True)
class Days:
    """The day of each row.

    Attributes:
        codes: Place of the row's day, 0 to n - 1; shape (rows,).
        n: Number of days.
    """

    codes: Codes
    n: int

    @classmethod
    def of(cls, dates: npt.NDArray[np.datetime64]) -> Days:
        """Return the days of some dates, shape (rows,)."""
        import numpy as np

        names, codes = np.unique(dates, return_inverse=True)
        return cls(codes.astype(np.int64), int(names.size))

    def at(self, mask: npt.NDArray[np.bool_]) -> Days:
        """Return the days of some rows; days that none of them has stay days, with no row."""
        return Days(self.codes[mask], self.n)

    def sums(self, *columns: Vector) -> Matrix:
        """Return the sum of each column by day; shape (days, columns)."""
        import numpy as np

        return np.column_stack(
            [np.bincount(self.codes, weights=column, minlength=self.n) for column in columns]
        )


def draw_days(n_days: int, n_draws: int, seed: int) -> Matrix:
    """Return how often each day is drawn, shape (n_draws, n_days); each row adds up to ``n_days``."""
    import numpy as np

    return (
        np.random.default_rng(seed)
        .multinomial(n_days, np.full(n_days, 1 / n_days), size=n_draws)
        .astype(np.float64)
    )


def statistic(metric: str, label: Vector, predictions: Predictions, days: Days) -> Statistic:
    """Reduce rows to a metric that can be drawn by day.

    Args:
        metric: Name in ``contracts.metrics``, of a binary or a regression task.
        label: Shape (n,).
        predictions: For the same rows.
        days: Of the same rows.

    Raises:
        NoStatisticError: The metric has no such form.
    """
    if metric == "roc_auc":
        return _auc(label, predictions.score, days)
    if metric == "average_precision":
        return _average_precision(label, predictions.score, days)
    if metric == "calibration_error":
        return calibration_error(
            label,
            predictions.score if predictions.probability is None else predictions.probability,
            days,
        )
    if metric in {"precision", "recall", "f1"} and predictions.probability is not None:
        return _called(metric, label, predictions.probability >= predictions.threshold, days)
    return _mean_metric(metric, label, predictions, days)


def ratio(sums: Matrix) -> Statistic:
    """Return the ratio of the first to the second of two columns of sums, shape (days, 2)."""

    def value(weights: Matrix) -> Vector:
        import numpy as np

        over, under = (weights @ sums).T
        return np.asarray(np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0))

    return value


def calibration_error(label: Vector, predicted: Vector, days: Days) -> Statistic:
    """Return the mean distance of prediction and outcome over ten equally filled bins, which are those of all rows; 0 is best."""
    import numpy as np

    edges = np.unique(
        np.quantile(predicted, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS, method="higher")
    )
    bins = np.searchsorted(edges, predicted, side="right")
    gaps = np.column_stack(
        [
            days.sums(np.where(bins == number, predicted - label, 0.0))[:, 0]
            for number in range(edges.size + 1)
        ]
    )
    n_rows = days.sums(np.ones(label.size))[:, 0]

    def value(weights: Matrix) -> Vector:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.abs(weights @ gaps).sum(axis=1) / (weights @ n_rows))

    return value


def _auc(label: Vector, score: Vector, days: Days) -> Statistic:
    """Return the area under the ROC curve: won pairs over all pairs, both by day of the positive and day of the negative row."""
    import numpy as np

    is_positive = label > 0
    n_positive, n_negative = days.sums(
        (label > 0).astype(np.float64), (label <= 0).astype(np.float64)
    ).T
    score_positive, day_positive = score[is_positive], days.codes[is_positive]
    won = np.zeros((days.n, days.n))
    for day in np.flatnonzero(n_negative):
        negatives = np.sort(score[~is_positive & (days.codes == day)])
        beaten = np.searchsorted(negatives, score_positive, side="left") + np.searchsorted(
            negatives, score_positive, side="right"
        )
        won[:, day] = np.bincount(day_positive, weights=beaten / 2, minlength=days.n)

    def value(weights: Matrix) -> Vector:
        pairs = (weights @ n_positive) * (weights @ n_negative)
        return np.asarray(
            np.divide(
                ((weights @ won) * weights).sum(axis=1),
                pairs,
                out=np.full(pairs.shape, np.nan),
                where=pairs > 0,
            )
        )

    return value


def _average_precision(label: Vector, score: Vector, days: Days) -> Statistic:
    import numpy as np

    order = np.argsort(-score, kind="stable")
    positive, codes = label[order], days.codes[order]
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))

    def one(weights: Vector) -> float:
        drawn = weights[codes]
        found, n_rows = np.cumsum(drawn * positive)[ends], np.cumsum(drawn)[ends]
        if found[-1] == 0:
            return float("nan")
        precision = np.divide(found, n_rows, out=np.zeros(found.shape), where=n_rows > 0)
        return float((np.diff(found, prepend=0.0) * precision).sum() / found[-1])

    return lambda weights: np.array([one(draw) for draw in weights])


def _called(metric: str, label: Vector, called: npt.NDArray[np.bool_], days: Days) -> Statistic:
    import numpy as np

    positive = called.astype(np.float64)
    under = {"precision": positive, "recall": label, "f1": (positive + label) / 2}[metric]
    return ratio(days.sums(label * positive, under))


def _mean_metric(metric: str, label: Vector, predictions: Predictions, days: Days) -> Statistic:
    import numpy as np

    ones, predicted = np.ones(label.size), predictions.score
    if predictions.probability is not None:
        clipped = np.clip(predictions.probability, EDGE, 1 - EDGE)
        losses = {
            "log_loss": -np.log(np.where(label > 0, clipped, 1 - clipped)),
            "brier": (predictions.probability - label) ** 2,
        }
    else:
        losses = {
            "mae": np.abs(predicted - label),
            "bias": predicted - label,
            "rmse": (predicted - label) ** 2,
        }
    if metric in losses:
        mean = ratio(days.sums(losses[metric], ones))
        return (lambda weights: np.sqrt(mean(weights))) if metric == "rmse" else mean
    if metric == "r2" and predictions.probability is None:
        return _r2(days.sums((predicted - label) ** 2, label, label**2, ones))
    raise NoStatisticError(
        f"{metric} cannot be computed by day.",
        expected="a metric of a binary or regression task with a better side",
    )


def _r2(sums: Matrix) -> Statistic:
    def value(weights: Matrix) -> Vector:
        import numpy as np

        squared_error, total, squares, n_rows = (weights @ sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(1 - squared_error / (squares - total**2 / n_rows))

    return value
