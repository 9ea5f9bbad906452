"""Compare predictions of the same rows: metrics, and gains with intervals drawn by day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import METRICS, Task
from nightshift.models.signature import numbers
from nightshift.models.unseen_nights import has_intervals
from nightshift.scoring.interval.interval_metrics import BAND_METRICS, measure_answers
from nightshift.training.evaluation import measure
from nightshift.training.statistics.block_bootstrap import Days, Statistic, draw_days, statistic
from nightshift.training.statistics.confidence_intervals import (
    N_DRAWS,
    BoundedEstimate,
    difference,
    estimate,
)
from nightshift.training.statistics.night_noise import NightNoise, night_noise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.predictions import Predictions

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]
    Metrics = dict[str, float | None]
    Statistics = dict[str, Statistic]

__all__ = ["Comparison", "NightNoise"]


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
        dates = rows.column("partition_date").to_numpy()
        label = numbers(rows, spec.label.column)
        return cls(spec, label, dates.astype("datetime64[D]"))

    @cached_property
    def days(self) -> Days:
        """Return the days that are drawn."""
        return Days.of(self.dates)

    @cached_property
    def draws(self) -> Matrix:
        """Return how often each day is drawn, the same for all comparisons; shape (draws, days)."""
        # NumPy's generator takes seeds of 32 bits.
        seed = self.spec.training.seed % 2**32
        return draw_days(self.days.n, N_DRAWS, seed)

    def values(self, predictions: Predictions, metrics: Sequence[str]) -> Metrics:
        """Measure predictions over all rows."""
        measured = measure(self.spec.task, self.label, predictions)
        return {name: measured[name] for name in metrics}

    def interval_values(self, predictions: Predictions) -> dict[str, float]:
        """Measure the intervals of all rows, or the bands night by night: then their mean."""
        import numpy as np

        answers = predictions.answers
        if answers is None or not has_intervals(self.spec.task):
            return {}
        if self.spec.task is not Task.BINARY:
            return measure_answers(self.spec, self.label, answers)
        by_night = []
        for day in np.unique(self.dates):
            is_night = self.dates == day
            measured = measure_answers(self.spec, self.label[is_night], answers[is_night])
            if measured:
                by_night.append(measured)
        if not by_night:
            return {}
        return {
            name: float(np.mean([values[name] for values in by_night])) for name in BAND_METRICS
        }

    def noise(self, predictions: Predictions) -> NightNoise | None:
        """Estimate what no forecast of the evening before could avoid in the error of the rows."""
        seed = self.spec.training.seed
        return night_noise(self.spec.task, self.label, predictions, self.days, seed)

    def by_month(self) -> Iterator[tuple[dt.date, Mask, Comparison]]:
        """Yield the first day of each predicted month, its rows, and the comparison on them."""
        import numpy as np

        # A partition predicts the day after it.
        predicted_days = self.dates + np.timedelta64(1, "D")
        months = predicted_days.astype("datetime64[M]")
        for month in np.unique(months):
            mask = months == month
            first_day = month.astype("datetime64[D]").item()
            yield first_day, mask, Comparison(self.spec, self.label[mask], self.dates[mask])

    def statistics(self, predictions: Predictions, metrics: Sequence[str]) -> Statistics:
        """Reduce predictions to what can be drawn by day, once for all comparisons."""
        return {name: statistic(name, self.label, predictions, self.days) for name in metrics}

    def gains(self, first: Statistics, second: Statistics) -> dict[str, BoundedEstimate]:
        """Estimate by how much the first is better, paired by row, in the metric's unit."""
        confidence = self.spec.promotion.confidence
        gains = {}
        for name in first:
            # A gain is positive when it is better, also for errors.
            sign = 1.0 if METRICS[name].better == "higher" else -1.0
            gain = difference(first[name], second[name], sign)
            gains[name] = estimate(gain, self.draws, confidence)
        return gains
