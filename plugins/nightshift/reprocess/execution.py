"""Reprocess what late data touches: ingest, transform, score, monitor, in the order of a DAG run.

Each stage looks for its stale partitions anew, after the stage before has published.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange, consecutive_ranges
from nightshift.errors import NightshiftError
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.monitoring.monitor import monitor
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
from nightshift.warehouse.dbt.project import raw_lineage

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.staleness import StalePartition

Report = Callable[[str], None]


@dataclass(frozen=True)
class Change:
    """One partition whose published content has changed.

    Attributes:
        dataset: Name in the ledger.
        day: The partition.
        before: Content hash that readers saw, None if there was nothing.
        after: Content hash that they see now.
    """

    dataset: str
    day: dt.date
    before: str | None
    after: str


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
    with connect(settings, run.application_name) as conn:
        before = _published_hashes(conn)
        job = _Job(settings, conn, scope, Lineage(raw_lineage(settings), scope), run, report)
        left = job.ingest()
        features = find_features(conn, read_knowledge(settings, conn), specs, job.lineage)
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
        after = _published_hashes(conn)
    changes = [
        Change(*partition, before.get(partition), content_hash)
        for partition, content_hash in sorted(after.items())
        if before.get(partition) != content_hash
    ]
    return ReprocessResult(tuple(changes), n_done, tuple(left))


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
        for name, contract in load_contracts(self.settings.datasets_dir).items():
            days = self.scope.range_of(contract)
            if days is None:
                continue
            swept = load_late_drops(self.settings, name, days, self.run, reread=self.scope.reread)
            for drop in swept.loaded:
                news = "a new version" if drop.partition in swept.published else "nothing new"
                self.report(f"ingest    {name} {drop.partition}: {drop.data_key}, {news}")
            for drop, code in swept.left:
                left.append(
                    f"{drop.data_key} was refused with {code}; read docs/runbooks/{code}.md"
                )
            if swept.is_busy:
                left.append(f"{name}: another process is loading it; run this again")
        return left

    def transform(self, features: list[StalePartition]) -> None:
        for days, reason in _ranges_with_reason(features):
            self.report(f"transform {days}: {reason}")
            build(self.settings, days, self.run).require_all()

    def score(self, spec: ModelSpec, features: list[StalePartition]) -> list[StalePartition]:
        """Score the stale days; return them."""
        only = [part.day for part in features] if self.scope.is_narrow else None
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
            day, reason = stale[0].day, stale[0].reason
            self.report(f"monitor   {spec.name} {day}: {reason}")
            monitor(self.settings, spec, PartitionRange.single(Partition(day)), self.run)
            done.add(day)


def _ranges_with_reason(stale: list[StalePartition]) -> Iterator[tuple[PartitionRange, str]]:
    """Yield ranges of consecutive days, each with the reason of its first."""
    reasons = {part.day: part.reason for part in stale}
    for days in consecutive_ranges(reasons):
        yield days, reasons[days.first.day]


def _published_hashes(conn: Connection) -> dict[tuple[str, dt.date], str]:
    rows = conn.execute(
        "select p.dataset, p.partition_date, l.content_hash from ops.published p"
        " join ops.loads l using (dataset, partition_date, load_id)"
    )
    return {(dataset, day): content_hash for dataset, day, content_hash in rows}
