"""Measure what a model loses with age: models of several ages score the same rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.backtest.comparison import Comparison
from nightshift.contracts.partitions import PartitionRange
from nightshift.models.predictions import joined
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    from nightshift.backtest.comparison import Metrics
    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.training.statistics.block_bootstrap import Statistic
    from nightshift.training.statistics.confidence_intervals import BoundedEstimate

AGES = (1, 3, 7, 14, 30)
"""Days between the training partition and the scored one; 1 is the freshest model possible."""
MIN_DAYS = 7
"""Days on which all ages must have a model; else the oldest ages are left out."""


@dataclass(frozen=True)
class AgeResult:
    """Metrics of models of one age.

    Attributes:
        days: The age.
        values: Metrics over all rows, by name.
        gains: Gain on the freshest model, by metric, on the same rows; positive is better. Empty
            for the freshest itself.
    """

    days: int
    values: Metrics
    gains: dict[str, BoundedEstimate]


@dataclass(frozen=True)
class AgeComparison:
    """Models of several ages on the same rows.

    Attributes:
        partitions: The scored ones.
        n_rows: Labelled rows.
        ages: The freshest first.
    """

    partitions: PartitionRange
    n_rows: int
    ages: list[AgeResult]


def compare_ages(
    models: NightlyModels,
    partitions: PartitionRange,
    metrics: Sequence[str],
    estimated: Sequence[str],
) -> AgeComparison | None:
    """Score the same partitions by models of every age; None if there are too few partitions.

    Args:
        models: One of the day before the first partition, and one of every partition.
        partitions: The scored ones.
        metrics: What is measured.
        estimated: Those of the metrics that get an interval.
    """
    comparable = comparable_partitions(partitions)
    if comparable is None:
        return None
    common, ages = comparable
    comparison = Comparison.of(models.spec, rows_of(models.rows, common))
    results: list[AgeResult] = []
    freshest: dict[str, Statistic] = {}
    for age in ages:
        lag = dt.timedelta(days=age)
        parts = [models.predictions(day - lag, day) for day in common.days]
        predictions = joined(parts)
        statistics = comparison.statistics(predictions, estimated)
        # The first age is the freshest: older models are compared with it.
        gains: dict[str, BoundedEstimate] = {}
        if results:
            gains = comparison.gains(statistics, freshest)
        else:
            freshest = statistics
        results.append(AgeResult(age, comparison.values(predictions, metrics), gains))
    return AgeComparison(common, len(comparison.label), results)


def comparable_partitions(
    partitions: PartitionRange, ages: Sequence[int] = AGES
) -> tuple[PartitionRange, list[int]] | None:
    """Return the partitions that have a model of every age, and the ages; None if too few have.

    The first model is that of the day before the first partition.
    """
    # The oldest age decides which partitions have all models: fewer ages leave more partitions.
    for n_ages in range(len(ages), 0, -1):
        first = partitions.first.shift(ages[n_ages - 1] - 1)
        n_days = (partitions.last.day - first.day).days + 1
        if n_days >= MIN_DAYS:
            return PartitionRange(first, partitions.last), list(ages[:n_ages])
    return None
