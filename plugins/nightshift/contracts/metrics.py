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
    MULTICLASS = "multiclass"
    RANKING = "ranking"

    @property
    def has_probability(self) -> bool:
        """Return whether predictions are probabilities, whose proper loss is the log loss."""
        return self in _PROBABILITY


@dataclass(frozen=True)
class Metric:
    """One number that says how good predictions are.

    Attributes:
        tasks: The tasks it belongs to.
        better: Whether a higher or a lower value is better, or one nearer to the best value.
        best: The value of a perfect model.
        unit: ``ratio`` (0 to 1), ``nats``, ``label`` (the label's own unit), ``squared label`` or
            ``slope``.
        description: What it measures.
    """

    tasks: tuple[Task, ...]
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


_BINARY = (Task.BINARY,)
_REGRESSION = (Task.REGRESSION,)
_CLASSES = (Task.MULTICLASS,)
_RANKING = (Task.RANKING,)
_PROBABILITY = (Task.BINARY, Task.MULTICLASS)

METRICS: dict[str, Metric] = {
    "roc_auc": Metric(
        _BINARY, "higher", 1.0, "ratio",
        "Chance that a random positive row scores above a random negative one; 0.5 is chance.",
    ),
    "average_precision": Metric(
        _BINARY, "higher", 1.0, "ratio",
        "Area under the precision-recall steps; chance is the positive rate.",
    ),
    "log_loss": Metric(
        _PROBABILITY, "lower", 0.0, "nats",
        "Mean negative logarithm of the probability that was given to what came true.",
    ),
    "brier": Metric(
        _PROBABILITY, "lower", 0.0, "ratio",
        "Mean squared difference between probability and outcome; of classes summed over them.",
    ),
    "calibration_error": Metric(
        _PROBABILITY, "lower", 0.0, "ratio",
        "Mean distance of probability and positive rate over ten bins of equal size; of classes:"
        " of the predicted class's probability and how often it was right.",
    ),
    "calibration_slope": Metric(
        _PROBABILITY, "nearer", 1.0, "slope",
        "Slope of the outcome on the probability's log-odds; below 1: over-confident. Of classes:"
        " of each class coming true on its probability, all together.",
    ),
    "precision": Metric(_BINARY, "higher", 1.0, "ratio", "Share of rows called positive that are."),
    "recall": Metric(
        _PROBABILITY, "higher", 1.0, "ratio",
        "Share of positive rows called positive; of classes: the mean over those that occur.",
    ),
    "f1": Metric(_BINARY, "higher", 1.0, "ratio", "Harmonic mean of precision and recall."),
    "positive_rate": Metric(
        _BINARY, "nearer", 0.0, "ratio",
        "Share of positive labels; describes the rows, not the model.",
    ),
    "accuracy": Metric(
        _CLASSES, "higher", 1.0, "ratio",
        "Share of rows whose predicted class came true.",
    ),
    "macro_f1": Metric(
        _CLASSES, "higher", 1.0, "ratio",
        "Mean over the classes that occur or are predicted of F1, as if each was the positive one.",
    ),
    "ndcg": Metric(
        _RANKING, "higher", 1.0, "ratio",
        "Discounted gain of the first top_k of a group, against that of its best order; the gain of"
        " a row is 2 to the power of its relevance, minus 1. Mean over the groups.",
    ),
    "precision_at_k": Metric(
        _RANKING, "higher", 1.0, "ratio",
        "Share of the first top_k of a group that is relevant. Mean over the groups.",
    ),
    "recall_at_k": Metric(
        _RANKING, "higher", 1.0, "ratio",
        "Share of a group's relevant rows that is among its first top_k. Mean over the groups.",
    ),
    "rmse": Metric(_REGRESSION, "lower", 0.0, "label", "Root of the mean squared error."),
    "mae": Metric(_REGRESSION, "lower", 0.0, "label", "Mean absolute error."),
    "r2": Metric(
        _REGRESSION, "higher", 1.0, "ratio",
        "Share of the label's variance that is explained; 0 for the mean.",
    ),
    "bias": Metric(_REGRESSION, "nearer", 0.0, "label", "Mean of prediction minus label."),
}  # fmt: skip


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return the metrics of a task, by name."""
    return {name: metric for name, metric in METRICS.items() if task in metric.tasks}
