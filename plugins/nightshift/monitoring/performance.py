"""Measure published predictions against their outcomes, next to the rule on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import METRICS, Task
from nightshift.models.calibration import EDGE
from nightshift.models.predictions import Predictions
from nightshift.models.signature import numbers
from nightshift.monitoring.estimation import DECILE
from nightshift.stage_times import stage
from nightshift.training.evaluation import MetricValue, evidence, rule_predictions

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector

_SAMPLE = "published"
ALL_ROWS = "all"


@dataclass(frozen=True)
class Performance:
    """One metric of one slice of the predictions; ``slice_name`` is ``all`` for all rows."""

    slice_name: str
    slice_value: str
    metric: str
    value: float | None
    baseline_value: float | None
    n_labels: int


@stage("performance")
def measure_performance(spec: ModelSpec, rows: pa.Table) -> list[Performance]:
    """Return all metrics of the task for all rows and for each level of the declared slices.

    Args:
        spec: Task, slices and rule.
        rows: As ``outcomes.read_outcomes`` returns them, at least one.
    """
    published = _published(spec.task, rows)
    rule = rule_predictions(spec.task, spec.scoring.fallback, rows, published.threshold)
    by_source = {"model": published, "baseline": rule}
    label = numbers(rows, "label")
    measured = evidence(spec, _SAMPLE, rows, label, by_source)
    baseline = {_key(part): part.value for part in measured if part.source == "baseline"}
    performance = []
    for part in measured:
        if part.source == "model":
            key = _key(part)
            performance.append(Performance(*key, part.value, baseline[key], part.n_rows))
    if spec.task is Task.REGRESSION and DECILE in rows.column_names:
        performance += _by_decile(rows, published, label)
    return performance


def _by_decile(rows: pa.Table, published: Predictions, label: Vector) -> list[Performance]:
    """Return the mean loss of each decile of the predictions, which estimates are made from."""
    import numpy as np

    # Rows of the rule have no decile, and are left out.
    deciles = numbers(rows, DECILE)
    size = np.abs(published.score - label)
    return [
        Performance(DECILE, f"{decile:.0f}", "mae", float(size[mask].mean()), None, int(mask.sum()))
        for decile in np.unique(deciles)
        if (mask := deciles == decile).any()
    ]


def metric_loss(metric: str, value: float, expected: float) -> float:
    """Return by how much a metric is worse than expected, in its unit; negative if better."""
    return -METRICS[metric].gain(value, expected)


def _key(part: MetricValue) -> tuple[str, str, str]:
    return part.slice_column or ALL_ROWS, part.slice_level, part.metric


def _published(task: Task, rows: pa.Table) -> Predictions:
    """Return the predictions as they were published."""
    import numpy as np

    score = numbers(rows, "score")
    if task is not Task.BINARY:
        return Predictions(score)
    probability = np.nan_to_num(numbers(rows, "probability"), nan=0.5)
    probability = np.clip(probability, EDGE, 1 - EDGE)
    is_positive = np.nan_to_num(numbers(rows, "is_positive")) > 0
    # The threshold is not published: it is the lowest probability that was called positive.
    threshold = float(probability[is_positive].min()) if is_positive.any() else np.inf
    return Predictions(score, probability, threshold)
