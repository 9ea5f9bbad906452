"""The metrics a spec may name: their direction, best value and unit.

The formulas are in ``nightshift.training.evaluation``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Task(StrEnum):
    """Type of the predicted label."""

    BINARY = "binary"
    REGRESSION = "regression"


# Tasks that people ask for; no stage from training to monitoring can do them.
NOT_SUPPORTED = ("multiclass", "ranking")


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
        """Return how much better ``value`` is than ``reference``, in the metric's unit.

        Negative: it is worse.
        """
        if self.better == "higher":
            return value - reference
        if self.better == "lower":
            return reference - value
        # Better is what is nearer to the best value, on either side.
        return abs(reference - self.best) - abs(value - self.best)


METRICS: dict[str, Metric] = {
    "roc_auc": Metric(
        Task.BINARY, "higher", 1.0, "ratio",
        "Chance that a random positive row scores above a random negative one; 0.5 is chance.",
    ),
    "average_precision": Metric(
        Task.BINARY, "higher", 1.0, "ratio",
        "Area under the precision-recall steps; chance is the positive rate.",
    ),
    "log_loss": Metric(
        Task.BINARY, "lower", 0.0, "nats",
        "Mean negative log-likelihood of the probability.",
    ),
    "brier": Metric(
        Task.BINARY, "lower", 0.0, "ratio",
        "Mean squared difference between probability and outcome.",
    ),
    "calibration_error": Metric(
        Task.BINARY, "lower", 0.0, "ratio",
        "Mean distance of probability and positive rate over ten bins of equal size.",
    ),
    "calibration_slope": Metric(
        Task.BINARY, "nearer", 1.0, "slope",
        "Slope of the outcome on the probability's log-odds; below 1: over-confident.",
    ),
    "precision": Metric(
        Task.BINARY, "higher", 1.0, "ratio",
        "Share of rows called positive that are.",
    ),
    "recall": Metric(
        Task.BINARY, "higher", 1.0, "ratio",
        "Share of positive rows called positive.",
    ),
    "f1": Metric(
        Task.BINARY, "higher", 1.0, "ratio",
        "Harmonic mean of precision and recall.",
    ),
    "positive_rate": Metric(
        Task.BINARY, "nearer", 0.0, "ratio",
        "Share of positive labels; describes the rows, not the model.",
    ),
    "rmse": Metric(
        Task.REGRESSION, "lower", 0.0, "label",
        "Root of the mean squared error.",
    ),
    "mae": Metric(
        Task.REGRESSION, "lower", 0.0, "label",
        "Mean absolute error.",
    ),
    "r2": Metric(
        Task.REGRESSION, "higher", 1.0, "ratio",
        "Share of the label's variance that is explained; 0 for the mean.",
    ),
    "bias": Metric(
        Task.REGRESSION, "nearer", 0.0, "label",
        "Mean of prediction minus label.",
    ),
}  # fmt: skip


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return the metrics of a task, by name."""
    return {name: metric for name, metric in METRICS.items() if metric.task == task}
