"""Metrics of several versions on the same rows, by slice, with differences to the first.

An interval draws days; a difference is taken on the same draws, so it is paired by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightshift.backtest.comparison import Comparison
from nightshift.backtest.walk_forward import shown_metrics
from nightshift.training.evaluation import slice_masks
from nightshift.training.statistics.confidence_intervals import (
    NoEstimateError,
    difference,
    estimate,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Mask
    from nightshift.models.predictions import Predictions
    from nightshift.training.statistics.block_bootstrap import Statistic

_SLOW_METRICS = {"average_precision"}
"""Each draw takes a pass over the rows: measured over all rows only."""


@dataclass(frozen=True)
class ComparedNumber:
    """A metric of a version on some rows, and its difference to the first version's.

    Attributes:
        slice_column: Column of the slice; empty for all rows.
        slice_level: Its level; empty for all rows.
        metric: Name in ``contracts.metrics``.
        version: The version.
        n_rows: Rows.
        n_days: Days that are drawn.
        value: On these rows; None where they do not define it.
        interval: One-sided bounds at ``promotion.confidence`` each; None without an estimate.
        difference: This version's value minus the first one's; None for the first one.
        difference_interval: Of the difference, on the same draws of days.
    """

    slice_column: str
    slice_level: str
    metric: str
    version: int
    n_rows: int
    n_days: int
    value: float | None
    interval: tuple[float, float] | None
    difference: float | None
    difference_interval: tuple[float, float] | None


def measure_versions(
    spec: ModelSpec,
    rows: pa.Table,
    predictions: dict[int, Predictions],
) -> Iterator[ComparedNumber]:
    """Yield all rows first, then each level of each declared slice."""
    comparison = Comparison.of(spec, rows)
    all_rows = np.ones(rows.num_rows, dtype=bool)
    metrics = dict.fromkeys([spec.promotion.metric, *shown_metrics(spec)])
    yield from _measure_slice(comparison, ("", ""), all_rows, predictions, list(metrics))
    quick_metrics = [name for name in metrics if name not in _SLOW_METRICS]
    for declared in spec.promotion.slices:
        for level, mask in slice_masks(declared, rows):
            part = (declared.column, level)
            yield from _measure_slice(comparison, part, mask, predictions, quick_metrics)


def _measure_slice(
    comparison: Comparison,
    part: tuple[str, str],
    mask: Mask,
    predictions: dict[int, Predictions],
    metrics: list[str],
) -> Iterator[ComparedNumber]:
    sliced = Comparison(comparison.spec, comparison.label[mask], comparison.dates[mask])
    values = {}
    statistics = {}
    for version, predicted in predictions.items():
        part_of_rows = predicted.at(mask)
        values[version] = sliced.values(part_of_rows, metrics)
        # Reduced to days once; every interval draws from the same sums.
        statistics[version] = sliced.statistics(part_of_rows, metrics)
    first = next(iter(predictions))
    for metric in metrics:
        for version in predictions:
            change, change_interval = None, None
            if version != first:
                # On the same draws: the weather of a day does not count as a difference.
                paired = difference(statistics[version][metric], statistics[first][metric])
                change, change_interval = _interval(sliced, paired)
            _, interval = _interval(sliced, statistics[version][metric])
            yield ComparedNumber(
                slice_column=part[0],
                slice_level=part[1],
                metric=metric,
                version=version,
                n_rows=int(mask.sum()),
                n_days=sliced.days.n,
                value=values[version][metric],
                interval=interval,
                difference=change,
                difference_interval=change_interval,
            )


def _interval(
    comparison: Comparison,
    statistic: Statistic,
) -> tuple[float | None, tuple[float, float] | None]:
    """Return value and interval; None where the days do not define them."""
    try:
        confidence = comparison.spec.promotion.confidence
        result = estimate(statistic, comparison.draws, confidence)
    except NoEstimateError:
        return None, None
    return result.value, (result.low, result.high)
