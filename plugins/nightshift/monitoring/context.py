"""One night of one model: what the monitor looks at, each thing read once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import PartitionRange
from nightshift.lake.object_store import ObjectStore
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
from nightshift.monitoring.drift_baseline import training_noise
from nightshift.monitoring.outcomes import (
    count_labels,
    evaluated_partition,
    knowledge_cutoff,
    published_predictions,
    read_outcomes,
)
from nightshift.monitoring.performance import Performance, measure_performance
from nightshift.monitoring.trigger import PartitionStatus, RetrainHistory
from nightshift.monitoring.verdict import earlier_statuses
from nightshift.quality.bin_counts import BinCounter
from nightshift.quality.profiles import LoadTable, scan_load
from nightshift.registry.model_versions import find_version, load_model
from nightshift.registry.promotion import champion_for
from nightshift.scoring.batch_scorer import predictions_target
from nightshift.training.feature_query import features_target
from nightshift.training.training_set import find_training_set, read_rows
from nightshift.warehouse.damage import published_records, refuse_damaged
from nightshift.warehouse.retrain_requests import decided_days

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.models.trained_model import TrainedModel
    from nightshift.monitoring.maturity import LabelCount
    from nightshift.quality.bin_counts import BinnedColumn
    from nightshift.quality.sketch import Sketch
    from nightshift.registry.model_versions import ModelVersion
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass
class Champion:
    """The version that is measured, with what it was trained on; read once per run."""

    version: ModelVersion
    trained: TrainedModel
    rows: pa.Table

    @cached_property
    def noise(self) -> dict[str, float]:
        """Return what the training set's own nights exceed rarely, by column."""
        return training_noise(self.trained, self.rows)

    @property
    def n_unseen(self) -> int:
        """Return the number of last rows whose scores are the reference."""
        return int(self.trained.reference[SCORE]["n"])


@dataclass
class MonitoringContext:
    """One night of one model while it is measured."""

    settings: Settings
    spec: ModelSpec
    conn: Connection
    partition: Partition
    run: RunContext
    champions: dict[int, Champion]
    remarks: list[str] = field(default_factory=list)
    profiles: dict[LoadTable, dict[str, Sketch]] = field(default_factory=dict)

    @cached_property
    def champion(self) -> Champion | None:
        """Return the version that scored this night, or else the one that serves it."""
        scored = self._versions(self.partition)
        serving = (
            find_version(self.conn, self.spec.name, scored[0])
            if scored
            else champion_for(self.conn, self.spec.name, self.partition)
        )
        if serving is None:
            self.remarks.append("there is no champion yet")
            return None
        if serving.version not in self.champions:
            store = ObjectStore.open(self.settings)
            rows = read_rows(store, find_training_set(self.conn, serving.training_set))
            self.champions[serving.version] = Champion(serving, load_model(store, serving), rows)
        return self.champions[serving.version]

    @cached_property
    def as_of(self) -> dt.datetime:
        """Return what this night may know, UTC, included."""
        return knowledge_cutoff(self.conn, self.spec, self.partition)

    def yardstick(self, champion: Champion) -> DriftReference:
        """Return what this night is compared with."""
        limits = self.spec.monitoring
        return DriftReference(
            champion.trained.reference,
            champion.noise,
            limits.psi_threshold,
            limits.score_psi_threshold,
            limits.minimum_effect,
        )

    def drifts(self) -> list[Drift]:
        """Return the drift of all features, and of the score if the champion's predictions are published; nothing of an empty night."""
        if self.champion is None:
            return []
        yardstick = self.yardstick(self.champion)
        features = self._counted(
            self.spec.features_dataset, BinCounter(*features_to_count(yardstick.reference))
        )
        if not features:
            self.remarks.append(f"the night has no {self.spec.entity.name}")
            return []
        found = feature_drift(features, yardstick)
        if self._versions(self.partition):
            scores = self._counted(
                self.spec.predictions_dataset, BinCounter([score_to_count(yardstick.reference)], [])
            )
            return [*found, score_drift(scores[SCORE], yardstick)]
        self.remarks.append("no scores of the champion are published for this night")
        return found

    def _counted(self, dataset: str, counter: BinCounter) -> dict[str, BinnedColumn]:
        """Count what is published of the night, and remember the profile that the same scan gives; nothing without rows."""
        load = LoadTable.published(self.conn, dataset, self.partition.day)
        scanned = scan_load(self.settings, self.conn, load, self.run, counter)
        self.profiles[load] = scanned
        return counter.columns(scanned) if scanned else {}

    def performance(self) -> tuple[list[Performance], int | None]:
        """Return the metrics of the predictions that mature tonight, and the version that made them."""
        evaluated = evaluated_partition(self.spec, self.partition)
        rows = read_outcomes(self.settings, self.conn, self.spec, self.partition, self.as_of)
        if rows is None:
            self.remarks.append(f"no matured predictions of {evaluated}")
            return [], None
        versions = self._versions(evaluated)
        return measure_performance(self.spec, rows), versions[0] if versions else None

    def expected_metric(self, version: int | None) -> float | None:
        """Return the watched metric on the hold-out of a version."""
        if version is None:
            return None
        return (
            find_version(self.conn, self.spec.name, version)
            .metrics.get("challenger", {})
            .get(self.spec.monitoring.metric)
        )

    @cached_property
    def labels(self) -> LabelCount:
        """Return how far the labels of the evaluated night are."""
        return count_labels(self.conn, self.spec, self.partition, self.as_of)

    @cached_property
    def red(self) -> list[str]:
        """Return why the data of the night, and of what its loss stands on, cannot be trusted."""
        days = PartitionRange(evaluated_partition(self.spec, self.partition), self.partition)
        return data_quality_problems(self.conn, self.spec, days, self.settings.datasets_dir)

    def decided(self) -> RetrainHistory:
        """Return the model's orders near enough to matter; read under its lock."""
        limits = self.spec.monitoring
        near = decided_days(
            self.conn,
            self.spec.name,
            self.partition,
            max(limits.cooldown_days, limits.retrain_budget.days),
        )
        return RetrainHistory(
            own=self.partition.day in near,
            others=[day for day in near if day != self.partition.day],
        )

    @cached_property
    def earlier(self) -> list[PartitionStatus]:
        """Return what the nights of the window before this one found about the same champion."""
        return earlier_statuses(
            self.conn,
            self.spec,
            self.partition,
            self.champion.version.version if self.champion else None,
        )

    def inputs(self) -> dict[str, str]:
        """Return digests of everything that the verdict depends on, the orders apart.

        Raises:
            DamagedInputError: Published features or predictions are not what was published.
        """
        evaluated = evaluated_partition(self.spec, self.partition)
        days = PartitionRange(evaluated, self.partition).days
        for target in (features_target(self.spec), predictions_target(self.spec)):
            refuse_damaged(self.conn, target, published_records(self.conn, target.dataset, days))
        datasets = [
            self.spec.features_dataset,
            self.spec.predictions_dataset,
            f"marts/{self.spec.label.relation}",
        ]
        rows = self.conn.execute(
            """
            select p.dataset, p.partition_date, l.content_hash
            from ops.published p join ops.loads l using (dataset, partition_date, load_id)
            where p.dataset = any(%s) and p.partition_date between %s and %s order by p.dataset, p.partition_date
            """,
            [datasets, evaluated.day, self.partition.day],
        )
        loads = {f"{dataset} {day}": content_hash for dataset, day, content_hash in rows}
        champion = self.champion.version.digest if self.champion else "none"
        others = {"earlier": str(self.earlier), "red": str(self.red)}
        return {
            **loads,
            **others,
            "spec": self.spec.digest,
            "champion": champion,
            "as_of": self.as_of.isoformat(),
        }

    def reads(self) -> dict[str, int]:
        """Return the published datasets that the verdict stands on, and how many days before the night they begin."""
        n_days = (self.partition.day - evaluated_partition(self.spec, self.partition).day).days
        return {self.spec.features_dataset: n_days, self.spec.predictions_dataset: n_days}

    def _versions(self, partition: Partition) -> list[int]:
        """Return the versions whose predictions of a partition are published; none under the fallback rule."""
        from psycopg import sql

        if self.conn.execute(
            "select to_regclass(format('predictions.%%I', %s::text))", [self.spec.name]
        ).fetchone() == (None,):
            return []
        query = sql.SQL(
            "select distinct model_version from {} where model_version is not null order by model_version desc"
        )
        rows = self.conn.execute(
            query.format(published_predictions(self.spec, partition, partition))
        )
        return [version for (version,) in rows]
