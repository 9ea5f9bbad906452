"""What each policy achieved and what it cost: metrics by month and over all nights, gains with intervals, trainings."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.backtest.comparison import Comparison, joined
from nightshift.backtest.policies import Course, Policy, Rhythm
from nightshift.models.predictions import Predictions
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    from nightshift.backtest.nightly_models import Fleet
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.training.statistics.block_bootstrap import Statistic
    from nightshift.training.statistics.confidence_intervals import Estimate


@dataclass(frozen=True)
class PolicyResult:
    """One policy over all nights.

    Attributes:
        course: What it did.
        processor_seconds: Of its trainings, the first model left out.
        mean_age_days: Mean age of the model that scored, in days; 1 is the evening before.
        values: Metrics over all rows.
        by_month: The same by first day of the month of the predicted days.
        gains: Gain on ``never``, by estimated metric, on the same rows; positive is better. Empty
            for ``never`` itself.
    """

    course: Course
    processor_seconds: float
    mean_age_days: float
    values: dict[str, float | None]
    by_month: dict[dt.date, dict[str, float | None]]
    gains: dict[str, Estimate]

    @property
    def policy(self) -> Policy:
        """Return the policy."""
        return self.course.policy


def estimated_metrics(spec: ModelSpec) -> tuple[str, ...]:
    """Return the metrics that get an interval: what promotion and monitoring look at."""
    return tuple(dict.fromkeys((spec.promotion.metric, spec.monitoring.metric)))


class Scoreboard:
    """Results of policies on the same nights, against ``never``."""

    def __init__(self, fleet: Fleet, nights: PartitionRange, metrics: Sequence[str]) -> None:
        import numpy as np

        self._fleet = fleet
        self._metrics = metrics
        self._comparison = Comparison.of(fleet.spec, rows_of(fleet.rows, nights))
        predicted_day = self._comparison.dates + np.timedelta64(1, "D")
        self._months = predicted_day.astype("datetime64[M]")
        self._never: dict[str, Statistic] = {}

    @property
    def n_rows(self) -> int:
        """Return the number of labelled rows."""
        return int(self._comparison.label.size)

    def result(self, course: Course) -> PolicyResult:
        """Measure a course; that of ``never`` comes first."""
        predictions = joined(
            [self._fleet.predictions(trained, night) for night, trained in course.served.items()]
        )
        statistics = self._comparison.statistics(predictions, estimated_metrics(self._fleet.spec))
        if course.policy.rhythm is Rhythm.NEVER:
            self._never = statistics
        ages = [(night - trained).days for night, trained in course.served.items()]
        return PolicyResult(
            course,
            sum(self._fleet.of(night).processor_seconds for night in course.trained),
            sum(ages) / len(ages),
            self._comparison.values(predictions, self._metrics),
            self._by_month(predictions),
            self._comparison.gains(statistics, self._never)
            if self._never is not statistics
            else {},
        )

    def _by_month(self, predictions: Predictions) -> dict[dt.date, dict[str, float | None]]:
        import numpy as np

        return {
            month.astype("datetime64[D]").item(): self._comparison.values(
                predictions, self._metrics, self._months == month
            )
            for month in np.unique(self._months)
        }
