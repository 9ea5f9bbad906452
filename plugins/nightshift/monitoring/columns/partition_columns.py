"""The columns of one partition: drift, input faults, and what its predictions are worth."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.columns.fault_history import FaultHistory, column_feeds, faults_between
from nightshift.monitoring.columns.faults import PublishedFault
from nightshift.monitoring.columns.night_series import SCORE, Profile
from nightshift.monitoring.columns.reference import ColumnReference
from nightshift.monitoring.columns.reference_reader import PublishedColumns, ReferenceReader
from nightshift.monitoring.estimation import Estimate, EstimationHistory, estimate_performance
from nightshift.monitoring.scans import PartitionScans, Scan, without_night_level

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.monitoring.champion import Champion
    from nightshift.monitoring.columns.column_drift import Drift
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


class ColumnResult(NamedTuple):
    """What was measured of the columns of a partition.

    Attributes:
        features: Drift of the features.
        score: Drift of the score; None without scores.
        faults: Columns that a broken feed explains.
        estimates: What the predictions are worth before their labels are known.
        note: Why some could not be measured.
    """

    features: list[Drift]
    score: Drift | None
    faults: list[PublishedFault]
    estimates: list[Estimate]
    note: str | None = None

    @property
    def drifts(self) -> list[Drift]:
        """Return the drift of all columns."""
        return self.features if self.score is None else [*self.features, self.score]

    @property
    def n_drifted(self) -> int:
        """Return the number of features that drifted, tonight or slowly."""
        return sum(drift.has_changed for drift in self.features)

    @property
    def slow_changes(self) -> list[str]:
        """Return the slow changes, for people."""
        return [f"slow change: {drift.slow_change}" for drift in self.features if drift.is_slow]


@dataclass(kw_only=True)
class PartitionColumns:
    """The columns of one partition of one model.

    Attributes:
        settings: Where the warehouse is.
        conn: A connection outside of a transaction.
        spec: The model.
        partition: The partition.
        run: Recorded with profiles.
        scans: The scans of the published rows.
        champion: The measured version; None before the first.
        is_scored: Whether a model's predictions of the partition are published.
        left_out: Source of the scores that say nothing of the champion's; empty for none.
    """

    settings: Settings
    conn: Connection
    spec: ModelSpec
    partition: Partition
    run: RunContext
    scans: PartitionScans
    champion: Champion | None
    is_scored: bool
    left_out: str = ""

    @cached_property
    def reader(self) -> ReferenceReader:
        """Return the reader of summaries."""
        return ReferenceReader(
            self.settings,
            self.conn,
            self.spec,
            self.run,
        )

    @cached_property
    def recent_loads(self) -> dict[dt.date, int]:
        """Return the published feature loads before this partition, by day."""
        return self.reader.recent_loads(self.partition)

    @cached_property
    def fault_history(self) -> FaultHistory:
        """Return the input faults that were published before this partition."""
        return FaultHistory.read(
            self.conn,
            self.spec,
            self.partition,
        )

    @cached_property
    def slow_loads(self) -> dict[dt.date, int]:
        """Return the published feature loads since the champion's training, by day."""
        if self.champion is None:
            return {}
        return self.reader.loads_since(self.champion.window, self.partition)

    @cached_property
    def slow_history(self) -> FaultHistory:
        """Return the input faults of the nights that are added up."""
        first = min(self.slow_loads, default=self.partition.day)
        n_days = (self.partition.day - first).days
        return FaultHistory.read(
            self.conn,
            self.spec,
            self.partition,
            n_days,
        )

    def faults_since(self, first: Partition) -> list[str]:
        """Return the broken columns from a partition on to the one before this, for people."""
        days = PartitionRange(
            first,
            self.partition.shift(-1),
        )
        return faults_between(
            self.conn,
            self.spec,
            days,
        )

    def reference(self, champion: Champion) -> ColumnReference:
        """Return what is usual of a champion's columns; it is made once."""
        if champion.reference is None:
            version = champion.version
            loads = self.reader.training_loads(
                version.training_set,
                champion.window,
            )
            champion.reference = ColumnReference.of(
                self.reader.summaries(loads),
                self.reader.orders(loads),
                self.reader.scores(champion),
                self.spec.monitoring.drift_limit,
            )
        return champion.reference

    def measure(self) -> ColumnResult:
        """Measure drift and faults of the features, and the scores if they are published."""
        if self.champion is None:
            return ColumnResult(
                [],
                None,
                [],
                [],
                "there is no champion yet",
            )
        published = self.reader.published(self.partition)
        if not published.profile:
            note = f"the night has no {self.spec.entity.name}"
            return ColumnResult(
                [],
                None,
                [],
                [],
                note,
            )

        reference = self.reference(self.champion)
        faults = self._find_faults(
            reference,
            published,
        )
        drifts = self._with_slow_changes(
            reference,
            reference.features.measure(
                self.partition.day,
                published.profile,
            ),
            faults,
        )

        scores = self.score_profile()
        if not scores or reference.score is None:
            note = "no scores of the champion are published for this night"
            return ColumnResult(
                drifts,
                None,
                faults,
                [],
                note,
            )
        [score] = reference.score.measure(
            self.partition.day,
            scores,
            "score",
        )
        return ColumnResult(
            drifts,
            score,
            faults,
            self.estimate(),
        )

    def _with_slow_changes(
        self,
        reference: ColumnReference,
        drifts: list[Drift],
        faults: list[PublishedFault],
    ) -> list[Drift]:
        """Return drifts with what the nights since the training add up to."""
        slow, loads = reference.slow, self.slow_loads
        # A champion that serves many partitions of a range reads each night once.
        unread = slow.unread(loads)
        if unread:
            slow.learn(
                unread,
                self.reader.summaries(unread),
            )
        changes = slow.find(
            loads,
            self.slow_history.broken_nights(faults),
        )
        return [drift.with_slow_change(changes.get(drift.feature)) for drift in drifts]

    def _find_faults(
        self, reference: ColumnReference, published: PublishedColumns
    ) -> list[PublishedFault]:
        """Return the columns that a broken feed explains."""
        recent = self.reader.summaries(self.recent_loads)
        history = self.fault_history
        # A night whose input was broken tells nothing of what is usual.
        checks = reference.checks(
            recent,
            history.broken,
        )
        before = recent.get(self.partition.shift(-1).day)
        faults = checks.find(
            self.partition.day,
            published.profile,
            before,
            published.order,
        )
        # Feeds are looked up only for what is broken: most nights have nothing to name.
        return (
            history.publish(
                faults,
                self.feeds(),
            )
            if faults
            else []
        )

    @property
    def slice_loads(self) -> dict[dt.date, int]:
        """Return the feature loads of the champion's training set by day, rising."""
        if self.champion is None:
            return {}
        version = self.champion.version
        return self.reader.training_loads(version.training_set, self.champion.window)

    def feeds(self) -> dict[str, list[str]]:
        """Return the raw datasets behind each feature."""
        return column_feeds(
            self.conn,
            self.spec,
            self.partition,
            self.settings.datasets_dir,
        )

    def score_profile(self) -> Profile:
        """Return the summary of the published scores; empty if no model made them."""
        if not self.is_scored:
            return {}
        profile = self._published_scores.summaries({SCORE})
        if self.champion is None:
            return profile
        version = self.champion.version.version
        return without_night_level(self.conn, self.spec, self.partition, version, profile)

    @cached_property
    def _published_scores(self) -> Scan:
        # The score is a number whatever the task; the other columns keep their own types.
        types = {SCORE: "float8"}
        return self.scans.scan(self.spec.predictions_dataset, types, self.left_out)

    @cached_property
    def estimation_history(self) -> EstimationHistory:
        """Return what the estimates are made from, besides the published predictions."""
        return EstimationHistory.read(self.conn, self.spec, self.partition)

    def estimate(self) -> list[Estimate]:
        """Return what the published predictions are worth before their labels are known."""
        return estimate_performance(
            self.spec,
            self.partition,
            self._published_scores.profile,
            self.estimation_history,
        )
