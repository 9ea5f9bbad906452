"""The inputs of a monitored partition, as a policy of a backtest left them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.backtest.nightly_models import without_slices
from nightshift.backtest.replayed_version import version_of
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.champion import Champion
from nightshift.monitoring.columns.column_drift import SCORE
from nightshift.monitoring.columns.fault_history import FaultHistory
from nightshift.monitoring.columns.reference import ColumnReference, score_sketches
from nightshift.monitoring.context import MaturedResult, MonitoringContext
from nightshift.monitoring.outcomes import LabelCount, read_features
from nightshift.monitoring.performance import measure_performance
from nightshift.monitoring.trigger import PartitionStatus, RetrainHistory
from nightshift.quality.column_summary import ColumnSummary, summarize
from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.training.training_set import mature_window
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.monitoring.columns.fault_history import PublishedFault
    from nightshift.monitoring.estimation import Estimate
    from nightshift.monitoring.verdict import Verdict


@dataclass(kw_only=True)
class ReplayedContext(MonitoringContext):
    """A partition whose champion, predictions and earlier verdicts are those of a policy.

    Everything else is read as the monitor reads it.

    Attributes:
        models: The models of the backtest.
        served: By partition, the model that served it.
        triggered: Partitions whose monitor requested a retrain.
        verdicts: By partition, in order.
        faults: By partition, the broken columns that its monitor found.
    """

    models: NightlyModels
    served: Mapping[dt.date, dt.date]
    triggered: tuple[dt.date, ...]
    verdicts: Mapping[dt.date, Verdict]
    faults: Mapping[dt.date, Sequence[PublishedFault]]

    @cached_property
    def champion(self) -> Champion:
        """Return the model that served this partition."""
        trained_on = self.served[self.partition.day]
        # The day as a number stands for the version number of a registry.
        number = trained_on.toordinal()
        if number not in self.champions:
            version = version_of(self.models, trained_on)
            window = mature_window(self.spec, Partition(trained_on))
            rows = self.models.window(trained_on)
            self.champions[number] = Champion(
                version, self.models.of(trained_on).model, window, lambda: rows
            )
        return self.champions[number]

    @cached_property
    def reference(self) -> ColumnReference:
        """Return what is usual of the columns of the model that served this partition."""
        champion = self.champion
        if champion.reference is None:
            # The features are published in the backtest's warehouse; the scores are not.
            days = champion.window
            loads = published_loads(self.conn, self.spec.features_dataset, days)
            sketches = score_sketches(
                champion.rows, champion.trained.predictions(champion.rows).score
            )
            scores = {day: {SCORE: summarize(sketch)} for day, sketch in sketches.items()}
            champion.reference = ColumnReference.of(
                self.reader.summaries(loads),
                self.reader.orders(loads),
                scores,
                self.spec.monitoring.drift_limit,
            )
        return champion.reference

    @cached_property
    def fault_history(self) -> FaultHistory:
        """Return the faults that this policy's monitor found before this partition."""
        return FaultHistory.of(self.partition, self.faults)

    @cached_property
    def earlier_faults(self) -> list[str]:
        """Return the broken columns of the partitions since the evaluated one, for people."""
        days = PartitionRange(self.evaluated, self.partition.shift(-1)).days
        return [f"{day}: {fault}" for day in days for fault in self.faults.get(day, ())]

    def score_summary(self) -> ColumnSummary:
        """Return the summary of the scores of all rows: in a replay nothing is published."""
        sketch = NumberSketch()
        sketch.add(self.champion.trained.predictions(self.features).score)
        return summarize(sketch)

    def estimate(self) -> list[Estimate]:
        """Return nothing: estimates request no retrain."""
        return []

    @cached_property
    def features(self) -> pa.Table:
        """Return all published feature rows of the partition."""
        return read_features(self.settings, self.spec, self.partition, self.run.application_name)

    def measure_matured(self) -> MaturedResult:
        """Return the metrics of the predictions that mature now, and the version that made them."""
        evaluated = self.evaluated.day
        if evaluated not in self.served:
            return MaturedResult([], None)
        trained_on = self.served[evaluated]
        rows = _outcomes(self.models, trained_on, evaluated)
        performance = measure_performance(without_slices(self.spec), rows)
        return MaturedResult(performance, trained_on.toordinal())

    def expected_metric(self, version: int | None, source: str = "challenger") -> float | None:
        """Return the monitored metric on the hold-out of a version, or of the rule there."""
        if version is None:
            return None
        model = self.models.of(dt.date.fromordinal(version)).model
        return model.metrics[source].get(self.spec.monitoring.metric)

    @cached_property
    def labels(self) -> LabelCount:
        """Return all labels as known: the replay delivers each day's outcomes the same evening."""
        if self.evaluated.day not in self.served:
            return LabelCount()
        n_labels = self.models.rows_on(self.evaluated.day).num_rows
        return LabelCount(n_labels, n_labels)

    def retrain_history(self) -> RetrainHistory:
        """Return the retrains that this policy's monitor has requested."""
        return RetrainHistory(other_days=self.triggered)

    @cached_property
    def earlier(self) -> list[PartitionStatus]:
        """Return the statuses of earlier partitions with the same champion."""
        champion = self.champion.version.version
        return [
            verdict.status
            for day, verdict in self.verdicts.items()
            if verdict.model_version == champion and day < self.partition.day
        ]


def _outcomes(models: NightlyModels, trained_on: dt.date, day: dt.date) -> pa.Table:
    """Return labelled rows with their predictions, as ``read_outcomes`` does."""
    import numpy as np
    import pyarrow as pa

    rows = models.rows_on(day)
    predictions = models.predictions(trained_on, day)
    probability = predictions.probability
    if probability is None:
        probability = np.full(rows.num_rows, np.nan)
    rule = models.spec.scoring.fallback.feature
    return pa.table(
        {
            "score": predictions.score,
            "probability": probability,
            "is_positive": (probability >= predictions.threshold).astype(np.float64),
            "model_version": np.full(rows.num_rows, trained_on.toordinal()),
            "label": rows.column(models.spec.label.column),
            rule: rows.column(rule),
        }
    )
