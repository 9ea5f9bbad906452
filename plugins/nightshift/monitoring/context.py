"""The inputs of one monitored partition of one model; each is read at most once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.partitions import PartitionRange
from nightshift.monitoring import outcomes
from nightshift.monitoring.champion import (
    Champion,
    champion_reference,
    holdout_metric,
    measured_version,
)
from nightshift.monitoring.columns.column_drift import SCORE, Drift
from nightshift.monitoring.columns.fault_history import (
    FaultHistory,
    PublishedFault,
    column_feeds,
    faults_between,
)
from nightshift.monitoring.columns.reference import ColumnReference, ReferenceReader
from nightshift.monitoring.data_quality import data_quality_problems, intact_contents
from nightshift.monitoring.estimation import Estimate, estimate_performance
from nightshift.monitoring.performance import Performance, measure_performance
from nightshift.monitoring.scans import PartitionScans, Scan, feature_types
from nightshift.monitoring.trigger import (
    PartitionStatus,
    RetrainHistory,
    loss_lag_days,
    read_retrain_history,
)
from nightshift.monitoring.verdict import earlier_statuses
from nightshift.quality.column_summary import ColumnSummary, summarize
from nightshift.warehouse.partition_write import LoadManifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


class DriftResult(NamedTuple):
    """The drift of the features and the score; the note tells why some could not be compared."""

    features: list[Drift]
    score: Drift | None
    faults: list[PublishedFault]
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

    @cached_property
    def scans(self) -> PartitionScans:
        """Return the scans of the published rows."""
        return PartitionScans(self.settings, self.conn, self.partition.day, self.run)

    @cached_property
    def champion(self) -> Champion | None:
        """Return the version that scored this partition, or else the one that serves it."""
        scored_by = self._published_versions(self.partition)
        version = measured_version(self.conn, self.spec, self.partition, scored_by)
        if version is None:
            return None
        # A champion serves many partitions of a range: its files are read once.
        if version.version not in self.champions:
            self.champions[version.version] = Champion.load(self.settings, self.conn, version)
        return self.champions[version.version]

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

    @cached_property
    def reader(self) -> ReferenceReader:
        """Return the reader of summaries."""
        return ReferenceReader(self.settings, self.conn, self.spec, self.run)

    @cached_property
    def reference(self) -> ColumnReference:
        """Return what is usual of the champion's columns."""
        if self.champion is None:
            raise ValueError("there is no champion")
        return champion_reference(self.reader, self.champion)

    @cached_property
    def recent_loads(self) -> dict[dt.date, int]:
        """Return the published feature loads before this partition, by day."""
        return self.reader.recent_loads(self.partition)

    @cached_property
    def fault_history(self) -> FaultHistory:
        """Return the input faults that were published before this partition."""
        return FaultHistory.read(self.conn, self.spec, self.partition)

    def measure_drift(self) -> DriftResult:
        """Measure the drift of all features, and of the champion's scores if they are published."""
        if self.champion is None:
            return DriftResult([], None, [], "there is no champion yet")
        scan = self.scan_features()
        if not scan.profile:
            return DriftResult([], None, [], f"the night has no {self.spec.entity.name}")
        names = frozenset(self.spec.features.names)
        profile = {
            name: summarize(sketch) for name, sketch in scan.profile.items() if name in names
        }
        day = self.partition.day
        drifts = self.reference.features.measure(day, profile)
        faults = self._find_faults(profile, scan)

        scores = self.score_summary()
        if scores is None or self.reference.score is None:
            note = "no scores of the champion are published for this night"
            return DriftResult(drifts, None, faults, note)
        [score] = self.reference.score.measure(day, {SCORE: scores}, "score")
        return DriftResult(drifts, score, faults)

    def scan_features(self) -> Scan:
        """Return the scan of the published feature rows."""
        return self.scans.scan(self.spec.features_dataset, feature_types(self.spec))

    def score_summary(self) -> ColumnSummary | None:
        """Return the summary of the published scores; None if no model made them."""
        scores = self.published_scores
        return summarize(scores[SCORE]) if scores else None

    @cached_property
    def published_scores(self) -> Mapping[str, Sketch]:
        """Return the sketches of the published predictions; empty if no model made them."""
        if not self._published_versions(self.partition):
            return {}
        return self.scans.scan(self.spec.predictions_dataset, {SCORE: "float8"}).profile

    def estimate(self) -> list[Estimate]:
        """Return what the published predictions are worth before their labels are known."""
        if not self.published_scores:
            return []
        return estimate_performance(self.conn, self.spec, self.partition, self.published_scores)

    def _find_faults(self, profile: dict[str, ColumnSummary], scan: Scan) -> list[PublishedFault]:
        """Return the columns that a broken feed explains."""
        recent = self.reader.summaries(self.recent_loads)
        history = self.fault_history
        checks = self.reference.checks(recent, history.broken)
        before = recent.get(self.partition.shift(-1).day)
        faults = checks.find(self.partition.day, profile, before, scan.order)
        if not faults:
            return []
        return history.publish(faults, self.feeds())

    def feeds(self) -> dict[str, list[str]]:
        """Return the raw datasets behind each feature."""
        return column_feeds(self.conn, self.spec, self.partition, self.settings.datasets_dir)

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

    def expected_metric(self, version: int | None, source: str = "challenger") -> float | None:
        """Return the watched metric of a version, or of the rule, on the version's hold-out."""
        if version is None:
            return None
        return holdout_metric(self.conn, self.spec, version, source)

    @cached_property
    def labels(self) -> outcomes.LabelCount:
        """Return how many labels of the evaluated partition are known."""
        return outcomes.count_labels(self.conn, self.spec, self.partition, self.as_of)

    @cached_property
    def data_quality_problems(self) -> list[str]:
        """Return the data quality problems from the evaluated partition to this one."""
        partitions = PartitionRange(self.evaluated, self.partition)
        problems = data_quality_problems(
            self.conn, self.spec, partitions, self.settings.datasets_dir
        )
        return problems + self.earlier_faults

    @cached_property
    def earlier_faults(self) -> list[str]:
        """Return the broken columns of the partitions since the evaluated one, for people."""
        # Labels and predictions of these days stand on them.
        days = PartitionRange(self.evaluated, self.partition.shift(-1))
        return faults_between(self.conn, self.spec, days)

    def retrain_history(self) -> RetrainHistory:
        """Return the model's retrain requests near this partition; read under the model's lock."""
        return read_retrain_history(self.conn, self.spec, self.partition)

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
        contents = intact_contents(self.conn, self.spec, partitions)
        # Manifests of earlier releases hold this text with the old name of the class and the old
        # keys. They stay, so that a rerun after an upgrade has equal inputs.
        earlier = str(self.earlier).replace("PartitionStatus(", "NightStatus(")
        return {
            **contents,
            "earlier": earlier,
            "red": str(self.data_quality_problems),
            "recent": str(sorted(self.recent_loads.items())),
            "broken": str(sorted(self.fault_history.since.items())),
            "spec": self.spec.digest,
            "champion": self.champion.version.digest if self.champion else "none",
            "as_of": self.as_of.isoformat(),
        }

    @property
    def datasets(self) -> tuple[str, str]:
        """Return the features and the predictions in the ledger."""
        return self.spec.features_dataset, self.spec.predictions_dataset

    def manifest(self, inputs: dict[str, str], history: RetrainHistory) -> LoadManifest:
        """Return what the verdict is made from."""
        # Requests near the partition decide too; they are known only under the lock.
        inputs = inputs | {"decided": str(history.other_days)}
        reads = dict.fromkeys(self.datasets, loss_lag_days(self.spec))
        return LoadManifest(self.run, inputs, reads=reads)

    def _published_versions(self, partition: Partition) -> list[int]:
        """Return the versions whose predictions are published, newest first; none for the rule."""
        from psycopg import sql

        # A model that has never scored has no table.
        if not outcomes.has_predictions(self.conn, self.spec):
            return []
        query = sql.SQL(
            """
            select distinct model_version from {}
            where model_version is not null order by model_version desc
            """
        ).format(outcomes.predictions_query(self.spec, partition))
        return [version for (version,) in self.conn.execute(query)]
