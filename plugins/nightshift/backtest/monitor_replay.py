"""The monitor on a replayed night: its own drift, loss, maturity, data quality and rule, over what one policy served."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
from nightshift.quality.bin_counts import BinCounter
from nightshift.quality.profiles import scan

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.backtest.nightly_models import Fleet
    from nightshift.backtest.policies import Course
    from nightshift.monitoring.verdict import Verdict
    from nightshift.quality.bin_counts import BinnedColumn
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass(kw_only=True)
class ReplayedNight(MonitoringContext):
    """A night whose champion, predictions and earlier verdicts are those of a policy; everything else is read as the monitor reads it."""

    fleet: Fleet
    served: Mapping[dt.date, dt.date]
    decided_days: tuple[dt.date, ...]
    verdicts: Mapping[dt.date, Verdict]

    @cached_property
    def champion(self) -> Champion:
        """Return the model that served this night."""
        trained_on = self.served[self.partition.day]
        if trained_on.toordinal() not in self.champions:
            version, rows = version_of(self.fleet, trained_on), self.fleet.window(trained_on)
            self.champions[version.version] = Champion(
                version, self.fleet.described(trained_on), rows
            )
        return self.champions[trained_on.toordinal()]

    def measure_drift(self) -> DriftResult:
        """Return the drift of all features, and of the score over all rows of the night."""
        reference = self.drift_reference(self.champion)
        numeric, categorical = features_to_count(reference.profile)
        columns: dict[str, Any] = {
            column.name: numbers(self.features, column.name) for column in numeric
        }
        columns |= {
            column.name: self.features.column(column.name).cast("string") for column in categorical
        }
        features = _counted(columns, BinCounter(numeric, categorical))
        score = self.champion.trained.predictions(self.features).score
        scores = _counted({SCORE: score}, BinCounter([score_to_count(reference.profile)], []))
        return DriftResult(
            feature_drift(features, reference), score_drift(scores[SCORE], reference)
        )

    @cached_property
    def features(self) -> pa.Table:
        """Return all published feature rows of the night."""
        return read_features(self.settings, self.spec, self.partition, self.run.application_name)

    def measure_matured(self) -> MaturedResult:
        """Return the metrics of the predictions that mature tonight, and the version that made them."""
        evaluated = evaluated_partition(self.spec, self.partition).day
        if evaluated not in self.served:
            return MaturedResult([], None)
        rows = _outcomes(self.fleet, self.served[evaluated], evaluated)
        bare = self.spec.model_copy(
            update={"promotion": self.spec.promotion.model_copy(update={"slices": ()})}
        )
        return MaturedResult(measure_performance(bare, rows), self.served[evaluated].toordinal())

    def expected_metric(self, version: int | None) -> float | None:
        """Return the watched metric on the hold-out of a version."""
        if version is None:
            return None
        metrics = self.fleet.of(dt.date.fromordinal(version)).model.metrics
        return metrics["challenger"].get(self.spec.monitoring.metric)

    @cached_property
    def labels(self) -> LabelCount:
        """Return that every label that will ever come has come: the replay delivers each day's outcomes the same evening."""
        evaluated = evaluated_partition(self.spec, self.partition).day
        n_labels = self.fleet.rows_on(evaluated).num_rows if evaluated in self.served else 0
        return LabelCount(n_labels, n_labels, 0)

    def retrain_history(self) -> RetrainHistory:
        """Return the orders that this policy's monitor has opened."""
        return RetrainHistory(other_days=self.decided_days)

    @cached_property
    def earlier(self) -> list[PartitionStatus]:
        """Return what earlier nights found about the same champion."""
        own = self.champion.version.version
        return [
            status_of(verdict)
            for day, verdict in self.verdicts.items()
            if verdict.model_version == own and day < self.partition.day
        ]


@dataclass
class Watch:
    """The monitor of one policy over the year.

    Attributes:
        settings: The backtest's own warehouse.
        conn: A connection to it.
        fleet: The models.
        verdicts: What each night found, in order.
    """

    settings: Settings
    conn: Connection
    fleet: Fleet
    verdicts: dict[dt.date, Verdict] = field(default_factory=dict)
    _champions: dict[int, Champion] = field(default_factory=dict)

    def has_triggered(self, night: dt.date, course: Course) -> bool:
        """Return whether the monitor of a night opens an order, as ``policies.Trigger`` asks."""
        replayed = ReplayedNight(
            settings=self.settings,
            spec=self.fleet.spec,
            conn=self.conn,
            partition=Partition(night),
            run=RunContext(f"backtest/{night}"),
            champions=self._champions,
            fleet=self.fleet,
            served=course.served,
            decided_days=tuple(course.decided),
            verdicts=self.verdicts,
        )
        measurement = measure(replayed)
        decision = decide_retrain(replayed, measurement, replayed.retrain_history())
        verdict = make_verdict(replayed, measurement, decision)
        self.verdicts[night] = verdict
        return verdict.has_triggered


def status_of(verdict: Verdict) -> PartitionStatus:
    """Return what a verdict says to the nights after it."""
    statuses = (
        verdict.drift_status,
        verdict.score_drift_status,
        verdict.performance_status,
        verdict.severe_loss_status,
    )
    return PartitionStatus(verdict.partition_date, *statuses)


def _outcomes(fleet: Fleet, trained_on: dt.date, night: dt.date) -> pa.Table:
    """Return labelled rows with their predictions, as ``monitoring.outcomes.read_outcomes`` does."""
    import numpy as np
    import pyarrow as pa

    rows, predictions = fleet.rows_on(night), fleet.predictions(trained_on, night)
    n = rows.num_rows
    probability = np.full(n, np.nan) if predictions.probability is None else predictions.probability
    columns = {
        "score": predictions.score,
        "probability": probability,
        "is_positive": (probability >= predictions.threshold).astype(np.float64),
        "model_version": np.full(n, trained_on.toordinal()),
        "label": rows.column(fleet.spec.label.column),
    }
    rule = fleet.spec.scoring.fallback.feature
    return pa.table({**columns, rule: rows.column(rule)})


def _counted(columns: Mapping[str, Any], counter: BinCounter) -> dict[str, BinnedColumn]:
    import pyarrow as pa

    return counter.columns(scan(pa.table(dict(columns)).to_batches(), counter))
