"""The inputs of one monitored partition of one model; each is read at most once."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.partitions import PartitionRange
from nightshift.monitoring import outcomes
from nightshift.monitoring.champion import Champion, holdout_metric, measured_version
from nightshift.monitoring.columns.partition_columns import PartitionColumns
from nightshift.monitoring.data_quality import data_quality_problems, intact_contents
from nightshift.monitoring.performance import (
    CanaryPerformance,
    Performance,
    measure_performance,
    split_canary,
)
from nightshift.monitoring.scans import PartitionScans
from nightshift.monitoring.trigger import (
    PartitionStatus,
    RetrainHistory,
    loss_lag_days,
    read_retrain_history,
)
from nightshift.monitoring.verdict import earlier_statuses
from nightshift.warehouse.partition_write import LoadManifest

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


ChampionCache = dict[int, Champion]
"""The loaded versions of a range, by number: one serves many partitions."""


class MaturedResult(NamedTuple):
    """Metrics of the matured predictions, and the version that made them; or a note.

    Attributes:
        performance: Metrics of the version's own rows.
        version: The version.
        note: Why there are none.
        canary: Metrics of the rows of a canary, and its version.
    """

    performance: list[Performance]
    version: int | None
    note: str | None = None
    canary: CanaryPerformance | None = None


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
    def columns(self) -> PartitionColumns:
        """Return the columns of the published features and scores."""
        return PartitionColumns(
            settings=self.settings,
            conn=self.conn,
            spec=self.spec,
            partition=self.partition,
            run=self.run,
            scans=self.scans,
            champion=self.champion,
            is_scored=bool(self._published_versions(self.partition)),
            left_out=outcomes.source_left_out(self.conn, self.spec, self.partition),
        )

    def measure_matured(self) -> MaturedResult:
        """Measure the predictions that mature now."""
        rows = outcomes.read_outcomes(
            self.settings, self.conn, self.spec, self.partition, self.as_of
        )
        if rows is None:
            return MaturedResult([], None, f"no matured predictions of {self.evaluated}")
        versions = self._published_versions(self.evaluated)
        rows, canary = split_canary(self.spec, rows)
        if not rows.num_rows:
            note = f"a canary alone has matured predictions of {self.evaluated}"
            return MaturedResult([], None, note, canary)
        performance = measure_performance(self.spec, rows)
        version = versions[0] if versions else None
        return MaturedResult(performance, version, canary=canary)

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
        # Labels and predictions of these days stand on the columns that were broken then.
        return problems + self.columns.faults_since(self.evaluated)

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
            "recent": str(sorted(self.columns.recent_loads.items())),
            "broken": str(sorted(self.columns.fault_history.since.items())),
            "slow": str(sorted(self.columns.slow_loads.items())),
            "slow_broken": str(sorted(self.columns.slow_history.since.items())),
            "estimated": self.columns.estimation_history.digest,
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
        """Return the versions whose predictions are published, newest first; none for the rule.

        A canary's is left out: the version alongside it scored the other entities, and is measured.
        """
        from psycopg import sql

        # A model that has never scored has no table.
        if not outcomes.has_predictions(self.conn, self.spec):
            return []
        query = sql.SQL(
            """
            select distinct model_version from {}
            where model_version is not null and score_source <> 'canary'
            order by model_version desc
            """
        ).format(outcomes.predictions_query(self.spec, partition))
        return [version for (version,) in self.conn.execute(query)]
