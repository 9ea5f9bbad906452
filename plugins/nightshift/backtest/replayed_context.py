"""The inputs of a monitored partition, as a policy of a backtest left them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.backtest.nightly_models import without_slices
from nightshift.backtest.replayed_columns import ReplayedColumns
from nightshift.contracts.partitions import Partition
from nightshift.monitoring.champion import Champion
from nightshift.monitoring.context import MaturedResult, MonitoringContext
from nightshift.monitoring.outcomes import LabelCount
from nightshift.monitoring.performance import measure_performance
from nightshift.monitoring.trigger import PartitionStatus, RetrainHistory
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.monitoring.columns.faults import PublishedFault
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
            version = self.models.version_of(trained_on)
            window = mature_window(self.spec, Partition(trained_on))
            rows = self.models.window(trained_on)
            self.champions[number] = Champion(
                version, self.models.of(trained_on).model, window, lambda: rows
            )
        return self.champions[number]

    @cached_property
    def columns(self) -> ReplayedColumns:
        """Return the columns of the published features, and the scores of a policy's model."""
        return ReplayedColumns(
            settings=self.settings,
            conn=self.conn,
            spec=self.spec,
            partition=self.partition,
            run=self.run,
            scans=self.scans,
            champion=self.champion,
            is_scored=True,
            found_faults=self.faults,
        )

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
