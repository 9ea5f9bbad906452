"""Measure policies: metrics over all partitions and by month, gains with intervals, and cost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.backtest.comparison import Comparison
from nightshift.backtest.policies import Policy, PolicyRun, Schedule
from nightshift.models.predictions import Predictions, joined
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.training.statistics.block_bootstrap import Statistic
    from nightshift.training.statistics.confidence_intervals import Estimate


@dataclass(frozen=True)
class PolicyResult:
    """One policy over all partitions.

    Attributes:
        run: What the policy did.
        processor_seconds: Of its trainings, without the first model.
        mean_age_days: Mean age of the model that scored, in days; 1 is the day before.
        values: Metrics over all rows.
        by_month: The same by first day of the month of the predicted days.
        gains: Gain on ``never``, by estimated metric, on the same rows; positive is better. Empty
            for ``never`` itself.
    """

    run: PolicyRun
    processor_seconds: float
    mean_age_days: float
    values: dict[str, float | None]
    by_month: dict[dt.date, dict[str, float | None]]
    gains: dict[str, Estimate]

    @property
    def policy(self) -> Policy:
        """Return the policy."""
        return self.run.policy


def estimated_metrics(spec: ModelSpec) -> tuple[str, ...]:
    """Return the metrics that get an interval: those of promotion and monitoring."""
    return tuple(dict.fromkeys((spec.promotion.metric, spec.monitoring.metric)))


class PolicyScoring:
    """Measures policies on the same partitions, against ``never``.

    Args:
        models: The models of the partitions.
        partitions: The scored ones.
        metrics: What is measured.
    """

    def __init__(
        self, models: NightlyModels, partitions: PartitionRange, metrics: Sequence[str]
    ) -> None:
        import numpy as np

        self._models = models
        self._metrics = metrics
        self._comparison = Comparison.of(models.spec, rows_of(models.rows, partitions))
        # A partition predicts the day after it.
        predicted_day = self._comparison.dates + np.timedelta64(1, "D")
        self._months = predicted_day.astype("datetime64[M]")
        self._never: dict[str, Statistic] = {}

    @property
    def n_rows(self) -> int:
        """Return the number of labelled rows."""
        return int(self._comparison.label.size)

    def result(self, run: PolicyRun) -> PolicyResult:
        """Measure the run of a policy; that of ``never`` comes first."""
        comparison, models = self._comparison, self._models
        predictions = joined([models.predictions(by, day) for day, by in run.served.items()])
        statistics = comparison.statistics(predictions, estimated_metrics(models.spec))
        # Every gain is on never retraining, so its statistics are kept for the other policies.
        if run.policy.schedule is Schedule.NEVER:
            self._never, gains = statistics, {}
        else:
            gains = comparison.gains(statistics, self._never)
        ages = [(day - by).days for day, by in run.served.items()]
        return PolicyResult(
            run=run,
            processor_seconds=sum(models.of(day).processor_seconds for day in run.trained),
            mean_age_days=sum(ages) / len(ages),
            values=comparison.values(predictions, self._metrics),
            by_month=self._by_month(predictions),
            gains=gains,
        )

    def _by_month(self, predictions: Predictions) -> dict[dt.date, dict[str, float | None]]:
        import numpy as np

        values = {}
        for month in np.unique(self._months):
            is_month = self._months == month
            first_day = month.astype("datetime64[D]").item()
            comparison = self._comparison.at(is_month)
            values[first_day] = comparison.values(predictions.at(is_month), self._metrics)
        return values
