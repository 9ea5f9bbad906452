"""Replay the monitor over partitions that a policy served, by the product's own code."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nightshift.backtest.nightly_models import without_slices
from nightshift.backtest.promotion_replay import version_of
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.models.signature import numbers
from nightshift.monitoring.champion import Champion
from nightshift.monitoring.context import DriftResult, MaturedResult, MonitoringContext
from nightshift.monitoring.drift import (
    SCORE,
    feature_drift,
    features_to_count,
    score_drift,
    score_to_count,
)
from nightshift.monitoring.maturity import LabelCount
from nightshift.monitoring.monitor import decide_retrain, make_verdict, measure
from nightshift.monitoring.outcomes import evaluated_partition, read_features
from nightshift.monitoring.performance import measure_performance
from nightshift.monitoring.trigger import PartitionStatus, RetrainHistory
from nightshift.quality.profiles import scan
from nightshift.quality.sketches.bin_counts import BinCounter

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.backtest.policies import PolicyRun
    from nightshift.monitoring.verdict import Verdict
    from nightshift.quality.sketches.bin_counts import BinnedColumn
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass(kw_only=True)
class ReplayedContext(MonitoringContext):
    """A partition whose champion, predictions and earlier verdicts are those of a policy.

    Everything else is read as the monitor reads it.

    Attributes:
        models: The models of the backtest.
        served: By partition, the model that served it.
        triggered: Partitions whose monitor requested a retrain.
        verdicts: By partition, in order.
    """

    models: NightlyModels
    served: Mapping[dt.date, dt.date]
    triggered: tuple[dt.date, ...]
    verdicts: Mapping[dt.date, Verdict]

    @cached_property
    def champion(self) -> Champion:
        """Return the model that served this partition."""
        trained_on = self.served[self.partition.day]
        # The day as a number stands for the version number of a registry.
        number = trained_on.toordinal()
        if number not in self.champions:
            version = version_of(self.models, trained_on)
            model = self.models.with_profile(trained_on)
            self.champions[number] = Champion(version, model, self.models.window(trained_on))
        return self.champions[number]

    def measure_drift(self) -> DriftResult:
        """Return the drift of all features, and of the score over all rows of the partition."""
        reference = self.drift_reference(self.champion)
        numeric, categorical = features_to_count(reference.profile)
        columns: dict[str, Any] = {
            column.name: numbers(self.features, column.name) for column in numeric
        }
        for column in categorical:
            columns[column.name] = self.features.column(column.name).cast("string")
        features = _count_bins(columns, BinCounter(numeric, categorical))
        score = self.champion.trained.predictions(self.features).score
        score_counter = BinCounter([score_to_count(reference.profile)], [])
        scores = _count_bins({SCORE: score}, score_counter)
        return DriftResult(
            feature_drift(features, reference), score_drift(scores[SCORE], reference)
        )

    @cached_property
    def features(self) -> pa.Table:
        """Return all published feature rows of the partition."""
        return read_features(self.settings, self.spec, self.partition, self.run.application_name)

    def measure_matured(self) -> MaturedResult:
        """Return the metrics of the predictions that mature now, and the version that made them."""
        evaluated = evaluated_partition(self.spec, self.partition).day
        if evaluated not in self.served:
            return MaturedResult([], None)
        trained_on = self.served[evaluated]
        rows = _outcomes(self.models, trained_on, evaluated)
        performance = measure_performance(without_slices(self.spec), rows)
        return MaturedResult(performance, trained_on.toordinal())

    def expected_metric(self, version: int | None) -> float | None:
        """Return the monitored metric on the hold-out of a version."""
        if version is None:
            return None
        metrics = self.models.of(dt.date.fromordinal(version)).model.metrics
        return metrics["challenger"].get(self.spec.monitoring.metric)

    @cached_property
    def labels(self) -> LabelCount:
        """Return all labels as known: the replay delivers each day's outcomes the same evening."""
        evaluated = evaluated_partition(self.spec, self.partition).day
        n_labels = self.models.rows_on(evaluated).num_rows if evaluated in self.served else 0
        return LabelCount(n_labels, n_labels, 0)

    def retrain_history(self) -> RetrainHistory:
        """Return the retrains that this policy's monitor has requested."""
        return RetrainHistory(other_days=self.triggered)

    @cached_property
    def earlier(self) -> list[PartitionStatus]:
        """Return the statuses of earlier partitions with the same champion."""
        champion = self.champion.version.version
        return [
            status_of(verdict)
            for day, verdict in self.verdicts.items()
            if verdict.model_version == champion and day < self.partition.day
        ]


@dataclass
class MonitorReplay:
    """The monitor of one policy.

    Attributes:
        settings: The backtest's own warehouse.
        conn: A connection to it.
        models: The models.
        verdicts: By partition, in order.
    """

    settings: Settings
    conn: Connection
    models: NightlyModels
    verdicts: dict[dt.date, Verdict] = field(default_factory=dict)
    _champions: dict[int, Champion] = field(default_factory=dict)

    def has_triggered(self, day: dt.date, run: PolicyRun) -> bool:
        """Return whether the monitor of a partition requests a retrain."""
        context = ReplayedContext(
            settings=self.settings,
            spec=self.models.spec,
            conn=self.conn,
            partition=Partition(day),
            run=RunContext(f"backtest/{day}"),
            champions=self._champions,
            models=self.models,
            served=run.served,
            triggered=tuple(run.triggered),
            verdicts=self.verdicts,
        )
        measurement = measure(context)
        decision = decide_retrain(context, measurement, context.retrain_history())
        verdict = make_verdict(context, measurement, decision)
        self.verdicts[day] = verdict
        return verdict.has_triggered


def status_of(verdict: Verdict) -> PartitionStatus:
    """Return the status that later partitions read of a verdict."""
    return PartitionStatus(
        verdict.partition_date,
        verdict.drift_status,
        verdict.score_drift_status,
        verdict.performance_status,
        verdict.severe_loss_status,
    )


def _outcomes(models: NightlyModels, trained_on: dt.date, day: dt.date) -> pa.Table:
    """Return labelled rows with their predictions, as ``read_outcomes`` does."""
    import numpy as np
    import pyarrow as pa

    rows, predictions = models.rows_on(day), models.predictions(trained_on, day)
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


def _count_bins(columns: Mapping[str, Any], counter: BinCounter) -> dict[str, BinnedColumn]:
    import pyarrow as pa

    return counter.columns(scan(pa.table(dict(columns)).to_batches(), counter))
