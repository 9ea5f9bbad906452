"""Find stale features, predictions and verdicts: partitions older than what they were made from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import daily_contracts, load_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.monitoring.trigger import loss_lag_days
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
        version = RawVersion(
            dataset=f"raw/{drop.dataset}",
            day=drop.partition,
            # A load id that no load has: nothing can have read this version.
            load_id=-number,
            known_at=drop.delivered_at,
            superseded_at=None,
            content_hash="",
        )
        versions.append(version)
    arrivals = staleness.raw_arrivals(conn)
    return RawKnowledge(contracts, versions, arrivals)


def data_days(knowledge: RawKnowledge) -> list[dt.date]:
    """Return every day from the first to the last that any daily dataset has."""
    contracts = daily_contracts(knowledge.contracts.values())
    daily = {contract.dataset for contract in contracts}
    days = {version.day for version in knowledge.versions if version.dataset in daily}
    if not days:
        return []
    first, last = min(days), max(days)
    return PartitionRange(Partition(first), Partition(last)).days


def find_features(
    conn: Connection, knowledge: RawKnowledge, specs: Iterable[ModelSpec], lineage: Lineage
) -> list[StalePartition]:
    """Return the days whose features miss raw data, or were never built although they can be."""
    days = data_days(knowledge)
    # Several models may share a feature view.
    views = {(spec.features_dataset, spec.feature_table) for spec in specs}
    stale: list[StalePartition] = []
    for dataset, table in sorted(views):
        built = staleness.last_completed_loads(conn, dataset)
        is_read = lineage.of(table)
        stale += staleness.stale_features(knowledge, dataset, built, days, is_read)
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
    inputs = {spec.features_dataset: features}
    offsets = {spec.features_dataset: [0]}

    stale = staleness.stale_after(dataset, scored, inputs, offsets)
    stale += _missing(dataset, features.keys() | rebuilt_days, scored, "were never made")
    for day in rebuilt_days & scored.keys():
        stale.append(StalePartition(dataset, day, "if the features change"))
    if only is not None:
        stale = [part for part in stale if part.day in only]
    return _first_per_day(stale)


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
    lag = -loss_lag_days(spec)
    # A verdict reads the earlier ones of its window.
    offsets = {
        spec.features_dataset: [0, lag],
        spec.predictions_dataset: [0, lag],
        dataset: list(range(1 - spec.monitoring.windows.m, 0)),
    }
    given = staleness.last_completed_loads(conn, dataset)
    inputs = {name: staleness.visible_loads(conn, name) for name in offsets}
    scored, built = inputs[spec.predictions_dataset], inputs[spec.features_dataset]

    touched = _touched_by_outcomes(knowledge, spec, lineage, dataset, given, lag)
    stale = staleness.stale_after(dataset, given, inputs, offsets)
    stale += touched
    stale += _missing(dataset, scored.keys() & built.keys(), given, "was never given")
    stale += _after_pending(dataset, given, offsets, pending)
    if lineage.scope.is_narrow:
        # From the first touched day on: each verdict may change the next one.
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
    is_read = lineage.of(spec.label.relation)
    stale = []
    for day, as_of in knowledge.as_of(given).items():
        # Outcomes of the evaluated predictions are rows of their own day and of later ones.
        earliest = day + dt.timedelta(days=lag)
        versions = knowledge.touching(day, as_of, given[day], is_read)
        recent = [version for version in versions if version.day >= earliest]
        if recent:
            newest = recent[-1]
            reason = f"{newest.dataset} of {newest.day} came in later"
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
    missing = [day for day in days if day > first and day not in done]
    return [StalePartition(dataset, day, reason) for day in missing]


def _first_per_day(stale: Iterable[StalePartition]) -> list[StalePartition]:
    # The first reason that was found is the one that people see.
    by_day: dict[dt.date, StalePartition] = {}
    for part in stale:
        by_day.setdefault(part.day, part)
    return [by_day[day] for day in sorted(by_day)]
