"""Measure policies: metrics over all partitions and by month, gains with intervals, and cost."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.backtest.comparison import Comparison
from nightshift.backtest.policies import Policy, PolicyRun, Schedule
from nightshift.models.predictions import joined
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    from nightshift.backtest.comparison import Metrics
    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.models.predictions import Predictions
    from nightshift.training.statistics.block_bootstrap import Statistic
    from nightshift.training.statistics.confidence_intervals import BoundedEstimate


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
    values: Metrics
    by_month: dict[dt.date, Metrics]
    gains: dict[str, BoundedEstimate]

    @property
    def policy(self) -> Policy:
        """Return the policy."""
        return self.run.policy


def estimated_metrics(spec: ModelSpec) -> tuple[str, ...]:
    """Return the metrics that get an interval: those of promotion and monitoring."""
    metrics = (spec.promotion.metric, spec.monitoring.metric)
    # They may be the same one.
    return tuple(dict.fromkeys(metrics))


@dataclass
class PolicyScoring:
    """Measures policies on the same partitions, against ``never``.

    Attributes:
        models: The models of the partitions.
        partitions: The scored ones.
        metrics: What is measured.
    """

    models: NightlyModels
    partitions: PartitionRange
    metrics: Sequence[str]
    _never: dict[str, Statistic] = field(default_factory=dict)

    @cached_property
    def comparison(self) -> Comparison:
        """Return the labelled rows.

        Gains are paired by row, so all policies are measured on the same ones.
        """
        rows = rows_of(self.models.rows, self.partitions)
        return Comparison.of(self.models.spec, rows)

    def result(self, run: PolicyRun) -> PolicyResult:
        """Measure the run of a policy.

        Args:
            run: Of all partitions; that of ``never`` comes first.
        """
        parts, ages = [], []
        for day, trained_on in run.served.items():
            parts.append(self.models.predictions(trained_on, day))
            ages.append((day - trained_on).days)
        predictions = joined(parts)
        # The first model is the same for all policies, so it is no cost of any.
        seconds = [self.models.of(day).processor_seconds for day in run.trained]
        # Each partition counts once, however many rows it has.
        mean_age_days = sum(ages) / len(ages)
        return PolicyResult(
            run=run,
            processor_seconds=sum(seconds),
            mean_age_days=mean_age_days,
            values=self.comparison.values(predictions, self.metrics),
            by_month=self._by_month(predictions),
            gains=self._gains(run, predictions),
        )

    def _by_month(self, predictions: Predictions) -> dict[dt.date, Metrics]:
        """Measure each month; few rows make a month's numbers uncertain."""
        values = {}
        for first_day, is_month, comparison in self.comparison.by_month():
            of_month = predictions.at(is_month)
            values[first_day] = comparison.values(of_month, self.metrics)
        return values

    def _gains(self, run: PolicyRun, predictions: Predictions) -> dict[str, BoundedEstimate]:
        """Estimate the gains on ``never``; empty for itself."""
        estimated = estimated_metrics(self.models.spec)
        statistics = self.comparison.statistics(predictions, estimated)
        # Every gain is on never retraining, so its statistics are kept for the other policies.
        if run.policy.schedule is Schedule.NEVER:
            self._never = statistics
            return {}
        return self.comparison.gains(statistics, self._never)
