"""Reprocess what late data touches: ingest, transform, score, monitor, in the order of a DAG run.

Each stage looks for its stale partitions anew, after the stage before has published.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange, consecutive_ranges
from nightshift.errors import NightshiftError
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.monitoring.monitor import monitor
from nightshift.reprocess.changes import Change, find_changes, published_hashes
from nightshift.reprocess.scope import Lineage, Scope
from nightshift.reprocess.stale import (
    find_features,
    find_predictions,
    find_verdicts,
    read_knowledge,
)
from nightshift.scoring.pipeline import score
from nightshift.transformation.build import build
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.staleness import StalePartition

Report = Callable[[str], None]


@dataclass(frozen=True)
class ReprocessResult:
    """What a reprocessing did.

    Attributes:
        changes: Partitions that changed for readers, by dataset and day.
        n_done: Partitions that were done again, equal ones included.
        left: What could not be done, and why.
    """

    changes: tuple[Change, ...]
    n_done: int
    left: tuple[str, ...]


def reprocess(settings: Settings, scope: Scope, run: RunContext, report: Report) -> ReprocessResult:
    """Ingest late drops, and rebuild, rescore and monitor the partitions that they touch.

    A second call finds nothing to do. Nothing is retrained: schedule and monitoring decide that.
    ``report`` takes one line of progress.

    Raises:
        NightshiftError: The features could not be built; no later stage was tried.
    """
    specs = list(load_specs(settings.models_dir).values())
    lineage = Lineage.read(settings, scope)
    with connect(settings, run.application_name) as conn:
        before = published_hashes(conn)
        job = _Job(settings, conn, scope, lineage, run, report)
        left = job.ingest()
        # Read after the drops are loaded: their versions make features stale.
        knowledge = read_knowledge(settings, conn)
        features = find_features(conn, knowledge, specs, lineage)
        job.transform(features)
        n_done = len(features)
        for spec in specs:
            try:
                predictions = job.score(spec, features)
                n_done += len(predictions)
                n_done += job.monitor(spec, remade=[*features, *predictions])
            except NightshiftError as error:
                # One model must not stop the next.
                left.append(f"{spec.name}: {error}")
        after = published_hashes(conn)
    return ReprocessResult(find_changes(before, after), n_done, tuple(left))


@dataclass(frozen=True)
class _Job:
    """The stages of one reprocessing."""

    settings: Settings
    conn: Connection
    scope: Scope
    lineage: Lineage
    run: RunContext
    report: Report

    def ingest(self) -> list[str]:
        """Load the late drops; return what could not be loaded."""
        left: list[str] = []
        for contract, days in self.scope.select(self.settings):
            left += self._ingest_dataset(contract.name, days)
        return left

    def _ingest_dataset(self, name: str, days: PartitionRange) -> list[str]:
        left: list[str] = []
        swept = load_late_drops(self.settings, name, days, self.run, reread=self.scope.reread)
        for drop in swept.loaded:
            # A drop may be read again, or come twice, and hold what is published already.
            news = "a new version" if drop.partition in swept.published else "nothing new"
            self.report(f"ingest    {name} {drop.partition}: {drop.data_key}, {news}")
        for drop, code in swept.left:
            page = f"read docs/runbooks/{code}.md"
            left.append(f"{drop.data_key} was refused with {code}; {page}")
        if swept.is_busy:
            left.append(f"{name}: another process is loading it; run this again")
        return left

    def transform(self, features: list[StalePartition]) -> None:
        """Build the stale days."""
        for days, reason in _ranges_with_reason(features):
            self.report(f"transform {days}: {reason}")
            build(self.settings, days, self.run).require_all()

    def score(self, spec: ModelSpec, features: list[StalePartition]) -> list[StalePartition]:
        """Score the stale days; return them."""
        only: list[dt.date] | None = None
        # A narrow scope must not score days whose features it did not touch.
        if self.scope.is_narrow:
            only = [part.day for part in features]
        predictions = find_predictions(self.conn, spec, only=only)
        for days, reason in _ranges_with_reason(predictions):
            self.report(f"score     {spec.name} {days}: {reason}")
            score(self.settings, spec, days, self.run)
        return predictions

    def monitor(self, spec: ModelSpec, remade: list[StalePartition]) -> int:
        """Monitor the stale days in order; return their number."""
        knowledge = read_knowledge(self.settings, self.conn)
        done = set[dt.date]()
        while True:
            # Day by day: a verdict reads earlier ones, and becomes stale when one of those changes.
            verdicts = find_verdicts(self.conn, knowledge, spec, self.lineage, remade=remade)
            stale = [part for part in verdicts if part.day not in done]
            if not stale:
                return len(done)
            first = stale[0]
            self.report(f"monitor   {spec.name} {first.day}: {first.reason}")
            partition = PartitionRange.single(Partition(first.day))
            monitor(self.settings, spec, partition, self.run)
            # Once each: a verdict that stays stale would else be given for ever.
            done.add(first.day)


def _ranges_with_reason(stale: list[StalePartition]) -> Iterator[tuple[PartitionRange, str]]:
    """Yield ranges of consecutive days, each with the reason of its first."""
    reasons = {part.day: part.reason for part in stale}
    for days in consecutive_ranges(reasons):
        yield days, reasons[days.first.day]
