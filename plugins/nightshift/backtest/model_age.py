"""The cost of staleness: what models of several ages say about the same rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.backtest.comparison import Comparison, joined
from nightshift.contracts.partitions import PartitionRange
from nightshift.training.splits import rows_between

if TYPE_CHECKING:
    from nightshift.backtest.nightly_models import Fleet
    from nightshift.training.statistics.confidence_intervals import Estimate

AGES = (1, 3, 7, 14, 30)
"""Days between the evening that trained and the evening that scores."""
FEWEST_DAYS = 7
"""Days on which all ages must have a model; else the oldest ages are left out."""


@dataclass(frozen=True)
class Age:
    """What a model of one age says.

    Attributes:
        days: Age; 1 is the model of the evening before.
        values: Metrics over all rows, by name.
        gains: Gain on the freshest model, by metric, on the same rows; positive is better. Empty
            for the freshest itself.
    """

    days: int
    values: dict[str, float | None]
    gains: dict[str, Estimate]


@dataclass(frozen=True)
class Staleness:
    """Models of several ages on the same rows.

    Attributes:
        nights: Scored nights.
        n_rows: Labelled rows.
        ages: The freshest first.
    """

    nights: PartitionRange
    n_rows: int
    ages: list[Age]


def comparable(
    nights: PartitionRange, ages: Sequence[int] = AGES
) -> tuple[PartitionRange, list[int]] | None:
    """Return the nights that have a model of every age, and the ages; None where even the freshest ones have too few.

    The first model is that of the evening before the first night.
    """
    for oldest in range(len(ages), 0, -1):
        first = nights.first.shift(ages[oldest - 1] - 1)
        if (nights.last.day - first.day).days + 1 >= FEWEST_DAYS:
            return PartitionRange(first, nights.last), list(ages[:oldest])
    return None


def measure_staleness(
    fleet: Fleet, nights: PartitionRange, metrics: Sequence[str], estimated: Sequence[str]
) -> Staleness | None:
    """Score the same nights by models of every age.

    Args:
        fleet: A model for the evening before the first night, and for every night.
        nights: Scored nights.
        metrics: What is measured.
        estimated: Of these, what gets an interval.
    """
    found = comparable(nights)
    if found is None:
        return None
    common, ages = found
    rows = rows_between(fleet.rows, common.first.day, common.last.day)
    comparison = Comparison.of(fleet.spec, rows)
    predicted = {
        age: joined([fleet.predictions(day - dt.timedelta(days=age), day) for day in common.days])
        for age in ages
    }
    statistics = {
        age: comparison.statistics(predictions, estimated) for age, predictions in predicted.items()
    }
    return Staleness(
        common,
        rows.num_rows,
        [
            Age(
                age,
                comparison.values(predicted[age], metrics),
                comparison.gains(statistics[age], statistics[ages[0]]) if age > ages[0] else {},
            )
            for age in ages
        ],
    )
