"""Measure published predictions against their outcomes, next to the rule on the same rows.

Each metric of all rows, and the monitored one of each slice, has a 95 % interval: the night's rows
are split at random into blocks, and blocks are drawn. It says how much the number owes to the rows
that happened to be there; the day effect, which all rows share, is in the band of the estimates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.metrics import METRICS, Task, metrics_of
from nightshift.models.calibration import EDGE
from nightshift.models.predictions import Predictions, with_groups
from nightshift.models.signature import numbers
from nightshift.monitoring.estimation import DECILE
from nightshift.registry.canary.record import CANARY
from nightshift.scoring.interval.interval_metrics import measure_answers
from nightshift.scoring.interval.night_interval import COLUMNS as INTERVAL_COLUMNS
from nightshift.stage_times import stage
from nightshift.training.evaluation import (
    OUTCOME,
    MetricValue,
    evidence,
    outcome_masks,
    rule_predictions,
    slice_masks,
)
from nightshift.training.statistics.block_bootstrap import (
    Days,
    NoStatisticError,
    draw_days,
    statistic,
)
from nightshift.training.statistics.confidence_intervals import NoEstimateError, estimate

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector

_SAMPLE = "published"
ALL_ROWS = "all"
SCORE_SOURCE = "score_source"
"""Slice of a canary's rows; all other slices are of the rows alongside them."""
CONFIDENCE = 0.975
"""Of each of the two bounds: together a 95 % interval."""
N_BLOCKS, N_DRAWS, SEED = 50, 500, 1
MINIMUM_GROUPS = 5
"""Groups of a ranking below which draws of them say nothing of another night's."""
MAX_ROWS_OF_A_PASS = 100_000
"""Average precision takes a pass over all rows for each draw; larger nights have no interval."""


@dataclass(frozen=True)
class Performance:
    """One metric of one slice of the predictions; ``slice_name`` is ``all`` for all rows.

    ``low`` and ``high`` are its 95 % interval, None where none was computed.
    """

    slice_name: str
    slice_value: str
    metric: str
    value: float | None
    baseline_value: float | None
    n_labels: int
    low: float | None = None
    high: float | None = None


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
    published = _published(spec, rows)
    rule = rule_predictions(spec.task, spec.scoring.fallback, rows, published.threshold)
    by_source = {"model": published, "baseline": rule}
    label = numbers(rows, "label")
    measured = evidence(spec, _SAMPLE, rows, label, by_source)
    baseline = {_key(part): part.value for part in measured if part.source == "baseline"}
    bounds = dict(_bounds(spec, rows, label, published))
    performance = []
    for part in measured:
        if part.source == "model":
            key = _key(part)
            low, high = bounds.get(key, (None, None))
            performance.append(Performance(*key, part.value, baseline[key], part.n_rows, low, high))
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


Key = tuple[str, str, str]
Bounds = tuple[float, float]


def _bounds(
    spec: ModelSpec, rows: pa.Table, label: Vector, published: Predictions
) -> Iterator[tuple[Key, Bounds]]:
    """Yield the intervals: all metrics of all rows, one of each slice, the recall of each class."""
    for name in metrics_of(spec.task):
        is_affordable = name != "average_precision" or label.size <= MAX_ROWS_OF_A_PASS
        interval = row_interval(name, label, published) if is_affordable else None
        if interval is not None:
            yield (ALL_ROWS, "", name), interval
    metric = spec.monitoring.metric
    for declared in spec.promotion.slices:
        for level, mask in slice_masks(declared, rows):
            interval = row_interval(metric, label[mask], published.at(mask))
            if interval is not None:
                yield (declared.column, level, metric), interval
    for name, mask in outcome_masks(spec, label):
        interval = row_interval("recall", label[mask], published.at(mask))
        if interval is not None:
            yield (OUTCOME, name, "recall"), interval


def row_interval(metric: str, label: Vector, predictions: Predictions) -> Bounds | None:
    """Return the 95 % interval of a metric over draws of rows, of a ranking over draws of groups.

    None where they define none.

    The same rows in the same order give the same interval.

    Args:
        metric: Name in ``contracts.metrics``.
        label: Shape (n,).
        predictions: For the same rows.
    """
    import numpy as np

    # The rows of a ranking's group are one measurement, so they are drawn together.
    units = np.arange(label.size)
    if predictions.groups is not None:
        _, units = np.unique(predictions.groups.codes, return_inverse=True)
    n_units = int(units.max(initial=-1)) + 1
    if predictions.groups is not None and n_units < MINIMUM_GROUPS:
        return None
    n_blocks = min(N_BLOCKS, n_units)
    # Neighbours in the order of keys may be alike; blocks at random are not.
    codes = np.random.default_rng(SEED).permutation(n_units)[units] % max(n_blocks, 1)
    blocks = Days(codes.astype(np.int64), n_blocks)
    try:
        drawn = statistic(metric, label, predictions, blocks)
        result = estimate(drawn, draw_days(n_blocks, N_DRAWS, SEED), CONFIDENCE)
    except (NoStatisticError, NoEstimateError):
        return None
    return result.low, result.high


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


def _published(spec: ModelSpec, rows: pa.Table) -> Predictions:
    """Return the predictions as they were published."""
    import numpy as np

    score = numbers(rows, "score")
    if spec.classes:
        classes = [numbers(rows, name) for name in spec.class_columns.values()]
        return Predictions.of_classes(np.column_stack(classes))
    if spec.task is not Task.BINARY:
        return with_groups(spec, rows, Predictions(score))
    probability = np.nan_to_num(numbers(rows, "probability"), nan=0.5)
    probability = np.clip(probability, EDGE, 1 - EDGE)
    is_positive = np.nan_to_num(numbers(rows, "is_positive")) > 0
    # The threshold is not published: it is the lowest probability that was called positive.
    threshold = float(probability[is_positive].min()) if is_positive.any() else np.inf
    return Predictions(score, probability, threshold)
