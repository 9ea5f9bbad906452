"""Compare predictions of the same rows: metrics, and gains with intervals drawn by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import METRICS
from nightshift.models.signature import numbers
from nightshift.training.evaluation import measure
from nightshift.training.statistics.block_bootstrap import Days, Statistic, draw_days, statistic
from nightshift.training.statistics.confidence_intervals import (
    N_DRAWS,
    Estimate,
    difference,
    estimate,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.predictions import Predictions

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]
    Metrics = dict[str, float | None]
    Statistics = dict[str, Statistic]


@dataclass(frozen=True)
class Comparison:
    """Rows on which predictions are compared.

    Attributes:
        spec: The model.
        label: Shape (n,).
        dates: Partition of each row; shape (n,).
    """

    spec: ModelSpec
    label: Vector
    dates: npt.NDArray[np.datetime64]

    @classmethod
    def of(cls, spec: ModelSpec, rows: pa.Table) -> Comparison:
        """Return the comparison on labelled rows."""
        dates = rows.column("partition_date").to_numpy().astype("datetime64[D]")
        return cls(spec, numbers(rows, spec.label.column), dates)

    @cached_property
    def days(self) -> Days:
        """Return the days that are drawn."""
        return Days.of(self.dates)

    @cached_property
    def draws(self) -> Matrix:
        """Return how often each day is drawn, the same for all comparisons; shape (draws, days)."""
        return draw_days(self.days.n, N_DRAWS, self.spec.training.seed % 2**32)

    def values(self, predictions: Predictions, metrics: Sequence[str]) -> Metrics:
        """Measure predictions over all rows."""
        measured = measure(self.spec.task, self.label, predictions)
        return {name: measured[name] for name in metrics}

    def at(self, mask: npt.NDArray[np.bool_]) -> Comparison:
        """Return the comparison on some of the rows."""
        return Comparison(self.spec, self.label[mask], self.dates[mask])

    def statistics(self, predictions: Predictions, metrics: Sequence[str]) -> Statistics:
        """Reduce predictions to what can be drawn by day, once for all comparisons."""
        return {name: statistic(name, self.label, predictions, self.days) for name in metrics}

    def gains(self, first: Statistics, second: Statistics) -> dict[str, Estimate]:
        """Estimate by how much the first is better, paired by row, in the metric's unit."""
        return {name: self._gain(name, first[name], second[name]) for name in first}

    def _gain(self, metric: str, first: Statistic, second: Statistic) -> Estimate:
        # A gain is positive when it is better, also for errors.
        sign = 1.0 if METRICS[metric].better == "higher" else -1.0
        return estimate(difference(first, second, sign), self.draws, self.spec.promotion.confidence)
