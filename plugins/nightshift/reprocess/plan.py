"""Plan a reprocessing: late drops, what they touch, and what is missing. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.model_spec import load_specs
from nightshift.ingestion.ingest_call import contract_digest
from nightshift.ingestion.late_arrivals import find_late_drops
from nightshift.lake.object_store import ObjectStore
from nightshift.reprocess.missing_drops import MissingDrop, find_missing_drops
from nightshift.reprocess.notes import column_notes, training_notes
from nightshift.reprocess.scope import Lineage, Scope
from nightshift.reprocess.stale import (
    find_features,
    find_predictions,
    find_verdicts,
    read_knowledge,
)

if TYPE_CHECKING:
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift.warehouse.staleness import StalePartition


@dataclass(frozen=True)
class ReprocessPlan:
    """What is to be done, in this order, and what a person should know.

    Attributes:
        late: Drops that landed and are not loaded.
        features: Days to build.
        predictions: Days to score, by model.
        verdicts: Days to monitor, by model.
        missing_drops: Drops that upstream still has to deliver.
        notes: What stays unchanged: trainings, columns that no contract has adopted.
    """

    late: tuple[DropManifest, ...]
    features: tuple[StalePartition, ...]
    predictions: tuple[StalePartition, ...]
    verdicts: tuple[StalePartition, ...]
    missing_drops: tuple[MissingDrop, ...]
    notes: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is to be done."""
        # A missing drop is upstream's to deliver, and a note is for people.
        return not (self.late or self.features or self.predictions or self.verdicts)


def make_plan(settings: Settings, conn: Connection, scope: Scope) -> ReprocessPlan:
    """Return the late drops and everything that they may touch.

    A late drop counts as if it changed every partition that may read it: what is in it is known
    only once it is loaded.

    Args:
        settings: Bucket, contracts, specs and dbt project.
        conn: Any connection of the warehouse.
        scope: The drops that count.

    Raises:
        SpecError: A contract or spec cannot be read.
    """
    store = ObjectStore.open(settings)
    specs = list(load_specs(settings.models_dir).values())
    late = _find_late_drops(settings, conn, store, scope)
    knowledge = read_knowledge(settings, conn, late)
    lineage = Lineage.read(settings, scope)

    features = find_features(conn, knowledge, specs, lineage)
    # Trainings and predictions of other days are not touched by a narrow scope.
    days = [part.day for part in features]
    only = days if scope.is_narrow else None
    predictions: list[StalePartition] = []
    for spec in specs:
        predictions += find_predictions(conn, spec, features, only)

    # A verdict reads features and predictions, so all of these are planned before.
    pending = [*features, *predictions]
    verdicts: list[StalePartition] = []
    for spec in specs:
        verdicts += find_verdicts(conn, knowledge, spec, lineage, pending=pending)

    missing_drops = find_missing_drops(conn, store, knowledge, scope)
    notes = [*training_notes(conn, days), *column_notes(conn)]
    return ReprocessPlan(
        late=tuple(late),
        features=tuple(features),
        predictions=tuple(predictions),
        verdicts=tuple(verdicts),
        missing_drops=tuple(missing_drops),
        notes=tuple(notes),
    )


def _find_late_drops(
    settings: Settings, conn: Connection, store: ObjectStore, scope: Scope
) -> list[DropManifest]:
    """Return the drops of the scope that landed and that no version holds."""
    late: list[DropManifest] = []
    for contract, days in scope.select(settings):
        # With a digest, drops that were read under another contract count as late too.
        digest: str | None = None
        if scope.reread:
            digest = contract_digest(contract)
        late += find_late_drops(conn, store, contract.name, days, digest)
    return late
