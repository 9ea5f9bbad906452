"""Level and interval of each replayed night: what scoring calls, on the rows of a backtest."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.partitions import Partition
from nightshift.models.signature import numbers
from nightshift.scoring.interval.estimate import IntervalEstimate
from nightshift.scoring.interval.evidence import find_interval, interval_nights
from nightshift.scoring.level.night_level import (
    NO_LEVEL,
    MatureNight,
    NightLevel,
    estimate_level,
    level_nights,
    switched_off,
)
from nightshift.training.splits import rows_between

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel


@dataclass
class ReplayedLevels:
    """The levels and intervals of one model's nights.

    Attributes:
        spec: The model.
        rows: Labelled rows, ordered by ``partition_date``, that reach back over the fit.
        model: What scores.
        fit_end: The last partition that a fit of it has seen.
    """

    spec: ModelSpec
    rows: pa.Table
    model: TrainedModel
    fit_end: dt.date
    _nights: dict[dt.date, MatureNight | None] = field(default_factory=dict)

    def of(self, day: dt.date) -> NightLevel:
        """Return the level with which the model scores a partition."""
        if switched_off(self.spec):
            return NO_LEVEL
        # The replay delivers each day's outcomes the same evening: a mature night has all labels.
        window = level_nights(self.spec, Partition(day), self.fit_end)
        return estimate_level(self.spec, self.model, self._mature(window))

    def interval(self, day: dt.date) -> IntervalEstimate:
        """Return the interval of the scores of a partition."""
        window = interval_nights(self.spec, Partition(day), self.fit_end)
        return find_interval(self.spec, self.model, self.fit_end, self._mature(window))

    def with_intervals(self, rows: pa.Table) -> Predictions:
        """Return the predictions of rows of any partitions, with the interval of each.

        Args:
            rows: With their ``partition_date``.
        """
        predicted = self.predictions(rows)
        days = rows.column("partition_date").to_numpy().astype("datetime64[D]")
        answers = np.full((rows.num_rows, 3), np.nan)
        for day in np.unique(days):
            interval = self.interval(day.item()).interval
            is_night = days == day
            if interval is not None:
                answers[is_night] = interval.answers(predicted.at(is_night))
        return replace(predicted, answers=answers)

    def _mature(self, window: PartitionRange | None) -> list[MatureNight]:
        scored = [self._night(day) for day in window.days] if window else []
        # Nothing was published on a day without rows.
        return [entry for entry in scored if entry is not None]

    def predictions(self, rows: pa.Table) -> Predictions:
        """Return the predictions of rows of any partitions, each moved by the level of its night.

        Args:
            rows: With their ``partition_date``.
        """
        days = rows.column("partition_date").to_numpy().astype("datetime64[D]")
        shift = np.zeros(rows.num_rows)
        for day in np.unique(days):
            shift[days == day] = self.of(day.item()).shift
        return self.model.predictions(rows, shift)

    def _night(self, day: dt.date) -> MatureNight | None:
        """Return a night with the model's raw scores; None without rows. Each is scored once."""
        if day not in self._nights:
            rows = rows_between(self.rows, day, day)
            scored = None
            if rows.num_rows:
                label = numbers(rows, self.spec.label.column)
                scored = MatureNight(day, label, self.model.raw(rows))
            self._nights[day] = scored
        return self._nights[day]
