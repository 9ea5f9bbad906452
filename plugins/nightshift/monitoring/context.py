"""The inputs of one monitored partition of one model; each is read at most once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.partitions import PartitionRange
from nightshift.monitoring import outcomes
from nightshift.monitoring.champion import Champion
from nightshift.monitoring.data_quality import data_quality_problems
from nightshift.monitoring.drift import (
    SCORE,
    Drift,
    DriftReference,
    feature_drift,
    features_to_count,
    score_drift,
    score_to_count,
)
from nightshift.monitoring.performance import Performance, measure_performance
from nightshift.monitoring.trigger import PartitionStatus, RetrainHistory, loss_lag_days
from nightshift.monitoring.verdict import earlier_statuses
from nightshift.quality.profiles import LoadTable, scan_load
from nightshift.quality.sketches.bin_counts import BinCounter
from nightshift.registry.champions import champion_for
from nightshift.registry.model_versions import find_version
from nightshift.scoring.prediction_tables import predictions_target
from nightshift.training.feature_query import features_target
from nightshift.warehouse.control_tables.retrain_requests import requested_days
from nightshift.warehouse.damage import published_records, refuse_damaged

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.monitoring.maturity import LabelCount
    from nightshift.quality.sketches.bin_counts import BinnedColumn
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


class DriftResult(NamedTuple):
    """The drift of the features and the score; the note tells why some could not be compared."""

    features: list[Drift]
    score: Drift | None
    note: str | None = None


class MaturedResult(NamedTuple):
    """Metrics of the matured predictions, and the version that made them; or a note."""

    performance: list[Performance]
    version: int | None
    note: str | None = None


@dataclass
class MonitoringContext:
    """One partition of one model while it is monitored."""

    settings: Settings
    spec: ModelSpec
    conn: Connection
    partition: Partition
    run: RunContext
    champions: dict[int, Champion]
    profiles: dict[LoadTable, dict[str, Sketch]] = field(default_factory=dict)

    @cached_property
    def champion(self) -> Champion | None:
        """Return the version that scored this partition, or else the one that serves it."""
        # The version that scored is measured, even if another one serves by now.
        scored_by = self._published_versions(self.partition)
        serving = (
            find_version(self.conn, self.spec.name, scored_by[0])
            if scored_by
            else champion_for(self.conn, self.spec.name, self.partition)
        )
        if serving is None:
            return None
        # A champion serves many partitions of a range: its files are read once.
        if serving.version not in self.champions:
            self.champions[serving.version] = Champion.load(self.settings, self.conn, serving)
        return self.champions[serving.version]

    @property
    def champion_version(self) -> int | None:
        """Return the number of the champion's version; None without a champion."""
        return self.champion.version.version if self.champion else None

    @property
    def evaluated(self) -> Partition:
        """Return the partition whose predictions mature now."""
        return outcomes.evaluated_partition(self.spec, self.partition)

    @cached_property
    def as_of(self) -> dt.datetime:
        """Return the knowledge cut-off, UTC, included."""
        return outcomes.knowledge_cutoff(self.conn, self.spec, self.partition)

    def drift_reference(self, champion: Champion) -> DriftReference:
        """Return the reference that this partition is compared with."""
        profile = champion.trained.reference
        return DriftReference(profile, champion.noise, self.spec.monitoring)

    def measure_drift(self) -> DriftResult:
        """Measure the drift of all features, and of the champion's scores if they are published."""
        if self.champion is None:
            return DriftResult([], None, "there is no champion yet")
        reference = self.drift_reference(self.champion)
        feature_counter = BinCounter(*features_to_count(reference.profile))
        features = self._counted(self.spec.features_dataset, feature_counter)
        if not features:
            return DriftResult([], None, f"the night has no {self.spec.entity.name}")
        drifts = feature_drift(features, reference)
        if not self._published_versions(self.partition):
            note = "no scores of the champion are published for this night"
            return DriftResult(drifts, None, note)
        score_counter = BinCounter([score_to_count(reference.profile)], [])
        scores = self._counted(self.spec.predictions_dataset, score_counter)
        return DriftResult(drifts, score_drift(scores[SCORE], reference))

    def _counted(self, dataset: str, counter: BinCounter) -> dict[str, BinnedColumn]:
        """Count the bins of the published load in one scan, which also gives its profile."""
        load = LoadTable.published(self.conn, dataset, self.partition.day)
        scanned = scan_load(self.settings, self.conn, load, self.run, counter)
        # The profile for people comes from the same scan, so the rows are read once.
        self.profiles[load] = scanned
        return counter.columns(scanned) if scanned else {}

    def measure_matured(self) -> MaturedResult:
        """Measure the predictions that mature now."""
        rows = outcomes.read_outcomes(
            self.settings, self.conn, self.spec, self.partition, self.as_of
        )
        if rows is None:
            return MaturedResult([], None, f"no matured predictions of {self.evaluated}")
        versions = self._published_versions(self.evaluated)
        performance = measure_performance(self.spec, rows)
        return MaturedResult(performance, versions[0] if versions else None)

    def expected_metric(self, version: int | None) -> float | None:
        """Return the watched metric of a version on its hold-out."""
        if version is None:
            return None
        metrics = find_version(self.conn, self.spec.name, version).metrics.get("challenger", {})
        return metrics.get(self.spec.monitoring.metric)

    @cached_property
    def labels(self) -> LabelCount:
        """Return how many labels of the evaluated partition are known."""
        return outcomes.count_labels(self.conn, self.spec, self.partition, self.as_of)

    @cached_property
    def data_quality_problems(self) -> list[str]:
        """Return the data quality problems from the evaluated partition to this one."""
        partitions = PartitionRange(self.evaluated, self.partition)
        return data_quality_problems(self.conn, self.spec, partitions, self.settings.datasets_dir)

    def retrain_history(self) -> RetrainHistory:
        """Return the model's retrain requests near this partition; read under the model's lock."""
        limits = self.spec.monitoring
        n_days = max(limits.cooldown_days, limits.retrain_budget.days)
        days = requested_days(self.conn, self.spec.name, self.partition, n_days)
        # The own request is no obstacle: a rerun must decide as the first run did.
        own = self.partition.day
        return RetrainHistory(own in days, [day for day in days if day != own])

    @cached_property
    def earlier(self) -> list[PartitionStatus]:
        """Return the statuses of earlier partitions in the window, of the same champion."""
        return earlier_statuses(self.conn, self.spec, self.partition, self.champion_version)

    def inputs(self) -> dict[str, str]:
        """Return digests of everything that the verdict depends on, except retrain requests.

        Raises:
            DamagedInputError: Published features or predictions are not what was published.
        """
        partitions = PartitionRange(self.evaluated, self.partition)
        # A verdict about damaged rows would be recorded as if it were about the published ones.
        for target in (features_target(self.spec), predictions_target(self.spec)):
            records = published_records(self.conn, target.dataset, partitions.days)
            refuse_damaged(self.conn, target, records)
        # Manifests of earlier releases hold this text with the old name of the class and the old
        # keys. They stay, so that a rerun after an upgrade has equal inputs.
        earlier = str(self.earlier).replace("PartitionStatus(", "NightStatus(")
        return {
            **self._published_contents(partitions),
            "earlier": earlier,
            "red": str(self.data_quality_problems),
            "spec": self.spec.digest,
            "champion": self.champion.version.digest if self.champion else "none",
            "as_of": self.as_of.isoformat(),
        }

    def _published_contents(self, partitions: PartitionRange) -> dict[str, str]:
        labels = f"marts/{self.spec.label.relation}"
        datasets = [self.spec.features_dataset, self.spec.predictions_dataset, labels]
        rows = self.conn.execute(
            """
            select p.dataset, p.partition_date, l.content_hash
            from ops.published p join ops.loads l using (dataset, partition_date, load_id)
            where p.dataset = any(%s) and p.partition_date between %s and %s
            order by p.dataset, p.partition_date
            """,
            [datasets, partitions.first.day, partitions.last.day],
        )
        return {f"{dataset} {day}": content_hash for dataset, day, content_hash in rows}

    def reads(self) -> dict[str, int]:
        """Return the datasets that the verdict reads, with the days before the partition."""
        datasets = (self.spec.features_dataset, self.spec.predictions_dataset)
        return dict.fromkeys(datasets, loss_lag_days(self.spec))

    def _published_versions(self, partition: Partition) -> list[int]:
        """Return the versions whose predictions are published, newest first; none for the rule."""
        from psycopg import sql

        if not outcomes.has_predictions(self.conn, self.spec):
            return []
        query = sql.SQL(
            "select distinct model_version from {}"
            " where model_version is not null order by model_version desc"
        ).format(outcomes.predictions_query(self.spec, partition))
        return [version for (version,) in self.conn.execute(query)]
