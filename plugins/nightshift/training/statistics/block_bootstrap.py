"""Metrics as functions of how often each day counts, for a bootstrap blocked by day.

Rows of one day share its weather, holiday and traffic, so days are drawn, never rows. Each metric
is reduced once to sums by day (the area under the ROC curve to a table of won pairs by day and
day). Thousands of draws are then small matrix products that do not read the rows again. Source:
docs/adr/0017-evidence-gate.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nightshift.errors import NightshiftError
from nightshift.models.arrays import Integers, Mask, Matrix, Vector
from nightshift.models.calibration import EDGE
from nightshift.models.class_scores import of_rows
from nightshift.models.group_ranks import measure_groups
from nightshift.training.evaluation import calibration_bins, class_means

if TYPE_CHECKING:
    from nightshift.models.predictions import Predictions


Statistic = Callable[[Matrix], Vector]
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
        codes: Number of the row's day, 0 to n - 1; shape (rows,).
        n: Number of days.
    """

    codes: Integers
    n: int

    @classmethod
    def of(cls, dates: npt.NDArray[np.datetime64]) -> Days:
        """Return the days of some dates, shape (rows,)."""
        names, codes = np.unique(dates, return_inverse=True)
        return cls(codes.astype(np.int64), int(names.size))

    def at(self, mask: Mask) -> Days:
        """Return the days of some rows; a day without a row stays a day."""
        return Days(self.codes[mask], self.n)

    def repeated(self, n: int) -> Days:
        """Return the days of rows that each occur so many times, one after the other."""
        return Days(np.repeat(self.codes, n), self.n)

    def sums(self, *columns: Vector) -> Matrix:
        """Return the sum of each column by day; shape (days, columns)."""
        by_day = [np.bincount(self.codes, weights=column, minlength=self.n) for column in columns]
        return np.column_stack(by_day)


def draw_days(n_days: int, n_draws: int, seed: int) -> Matrix:
    """Return how often each day is drawn, shape (n_draws, n_days); each row sums to ``n_days``."""
    dice = np.random.default_rng(seed)
    equal_chances = np.full(n_days, 1 / n_days)
    draws = dice.multinomial(n_days, equal_chances, size=n_draws)
    return draws.astype(np.float64)


def statistic(metric: str, label: Vector, predictions: Predictions, days: Days) -> Statistic:
    """Reduce rows to a metric that can be drawn by day.

    Args:
        metric: Name in ``contracts.metrics``, with a better side.
        label: Shape (n,).
        predictions: For the same rows.
        days: Of the same rows.

    Raises:
        NoStatisticError: The metric has no such form.
    """
    if predictions.groups is not None:
        return _group_mean(metric, label, predictions, days)
    # A regression has no probability.
    score = predictions.score
    probability = predictions.probability
    if metric in _OF_ORDER:
        return _OF_ORDER[metric](label, score, days)
    if metric == "calibration_error":
        return calibration_error(*predictions.answered(label), days)
    if predictions.classes is not None and metric in ("macro_f1", "recall"):
        return _macro(metric, label, predictions, days)
    if metric == "r2" and probability is None:
        return _r2(label, score, days)
    if predictions.classes is not None:
        ratios = _class_ratios(label, predictions, predictions.classes)
    elif probability is None:
        ratios = _regression_ratios(label, score)
    else:
        ratios = _binary_ratios(label, probability, predictions.threshold)
    if metric not in ratios:
        raise _no_statistic(metric)
    value = ratio(days.sums(*ratios[metric]))
    if metric == "rmse":
        return lambda weights: np.sqrt(value(weights))
    return value


def _no_statistic(metric: str) -> NoStatisticError:
    return NoStatisticError(
        f"{metric} cannot be computed by day.", expected="a metric of the task with a better side"
    )


def ratio(sums: Matrix) -> Statistic:
    """Return the ratio of the first to the second of two columns of sums, shape (days, 2)."""
    return lambda weights: _divide(*(weights @ sums).T)


def calibration_error(label: Vector, predicted: Vector, days: Days) -> Statistic:
    """Return the expected calibration error by day, over the bins of all rows; 0 is best."""
    # Bins stay those of all rows in every draw; only the weights change.
    bins = calibration_bins(predicted)
    excess = predicted - label
    gaps = [np.where(bins == number, excess, 0.0) for number in range(bins.max() + 1)]
    gap_sums = days.sums(*gaps)
    n_rows = days.sums(np.ones(label.size))[:, 0]

    def value(weights: Matrix) -> Vector:
        gaps_of_bins = np.abs(weights @ gap_sums)
        return _divide(gaps_of_bins.sum(axis=1), weights @ n_rows)

    return value


def _auc(label: Vector, score: Vector, days: Days) -> Statistic:
    """Return the area under the ROC curve: won pairs over all pairs.

    Both are counted by the day of the positive and the day of the negative row.
    """
    is_positive = label > 0
    positive_scores = score[is_positive]
    positive_days = days.codes[is_positive]
    positives = is_positive.astype(np.float64)
    n_positive, n_negative = days.sums(positives, 1 - positives).T
    # A draw weighs each pair by the weights of its two days, so days x days sums are enough.
    won = np.zeros((days.n, days.n))
    for day in np.flatnonzero(n_negative):
        is_negative = ~is_positive & (days.codes == day)
        negatives = np.sort(score[is_negative])
        # A tie is half a won pair.
        n_lower = np.searchsorted(negatives, positive_scores, side="left")
        n_not_higher = np.searchsorted(negatives, positive_scores, side="right")
        wins = (n_lower + n_not_higher) / 2
        won[:, day] = np.bincount(positive_days, weights=wins, minlength=days.n)

    def value(weights: Matrix) -> Vector:
        n_pairs = (weights @ n_positive) * (weights @ n_negative)
        n_won = ((weights @ won) * weights).sum(axis=1)
        return _divide(n_won, n_pairs)

    return value


def _average_precision(label: Vector, score: Vector, days: Days) -> Statistic:
    """Return the average precision: its steps depend on all rows, so each draw takes a pass."""
    order = np.argsort(-score, kind="stable")
    positive = label[order]
    codes = days.codes[order]
    # The last row of each run of equal scores: ties are called positive together.
    is_last = np.append(np.diff(score[order]) != 0, True)
    ends = np.flatnonzero(is_last)

    def of_draw(weights: Vector) -> float:
        row_weights = weights[codes]
        n_hits = np.cumsum(row_weights * positive)[ends]
        n_rows = np.cumsum(row_weights)[ends]
        n_positive = n_hits[-1]
        if n_positive == 0:
            return float("nan")
        # The first rows may all be of days that were not drawn.
        precision = np.divide(n_hits, n_rows, out=np.zeros(n_hits.shape), where=n_rows > 0)
        new_hits = np.diff(n_hits, prepend=0.0)
        return float((new_hits * precision).sum() / n_positive)

    return lambda weights: np.array([of_draw(draw) for draw in weights])


_OF_ORDER = {"roc_auc": _auc, "average_precision": _average_precision}
"""Metrics of the order of all rows."""


def _r2(label: Vector, predicted: Vector, days: Days) -> Statistic:
    squared_error = (predicted - label) ** 2
    sums = days.sums(squared_error, label, label**2, np.ones(label.size))

    def value(weights: Matrix) -> Vector:
        error, total, squares, n_rows = (weights @ sums).T
        # Outcomes without spread give an infinite or undefined value, which no draw counts.
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = squares - total**2 / n_rows
            return np.asarray(1 - error / spread)

    return value


def _binary_ratios(
    label: Vector, probability: Vector, threshold: float
) -> dict[str, tuple[Vector, Vector]]:
    """Return, by metric, the two columns whose sums are divided."""
    ones = np.ones(label.size)
    positive = (probability >= threshold).astype(np.float64)
    hits = label * positive
    clipped = np.clip(probability, EDGE, 1 - EDGE)
    likelihood = np.where(label > 0, clipped, 1 - clipped)
    return {
        "precision": (hits, positive),
        "recall": (hits, label),
        "f1": (hits, (positive + label) / 2),
        "log_loss": (-np.log(likelihood), ones),
        "brier": ((probability - label) ** 2, ones),
    }


def _class_ratios(
    label: Vector, predictions: Predictions, classes: Matrix
) -> dict[str, tuple[Vector, Vector]]:
    """Return, by metric, the two columns whose sums are divided."""
    ones = np.ones(label.size)
    is_right, _ = predictions.answered(label)
    of_label = of_rows(classes, label)
    # Over the classes: the squared differences to 1 for the label's class, to 0 for any other.
    squares = (classes**2).sum(axis=1) - 2 * of_label + 1
    return {
        "log_loss": (-np.log(np.maximum(of_label, EDGE)), ones),
        "brier": (squares, ones),
        "accuracy": (is_right, ones),
    }


def _macro(metric: str, label: Vector, predictions: Predictions, days: Days) -> Statistic:
    """Return the mean over the classes of F1, or of the recall, by day."""
    assert predictions.classes is not None  # noqa: S101 - the caller has asked
    numbers = range(predictions.classes.shape[1])
    predicted = predictions.predicted_class
    truth = [(label == number) * 1.0 for number in numbers]
    called = [(predicted == number) * 1.0 for number in numbers]
    hits = days.sums(
        *(is_true * is_called for is_true, is_called in zip(truth, called, strict=True))
    )
    n_true, n_called = days.sums(*truth), days.sums(*called)
    if metric == "recall":
        return lambda weights: class_means(weights @ hits, weights @ n_true)
    return lambda weights: class_means(2 * (weights @ hits), weights @ (n_true + n_called))


def _group_mean(metric: str, label: Vector, predictions: Predictions, days: Days) -> Statistic:
    """Return the mean over the judged groups by day; a group is of its first row's day."""
    measured = measure_groups(label, predictions)
    if metric not in measured.values:
        raise _no_statistic(metric)
    own_days = Days(days.codes[measured.first_row], days.n)
    return ratio(own_days.sums(measured.values[metric], np.ones(measured.first_row.size)))


def _regression_ratios(label: Vector, predicted: Vector) -> dict[str, tuple[Vector, Vector]]:
    """Return, by metric, the two columns whose sums are divided."""
    ones = np.ones(label.size)
    error = predicted - label
    return {
        "mae": (np.abs(error), ones),
        "bias": (error, ones),
        "rmse": (error**2, ones),
    }


def _divide(numerator: Vector, denominator: Vector) -> Vector:
    """Return the quotients; NaN where the denominator is not positive."""
    undefined = np.full(numerator.shape, np.nan)
    quotients = np.divide(numerator, denominator, out=undefined, where=denominator > 0)
    return np.asarray(quotients)
