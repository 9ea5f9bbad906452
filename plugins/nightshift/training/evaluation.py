"""Measure predictions: overall, by declared slice, and beside the rule baseline. ``contracts.metrics`` says which value is best."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.errors import NightshiftError
from nightshift.models.calibration import EDGE, fit_logistic, log_odds_of
from nightshift.models.predictions import Predictions
from nightshift.models.signature import numbers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import FallbackRule, ModelSpec
    from nightshift.contracts.promotion_spec import Fairness, Slice

    Vector = npt.NDArray[np.float64]

CALIBRATION_BINS = 10


class EvaluationError(NightshiftError):
    """The rows cannot be measured."""

    code = "NS-TRAIN-010"


@dataclass(frozen=True)
class MetricValue:
    """One measured number.

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


def measure(task: Task, label: Vector, predictions: Predictions) -> dict[str, float | None]:
    """Compute all metrics of a binary or regression task.

    Args:
        task: Binary or regression.
        label: Shape (n,), without missing values.
        predictions: For the same rows.

    Returns:
        Metric to value; None where the rows do not define it.

    Raises:
        EvaluationError: There is no row, or the task is another.
    """
    if label.size == 0:
        raise EvaluationError(
            "There is no row to measure.", expected="at least one labelled row", got="none"
        )
    if task == Task.BINARY and predictions.probability is not None:
        values = _measure_binary(
            label, predictions.score, predictions.probability, predictions.threshold
        )
    elif task == Task.REGRESSION:
        values = _measure_regression(label, predictions.score)
    else:
        raise EvaluationError(
            f"Task {task} is not measured row by row.",
            expected="binary with probabilities, or regression",
            got=task,
        )
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _measure_binary(
    label: Vector, score: Vector, probability: Vector, threshold: float
) -> dict[str, float]:
    from sklearn import metrics

    has_both = 0.0 < label.mean() < 1.0
    called = probability >= threshold
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        label, called, average="binary", zero_division=0.0
    )
    return {
        "roc_auc": float(metrics.roc_auc_score(label, score)) if has_both else math.nan,
        "average_precision": float(metrics.average_precision_score(label, score))
        if has_both
        else math.nan,
        "log_loss": float(metrics.log_loss(label, probability, labels=[0.0, 1.0])),
        "brier": float(metrics.brier_score_loss(label, probability, pos_label=1.0)),
        "calibration_error": calibration_error(label, probability),
        "calibration_slope": fit_logistic(log_odds_of(probability), label)[0]
        if has_both and probability.std() > 0
        else math.nan,
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "positive_rate": float(label.mean()),
    }


def _measure_regression(label: Vector, value: Vector) -> dict[str, float]:
    from sklearn import metrics

    return {
        "rmse": float(metrics.root_mean_squared_error(label, value)),
        "mae": float(metrics.mean_absolute_error(label, value)),
        "r2": float(metrics.r2_score(label, value))
        if label.size > 1 and label.std() > 0
        else math.nan,
        "bias": float((value - label).mean()),
    }


def calibration_error(label: Vector, probability: Vector) -> float:
    """Return the expected calibration error over bins of equally many rows; 0 is best.

    Source: Nixon et al. (2019), Measuring calibration in deep learning (adaptive bins).
    """
    return (
        sum(abs(mean - rate) * n for mean, rate, n in reliability(label, probability)) / label.size
    )


def reliability(label: Vector, probability: Vector) -> list[tuple[float, float, int]]:
    """Return mean probability, positive rate and number of rows of up to ten bins, by rising probability; equal rows share a bin."""
    import numpy as np

    edges = np.unique(
        np.quantile(probability, np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS, method="higher")
    )
    bins = np.searchsorted(edges, probability, side="right")
    parts = [bins == number for number in np.unique(bins)]
    return [
        (float(probability[part].mean()), float(label[part].mean()), int(part.sum()))
        for part in parts
    ]


def rule_predictions(
    task: Task, rule: FallbackRule, rows: pa.Table, threshold: float = 0.5
) -> Predictions:
    """Return what the rule baseline says: its column, or its default where that is null.

    Raises:
        SignatureError: The rule's column is missing or no number.
    """
    import numpy as np

    values = numbers(rows, rule.feature)
    score = np.where(np.isnan(values), rule.default, values)
    return (
        Predictions(score, np.clip(score, EDGE, 1 - EDGE), threshold)
        if task == Task.BINARY
        else Predictions(score)
    )


def best_threshold(label: Vector, probability: Vector) -> float:
    """Return the probability from which on calling rows positive has the best F1 score; the lowest of equals."""
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(label, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, EDGE)
    return float(thresholds[int(np.argmax(f1[:-1]))])


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
    import numpy as np

    everything = np.ones(label.size, dtype=bool)
    parts = [
        ("", "", everything),
        *(
            (part.column, level, mask)
            for part in spec.promotion.slices
            for level, mask in slice_masks(part, rows)
        ),
    ]
    return [
        MetricValue(sample, source, column, level, metric, value, int(mask.sum()))
        for column, level, mask in parts
        for source, predictions in by_source.items()
        for metric, value in measure(spec.task, label[mask], predictions.at(mask)).items()
    ]


def slice_masks(
    part: Slice | Fairness, rows: pa.Table
) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield each level of a slice, sorted, with a mask of its rows; null has the level ``(missing)``."""
    import numpy as np

    levels = np.array(
        [
            "(missing)" if value is None else str(value)
            for value in rows.column(part.column).to_pylist()
        ]
    )
    for level in np.unique(levels):
        yield str(level), levels == level


def overall(
    measured: list[MetricValue], source: str, sample: str = "holdout"
) -> dict[str, float | None]:
    """Return the metrics of one source over all rows of a sample."""
    return {
        part.metric: part.value
        for part in measured
        if (part.sample, part.source, part.slice_column) == (sample, source, "")
    }
