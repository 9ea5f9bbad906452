"""Measure predictions: overall, by declared slice, and against the rule baseline.

``contracts.metrics`` says which value of a metric is best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nightshift.contracts.metrics import Task
from nightshift.errors import NightshiftError
from nightshift.models.calibration import EDGE, fit_logistic, log_odds_of
from nightshift.models.class_scores import clip_shares, of_rows
from nightshift.models.group_ranks import measure_groups
from nightshift.models.predictions import Predictions, with_groups
from nightshift.models.signature import numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.promotion_spec import Fairness, Slice
    from nightshift.contracts.scoring_spec import FallbackRule
    from nightshift.models.arrays import Mask, Matrix, Vector

CALIBRATION_BINS = 10
OUTCOME = "outcome"
"""Slice of the rows of each class that came true: their ``recall`` is that of the class."""


class EvaluationError(NightshiftError):
    """The rows cannot be measured."""

    code = "NS-TRAIN-010"


@dataclass(frozen=True)
class MetricValue:
    """One measured metric.

    Attributes:
        sample: Which rows: ``holdout``, ``backtest-<n>`` or ``promotion``.
        source: Who predicted: ``challenger``, ``champion`` or ``baseline``.
        slice_column: Column of the slice, empty for all rows.
        slice_level: Level of the slice, empty for all rows.
        metric: Name in ``contracts.metrics``.
        value: None where the rows do not define it, such as an AUC of one class.
        n_rows: Number of rows.
    """

    sample: str
    source: str
    slice_column: str
    slice_level: str
    metric: str
    value: float | None
    n_rows: int


def evidence(
    spec: ModelSpec, sample: str, rows: pa.Table, label: Vector, by_source: dict[str, Predictions]
) -> list[MetricValue]:
    """Measure each source on the same rows, overall and by the declared slices.

    Args:
        spec: Task and slices.
        sample: Name of these rows.
        rows: The rows, with the columns of the slices; shape (n, any).
        label: Shape (n,).
        by_source: Predictions for these rows, by who made them.
    """
    by_source = {
        source: with_groups(spec, rows, predictions) for source, predictions in by_source.items()
    }
    parts = [("", "", np.ones(label.size, dtype=bool))]
    for declared in spec.promotion.slices:
        for level, mask in slice_masks(declared, rows):
            parts.append((declared.column, level, mask))
    parts += [(OUTCOME, name, mask) for name, mask in outcome_masks(spec, label)]

    measured = []
    for column, level, mask in parts:
        n_rows = int(mask.sum())
        for source, predictions in by_source.items():
            values = measure(spec.task, label[mask], predictions.at(mask))
            for metric, value in values.items():
                measured.append(MetricValue(sample, source, column, level, metric, value, n_rows))
    return measured


def slice_masks(declared: Slice | Fairness, rows: pa.Table) -> Iterator[tuple[str, Mask]]:
    """Yield each level of a slice, sorted, with a mask of its rows; null is ``(missing)``."""
    values = rows.column(declared.column).to_pylist()
    levels = np.array(["(missing)" if value is None else str(value) for value in values])
    for level in np.unique(levels):
        yield str(level), levels == level


def outcome_masks(spec: ModelSpec, label: Vector) -> Iterator[tuple[str, Mask]]:
    """Yield each class that came true in some rows, in order, with a mask of them."""
    for number, name in enumerate(spec.classes):
        mask = label == number
        if mask.any():
            yield name, mask


def overall(
    measured: list[MetricValue], source: str, sample: str = "holdout"
) -> dict[str, float | None]:
    """Return the metrics of one source over all rows of a sample."""
    key = (sample, source, "")
    return {
        part.metric: part.value
        for part in measured
        if (part.sample, part.source, part.slice_column) == key
    }


def measure(task: Task, label: Vector, predictions: Predictions) -> dict[str, float | None]:
    """Compute all metrics of a task.

    Args:
        task: Which metrics.
        label: Shape (n,), without missing values; of classes their numbers.
        predictions: For the same rows.

    Returns:
        Metric to value; None where the rows do not define it.

    Raises:
        EvaluationError: There is no row, or the task has no metrics of single rows.
    """
    if label.size == 0:
        raise EvaluationError(
            "There is no row to measure.", expected="at least one labelled row", got="none"
        )
    if predictions.groups is not None:
        values = measure_groups(label, predictions).means()
    elif predictions.classes is not None:
        values = _measure_classes(label, predictions, predictions.classes)
    elif task == Task.BINARY and predictions.probability is not None:
        values = _measure_binary(label, predictions, predictions.probability)
    elif task == Task.REGRESSION:
        values = _measure_regression(label, predictions.score)
    else:
        raise EvaluationError(
            f"Task {task} is not measured row by row.",
            expected="a regression, probabilities, or a ranking with its groups",
            got=task,
        )
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def _measure_binary(
    label: Vector, predictions: Predictions, probability: Vector
) -> dict[str, float]:
    from sklearn import metrics

    predicted = probability >= predictions.threshold
    # A model that selects no row has precision 0; without this scikit-learn warns.
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        label, predicted, average="binary", zero_division=0.0
    )
    # The area under a curve is not defined on rows of one class.
    has_both = 0.0 < label.mean() < 1.0
    auc = average_precision = slope = math.nan
    if has_both:
        auc = metrics.roc_auc_score(label, predictions.score)
        average_precision = metrics.average_precision_score(label, predictions.score)
    if has_both and probability.std() > 0:
        slope, _ = fit_logistic(log_odds_of(probability), label)
    return {
        "roc_auc": auc,
        "average_precision": average_precision,
        # scikit-learn needs the labels named where the rows have a single one.
        "log_loss": metrics.log_loss(label, probability, labels=[0.0, 1.0]),
        "brier": metrics.brier_score_loss(label, probability, pos_label=1.0),
        "calibration_error": calibration_error(label, probability),
        "calibration_slope": slope,
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "positive_rate": label.mean(),
    }


def _measure_classes(label: Vector, predictions: Predictions, classes: Matrix) -> dict[str, float]:
    is_right, probability = predictions.answered(label)
    truth = np.zeros(classes.shape)
    truth[np.arange(label.size), label.astype(np.int64)] = 1.0
    called = np.zeros(classes.shape)
    called[np.arange(label.size), predictions.predicted_class] = 1.0
    hits = (truth * called).sum(axis=0)
    f1 = class_means(2 * hits, truth.sum(axis=0) + called.sum(axis=0))
    # Of every class: the predicted ones alone may all be about equally sure.
    outcome, predicted = predictions.by_class(label)
    slope = math.nan
    if predicted.std() > 0:
        slope, _ = fit_logistic(log_odds_of(predicted), outcome)
    return {
        "log_loss": -np.log(np.maximum(of_rows(classes, label), EDGE)).mean(),
        "brier": ((classes - truth) ** 2).sum(axis=1).mean(),
        "accuracy": is_right.mean(),
        "macro_f1": float(f1),
        "recall": float(class_means(hits, truth.sum(axis=0))),
        "calibration_error": calibration_error(is_right, probability),
        "calibration_slope": slope,
    }


def class_means(numerator: Matrix, denominator: Matrix) -> Vector:
    """Return the mean quotient over the classes, the last axis, whose denominator is above 0."""
    is_defined = denominator > 0
    zeros = np.zeros(np.shape(numerator))
    quotients = np.divide(numerator, denominator, out=zeros, where=is_defined)
    with np.errstate(invalid="ignore"):
        return np.asarray(quotients.sum(axis=-1) / is_defined.sum(axis=-1))


def _measure_regression(label: Vector, value: Vector) -> dict[str, float]:
    from sklearn import metrics

    has_spread = label.size > 1 and label.std() > 0
    return {
        "rmse": metrics.root_mean_squared_error(label, value),
        "mae": metrics.mean_absolute_error(label, value),
        "r2": metrics.r2_score(label, value) if has_spread else math.nan,
        "bias": (value - label).mean(),
    }


def calibration_error(label: Vector, probability: Vector) -> float:
    """Return the expected calibration error over bins of equally many rows; 0 is best.

    Source: Nixon et al. (2019), Measuring calibration in deep learning (adaptive bins).
    """
    bins = reliability(label, probability)
    error = sum(abs(mean - rate) * n_rows for mean, rate, n_rows in bins)
    return error / label.size


def reliability(label: Vector, predicted: Vector) -> list[tuple[float, float, int]]:
    """Return mean prediction, mean outcome and number of rows of each calibration bin."""
    # Ties make bins fewer, so only the numbers that occur are listed.
    bins = calibration_bins(predicted)
    points = []
    for number in np.unique(bins):
        mask = bins == number
        mean = float(predicted[mask].mean())
        rate = float(label[mask].mean())
        points.append((mean, rate, int(mask.sum())))
    return points


def calibration_bins(predicted: Vector) -> npt.NDArray[np.intp]:
    """Return the bin of each row, 0 to 9 at most, by rising prediction; equal rows share a bin.

    Bins are equally filled where ties allow it. A calibration error, by rows or by days, and the
    reliability figure use these bins.
    """
    shares = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    edges = np.unique(np.quantile(predicted, shares, method="higher"))
    return np.searchsorted(edges, predicted, side="right")


def rule_predictions(
    task: Task, rule: FallbackRule, rows: pa.Table, threshold: float = 0.5
) -> Predictions:
    """Return the predictions of the rule: its column, or its default where that is null.

    The rule of classes gives every row the declared shares.

    Raises:
        SignatureError: The rule's column is missing or no number.
    """
    if rule.shares:
        return as_predictions(task, np.tile(rule.shares, (rows.num_rows, 1)), threshold)
    values = numbers(rows, rule.feature)
    score = np.where(np.isnan(values), rule.default, values)
    return as_predictions(task, score, threshold)


def as_predictions(task: Task, score: Matrix, threshold: float) -> Predictions:
    """Return scores as predictions; those of a binary task are clipped to probabilities.

    Args:
        task: Task.
        score: Shape (n,); of classes their probabilities, shape (n, classes).
        threshold: Of a binary task.
    """
    if task is Task.MULTICLASS:
        return Predictions.of_classes(clip_shares(score))
    if task != Task.BINARY:
        return Predictions(score)
    # Rows are ordered by the score as it is; log-odds need a probability between 0 and 1.
    return Predictions(score, score.clip(EDGE, 1 - EDGE), threshold)


def best_threshold(label: Vector, probability: Vector) -> float:
    """Return the threshold with the best F1 score, the lowest of equals."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(label, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, EDGE)
    # The last point of the curve, recall 0, has no threshold.
    best = int(np.argmax(f1[:-1]))
    return float(thresholds[best])
