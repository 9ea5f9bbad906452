"""The metrics a spec may name: their direction, best value and unit. The formulas stand in ``nightshift.training.evaluation``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Task(StrEnum):
    """What kind of label is predicted."""

    BINARY = "binary"
    REGRESSION = "regression"


NOT_SUPPORTED = ("multiclass", "ranking")
"""Tasks that people ask for; no stage from training to monitoring can do them."""


@dataclass(frozen=True)
class Metric:
    """One number that says how good predictions are.

    Attributes:
        task: The task it belongs to.
        better: Whether a higher or a lower value is better, or one nearer to the best value.
        best: The value of a perfect model.
        unit: ``ratio`` (0 to 1), ``nats``, ``label`` (the label's own unit), ``squared label`` or
            ``slope``.
        description: What it measures.
    """

    task: Task
    better: Literal["higher", "lower", "nearer"]
    best: float
    unit: str
    description: str

    def gain(self, value: float, reference: float) -> float:
        """Return by how much ``value`` is better than ``reference`` (negative: worse), in the metric's unit."""
        if self.better == "higher":
            return value - reference
        if self.better == "lower":
            return reference - value
        return abs(reference - self.best) - abs(value - self.best)


def _binary(
    better: Literal["higher", "lower", "nearer"], best: float, unit: str, description: str
) -> Metric:
    return Metric(Task.BINARY, better, best, unit, description)


def _regression(
    better: Literal["higher", "lower", "nearer"], best: float, unit: str, description: str
) -> Metric:
    return Metric(Task.REGRESSION, better, best, unit, description)


METRICS: dict[str, Metric] = {
    "roc_auc": _binary(
        "higher",
        1.0,
        "ratio",
        "Chance that a random positive row scores above a random negative one; 0.5 is chance.",
    ),
    "average_precision": _binary(
        "higher",
        1.0,
        "ratio",
        "Area under the precision-recall steps; chance is the positive rate.",
    ),
    "log_loss": _binary("lower", 0.0, "nats", "Mean negative log-likelihood of the probability."),
    "brier": _binary(
        "lower", 0.0, "ratio", "Mean squared difference between probability and outcome."
    ),
    "calibration_error": _binary(
        "lower",
        0.0,
        "ratio",
        "Mean distance of probability and positive rate over ten bins of equal size.",
    ),
    "calibration_slope": _binary(
        "nearer",
        1.0,
        "slope",
        "Slope of the outcome on the probability's log-odds; below 1: over-confident.",
    ),
    "precision": _binary("higher", 1.0, "ratio", "Share of rows called positive that are."),
    "recall": _binary("higher", 1.0, "ratio", "Share of positive rows called positive."),
    "f1": _binary("higher", 1.0, "ratio", "Harmonic mean of precision and recall."),
    "positive_rate": _binary(
        "nearer", 0.0, "ratio", "Share of positive labels; describes the rows, not the model."
    ),
    "rmse": _regression("lower", 0.0, "label", "Root of the mean squared error."),
    "mae": _regression("lower", 0.0, "label", "Mean absolute error."),
    "r2": _regression(
        "higher", 1.0, "ratio", "Share of the label's variance that is explained; 0 for the mean."
    ),
    "bias": _regression("nearer", 0.0, "label", "Mean of prediction minus label."),
}


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return the metrics of a task, by name."""
    return {name: metric for name, metric in METRICS.items() if metric.task == task}
