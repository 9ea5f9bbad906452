"""Measure published predictions against their outcomes, next to the rule on the same rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.metrics import METRICS, Task
from nightshift.models.calibration import EDGE
from nightshift.models.predictions import Predictions
from nightshift.models.signature import numbers
from nightshift.monitoring.estimation import DECILE
from nightshift.registry.canary.record import CANARY
from nightshift.scoring.interval.interval_metrics import measure_answers
from nightshift.scoring.interval.night_interval import COLUMNS as INTERVAL_COLUMNS
from nightshift.stage_times import stage
from nightshift.training.evaluation import MetricValue, evidence, rule_predictions, slice_masks

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector

_SAMPLE = "published"
ALL_ROWS = "all"
SCORE_SOURCE = "score_source"
"""Slice of a canary's rows; all other slices are of the rows alongside them."""


@dataclass(frozen=True)
class Performance:
    """One metric of one slice of the predictions; ``slice_name`` is ``all`` for all rows."""

    slice_name: str
    slice_value: str
    metric: str
    value: float | None
    baseline_value: float | None
    n_labels: int


class CanaryPerformance(NamedTuple):
    """Metrics of the rows of a canary, and its version."""

    performance: list[Performance]
    version: int


def split_canary(spec: ModelSpec, rows: pa.Table) -> tuple[pa.Table, CanaryPerformance | None]:
    """Return the rows of everybody but a canary, and the performance of a canary; None without one.

    The rows are a random part of the entities, so metrics of both parts can be compared.

    Args:
        spec: Task, slices and rule.
        rows: As ``outcomes.read_outcomes`` returns them.
    """
    import pyarrow.compute as pc

    is_canary = pc.equal(rows.column(SCORE_SOURCE), CANARY)
    own = rows.filter(is_canary)
    if not own.num_rows:
        return rows, None
    # Slices of a share are too small to say anything.
    of_all = [
        replace(part, slice_name=SCORE_SOURCE, slice_value=CANARY)
        for part in measure_performance(spec, own)
        if part.slice_name == ALL_ROWS
    ]
    version: int = own.column("model_version")[0].as_py()
    return rows.filter(pc.invert(is_canary)), CanaryPerformance(of_all, version)


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
    return performance + _measure_intervals(spec, rows, label)


def _measure_intervals(spec: ModelSpec, rows: pa.Table, label: Vector) -> list[Performance]:
    """Return how often the intervals were right, and how wide: of all rows and of each slice."""
    import numpy as np

    if not set(INTERVAL_COLUMNS) <= set(rows.column_names):
        return []
    answers = np.column_stack([numbers(rows, name) for name in INTERVAL_COLUMNS])
    parts = [(ALL_ROWS, "", np.ones(label.size, dtype=bool))]
    # A band is about the whole night, an interval about each row.
    if spec.task is Task.REGRESSION:
        for declared in spec.promotion.slices:
            parts += [(declared.column, *part) for part in slice_masks(declared, rows)]
    performance = []
    for name, level, mask in parts:
        n_rows = int(mask.sum())
        for metric, value in measure_answers(spec, label[mask], answers[mask]).items():
            performance.append(Performance(name, level, metric, value, None, n_rows))
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
