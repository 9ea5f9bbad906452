"""Find stale features, predictions and verdicts: partitions older than what they were made from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import daily_contracts, load_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.outcomes import evaluated_partition
from nightshift.reprocess.scope import FAR, Lineage
from nightshift.warehouse import staleness
from nightshift.warehouse.ledger import RawVersion, raw_versions
from nightshift.warehouse.staleness import CompletedLoad, RawKnowledge, StalePartition

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


def read_knowledge(
    settings: Settings, conn: Connection, late: Sequence[DropManifest] = ()
) -> RawKnowledge:
    """Return the raw versions that partitions may know, with late drops as if they were loaded."""
    contracts = load_contracts(settings.datasets_dir)
    versions = raw_versions(conn, contracts.values(), Partition(FAR))
    for number, drop in enumerate(late, 1):
        dataset = f"raw/{drop.dataset}"
        # A load id that no load has: nothing can have read this version.
        version = RawVersion(dataset, drop.partition, -number, drop.delivered_at, None, "")
        versions.append(version)
    return RawKnowledge(contracts, versions, staleness.raw_arrivals(conn))


def data_days(knowledge: RawKnowledge) -> list[dt.date]:
    """Return every day from the first to the last that any daily dataset has."""
    contracts = daily_contracts(knowledge.contracts.values())
    daily = {contract.dataset for contract in contracts}
    days = {version.day for version in knowledge.versions if version.dataset in daily}
    return PartitionRange(Partition(min(days)), Partition(max(days))).days if days else []


def find_features(
    conn: Connection, knowledge: RawKnowledge, specs: Iterable[ModelSpec], lineage: Lineage
) -> list[StalePartition]:
    """Return the days whose features miss raw data, or were never built although they can be."""
    days = data_days(knowledge)
    stale: list[StalePartition] = []
    for dataset, table in sorted({(spec.features_dataset, spec.feature_table) for spec in specs}):
        built, counts = staleness.last_completed_loads(conn, dataset), lineage.of(table)
        stale += staleness.stale_features(knowledge, dataset, built, days, counts)
    return _first_per_day(stale)


def find_predictions(
    conn: Connection,
    spec: ModelSpec,
    rebuilt: Iterable[StalePartition] = (),
    only: Collection[dt.date] | None = None,
) -> list[StalePartition]:
    """Return the days whose predictions are older than their features, or missing in service.

    ``rebuilt`` are features that will be built first, ``only`` the days of a narrow scope.
    """
    dataset = spec.predictions_dataset
    scored = staleness.last_completed_loads(conn, dataset)
    features = staleness.visible_loads(conn, spec.features_dataset)
    rebuilt_days = {partition.day for partition in rebuilt}
    inputs, offsets = {spec.features_dataset: features}, {spec.features_dataset: [0]}

    stale = staleness.stale_after(dataset, scored, inputs, offsets)
    stale += _missing(dataset, features.keys() | rebuilt_days, scored, "were never made")
    for day in rebuilt_days & scored.keys():
        stale.append(StalePartition(dataset, day, "if the features change"))
    return _first_per_day(part for part in stale if only is None or part.day in only)


def find_verdicts(
    conn: Connection,
    knowledge: RawKnowledge,
    spec: ModelSpec,
    lineage: Lineage,
    *,
    pending: Sequence[StalePartition] = (),
    remade: Sequence[StalePartition] = (),
) -> list[StalePartition]:
    """Return the days whose verdict is older than its inputs, or missing in service.

    A corrected outcome that a day may know changes its verdict. ``pending`` are features and
    predictions that will be made first, ``remade`` those that were made in this run. A narrow scope
    excludes verdicts before the first day that it touches.
    """
    dataset = f"monitoring/{spec.name}"
    # How many days before the verdict the outcomes are evaluated; negative.
    lag = (evaluated_partition(spec, Partition(FAR)).day - FAR).days
    offsets = {
        spec.features_dataset: [0, lag],
        spec.predictions_dataset: [0, lag],
        dataset: list(range(1 - spec.monitoring.windows.m, 0)),
    }
    given = staleness.last_completed_loads(conn, dataset)
    inputs = {name: staleness.visible_loads(conn, name) for name in offsets}
    monitorable = inputs[spec.predictions_dataset].keys() & inputs[spec.features_dataset].keys()

    touched = _touched_by_outcomes(knowledge, spec, lineage, dataset, given, lag)
    stale = staleness.stale_after(dataset, given, inputs, offsets) + touched
    stale += _missing(dataset, monitorable, given, "was never given")
    stale += _after_pending(dataset, given, offsets, pending)
    if lineage.scope.is_narrow:
        begin = min((part.day for part in (*pending, *remade, *touched)), default=FAR)
        stale = [part for part in stale if part.day >= begin]
    return _first_per_day(stale)


def _touched_by_outcomes(
    knowledge: RawKnowledge,
    spec: ModelSpec,
    lineage: Lineage,
    dataset: str,
    given: dict[dt.date, CompletedLoad],
    lag: int,
) -> list[StalePartition]:
    """Return verdicts that miss a raw version of the days since the evaluated predictions."""
    counts = lineage.of(spec.label.relation)
    stale = []
    for day, as_of in knowledge.as_of(given).items():
        earliest = day + dt.timedelta(days=lag)
        versions = knowledge.touching(day, as_of, given[day], counts)
        versions = [version for version in versions if version.day >= earliest]
        if versions:
            reason = f"{versions[-1].dataset} of {versions[-1].day} came in later"
            stale.append(StalePartition(dataset, day, reason))
    return stale


def _after_pending(
    dataset: str,
    given: Collection[dt.date],
    offsets: Mapping[str, Sequence[int]],
    pending: Iterable[StalePartition],
) -> list[StalePartition]:
    """Return verdicts that read features or predictions which will be made first."""
    pending_parts = {(part.dataset, part.day) for part in pending}
    stale = []
    for source, days_before in offsets.items():
        for offset in days_before:
            for day in given:
                source_day = day + dt.timedelta(days=offset)
                if (source, source_day) in pending_parts:
                    reason = f"if {source} of {source_day} changes"
                    stale.append(StalePartition(dataset, day, reason))
    return stale


def _missing(
    dataset: str, days: Iterable[dt.date], done: Mapping[dt.date, CompletedLoad], reason: str
) -> list[StalePartition]:
    """Return days after the first partition of a dataset that it lacks."""
    # A dataset begins with its first partition: earlier days are a backfill's.
    first = min(done, default=FAR)
    return [StalePartition(dataset, day, reason) for day in days if day > first and day not in done]


def _first_per_day(stale: Iterable[StalePartition]) -> list[StalePartition]:
    by_day: dict[dt.date, StalePartition] = {}
    for part in stale:
        by_day.setdefault(part.day, part)
    return [by_day[day] for day in sorted(by_day)]
