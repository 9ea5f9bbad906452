"""Plan a reprocessing: late drops, what they touch, and what is missing. Nothing is written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import Delivery, load_contracts
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.ingestion.ingest_call import contract_digest
from nightshift.ingestion.late_arrivals import find_late_drops
from nightshift.lake.landing import list_undelivered
from nightshift.lake.object_store import ObjectStore
from nightshift.reprocess.scope import Lineage, Scope
from nightshift.reprocess.stale import (
    data_days,
    find_features,
    find_predictions,
    find_verdicts,
    read_knowledge,
)
from nightshift.warehouse.dbt.project import raw_lineage
from nightshift.warehouse.ledger import lookback_of
from nightshift.warehouse.staleness import RawKnowledge, StalePartition

if TYPE_CHECKING:
    from nightshift.contracts.datasets import DatasetContract
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class MissingDrop:
    """A drop that was due and did not land.

    Attributes:
        dataset: Name of the contract.
        day: Its operating day.
        status: What there is instead.
        n_waiting: Days whose features need it.
    """

    dataset: str
    day: dt.date
    status: str
    n_waiting: int


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
        return not (self.late or self.features or self.predictions or self.verdicts)


def make_plan(settings: Settings, conn: Connection, scope: Scope) -> ReprocessPlan:
    """Return the late drops and everything that they may touch.

    A late drop counts as if it changed every partition that may read it.
    """
    store, specs = ObjectStore.open(settings), list(load_specs(settings.models_dir).values())
    late = _find_late_drops(conn, store, load_contracts(settings.datasets_dir), scope)
    knowledge = read_knowledge(settings, conn, late)
    lineage = Lineage(raw_lineage(settings), scope)

    features = find_features(conn, knowledge, specs, lineage)
    days = [part.day for part in features]
    predictions: list[StalePartition] = []
    for spec in specs:
        predictions += find_predictions(conn, spec, features, days if scope.is_narrow else None)
    pending = [*features, *predictions]
    verdicts: list[StalePartition] = []
    # A verdict reads features and predictions, so all of these are planned before.
    for spec in specs:
        verdicts += find_verdicts(conn, knowledge, spec, lineage, pending=pending)

    missing = _find_missing_drops(conn, store, knowledge, scope)
    notes = [*_training_notes(conn, days), *_column_notes(conn)]
    return ReprocessPlan(
        tuple(late),
        tuple(features),
        tuple(predictions),
        tuple(verdicts),
        tuple(missing),
        tuple(notes),
    )


def _find_late_drops(
    conn: Connection, store: ObjectStore, contracts: Mapping[str, DatasetContract], scope: Scope
) -> list[DropManifest]:
    late: list[DropManifest] = []
    for name, contract in contracts.items():
        digest = contract_digest(contract) if scope.reread else None
        if days := scope.range_of(contract):
            late += find_late_drops(conn, store, name, days, digest)
    return late


def _find_missing_drops(
    conn: Connection, store: ObjectStore, knowledge: RawKnowledge, scope: Scope
) -> list[MissingDrop]:
    """Return the drops that were due by the newest day of any daily dataset and did not land."""
    loaded = {(version.dataset, version.day) for version in knowledge.versions}
    refused = _refused_drops(conn)
    days = data_days(knowledge)
    missing = []
    for name, contract in knowledge.contracts.items():
        in_scope = scope.range_of(contract)
        if in_scope is None or contract.delivery is not Delivery.DAILY:
            continue
        needed_by = {day: lookback_of(contract, Partition(day)) for day in days}
        for day in days:
            is_due = in_scope.first.day <= day <= in_scope.last.day
            if not is_due or (contract.dataset, day) in loaded:
                continue
            status = "nothing landed"
            if code := refused.get((contract.dataset, day)):
                status = f"refused with {code}"
            elif list_undelivered(store, name, PartitionRange.single(Partition(day))):
                status = "a file without a manifest"
            n_waiting = sum(day in lookback for lookback in needed_by.values())
            missing.append(MissingDrop(name, day, status, n_waiting))
    return missing


def _refused_drops(conn: Connection) -> dict[tuple[str, dt.date], str]:
    rows = conn.execute("select dataset, partition_date, code from quarantine.refused_drops")
    return {(dataset, day): code for dataset, day, code in rows}


def _training_notes(conn: Connection, days: Sequence[dt.date]) -> list[str]:
    """Name the models that learned from these days; a reprocessing does not retrain them."""
    rows = conn.execute(
        """
        select model, max(partition_date)::text, count(*) from ml.training_sets
        where exists (select from unnest(%s::date[]) d where d between first_day and last_day)
        group by model order by model
        """,
        [list(days)],
    )
    return [
        f"{model}: {n} training set(s), the last of {day}, hold such nights;"
        " nothing is retrained by this"
        for model, day, n in rows
    ]


def _column_notes(conn: Connection) -> list[str]:
    """Name delivered columns that no contract has adopted."""
    rows = conn.execute(
        """
        select d.dataset, note, min(d.partition_date), max(d.partition_date), count(*)
        from raw.ingested_drops d
        join ops.published p using (dataset, partition_date, load_id), unnest(d.notes) note
        group by 1, 2 order by 1, 2
        """
    )
    return [
        f"{dataset}: {note}, {n} drop(s) from {first} to {last};"
        f" adopt it? nightshift contract diff {dataset.removeprefix('raw/')} {last}"
        for dataset, note, first, last, n in rows
    ]
