"""What is late, what it touches, and what cannot be done: looked up, never written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import DatasetContract, Delivery, load_contracts
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.ingestion.late_arrivals import late_drops
from nightshift.ingestion.raw_load import contract_digest
from nightshift.lake.drops import list_undelivered
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.outcomes import evaluated_partition
from nightshift.warehouse import staleness
from nightshift.warehouse.dbt_compiled import raw_lineage
from nightshift.warehouse.ledger import RawVersion, lookback_of, raw_versions
from nightshift.warehouse.staleness import CompletedLoad, Counts, RawKnowledge, StalePartition

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.lake.drops import DropManifest
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

FAR = dt.date(9999, 1, 1)


@dataclass(frozen=True)
class Scope:
    """Which drops a redo takes, and so which nights: those that may read them.

    Attributes:
        dataset: Name of one contract; empty takes all.
        first: First operating day of the drops; None begins with the history.
        last: Last one, included; None takes all that landed.
        reread: Take drops too that were read under another contract than today's.
    """

    dataset: str = ""
    first: dt.date | None = None
    last: dt.date | None = None
    reread: bool = False

    def range_of(self, contract: DatasetContract) -> PartitionRange | None:
        """Return the days of a dataset to look at; None leaves it out."""
        first, last = (
            max(self.first or contract.history_start, contract.history_start),
            self.last or FAR,
        )
        if self.dataset not in ("", contract.name) or last < first:
            return None
        return PartitionRange(
            Partition(first, contract.timezone), Partition(last, contract.timezone)
        )

    @property
    def is_narrow(self) -> bool:
        """Return whether some drops are left out."""
        return bool(self.dataset or self.first or self.last)

    def takes(self, version: RawVersion) -> bool:
        """Return whether a version is of one of the drops."""
        is_dataset = self.dataset == "" or version.dataset == f"raw/{self.dataset}"
        return is_dataset and (self.first or dt.date.min) <= version.day <= (self.last or FAR)


@dataclass(frozen=True)
class Lineage:
    """Which raw datasets the models of the project read.

    Attributes:
        by_model: Names in the ledger, by dbt model; a model that is not there may read everything.
        scope: Which drops count.
    """

    by_model: Mapping[str, frozenset[str]]
    scope: Scope

    def of(self, model: str) -> Counts:
        """Return whether a version counts for a model: it is in the scope, and the model reads its dataset."""
        read = self.by_model.get(model)
        return lambda version: (
            self.scope.takes(version) and (read is None or version.dataset in read)
        )


@dataclass(frozen=True)
class MissingDrop:
    """A drop that was due and is not in.

    Attributes:
        dataset: Name of the contract.
        day: Its operating day.
        why: What there is instead.
        n_nights: Nights with features, or due for them, that wait for it.
    """

    dataset: str
    day: dt.date
    why: str
    n_nights: int


@dataclass(frozen=True)
class ReprocessPlan:
    """What is to be done, in this order, and what a person should know.

    Attributes:
        late: Drops that landed and are not in.
        features: Nights to build.
        predictions: Nights to score, by model.
        verdicts: Nights to measure, by model.
        holes: Drops that upstream still owes.
        notes: What is left alone: trainings, columns that nobody adopted.
    """

    late: tuple[DropManifest, ...]
    features: tuple[StalePartition, ...]
    predictions: tuple[StalePartition, ...]
    verdicts: tuple[StalePartition, ...]
    holes: tuple[MissingDrop, ...]
    notes: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Return whether nothing is to be done."""
        return not (self.late or self.features or self.predictions or self.verdicts)


def make_plan(settings: Settings, conn: Connection, scope: Scope) -> ReprocessPlan:
    """Return what is late and all that it may touch; a late drop counts as if it changed everything that may read it.

    Args:
        settings: Lake, contracts and specs.
        conn: Any connection to the warehouse.
        scope: Which drops.
    """
    contracts, store = load_contracts(settings.datasets_dir), ObjectStore.open(settings)
    ranges = {
        name: days for name, contract in contracts.items() if (days := scope.range_of(contract))
    }
    digests = {
        name: contract_digest(contract) if scope.reread else None
        for name, contract in contracts.items()
    }
    late = [
        drop
        for name, days in ranges.items()
        for drop in late_drops(conn, store, name, days, digests[name])
    ]
    knowledge = read_knowledge(settings, conn, late)
    specs = list(load_specs(settings.models_dir).values())
    lineage = Lineage(raw_lineage(settings), scope)
    features = find_features(conn, knowledge, specs, lineage)
    only = {stale.day for stale in features} if scope.is_narrow else None
    predictions = find_predictions(conn, specs, features, only)
    return ReprocessPlan(
        tuple(late),
        tuple(features),
        tuple(predictions),
        tuple(find_verdicts(conn, knowledge, specs, lineage, [*features, *predictions])),
        tuple(_holes(conn, store, knowledge, ranges)),
        (*_trainings(conn, [stale.day for stale in features]), *_unadopted(conn)),
    )


def read_knowledge(
    settings: Settings, conn: Connection, late: Sequence[DropManifest] = ()
) -> RawKnowledge:
    """Return what every night may know, with late drops as if they were in."""
    contracts = load_contracts(settings.datasets_dir)
    versions = raw_versions(conn, contracts.values(), Partition(FAR))
    versions += [
        RawVersion(f"raw/{drop.dataset}", drop.partition, -n, drop.delivered_at, None, "")
        for n, drop in enumerate(late, 1)
    ]
    return RawKnowledge(contracts, versions, staleness.versions_done(conn))


def find_features(
    conn: Connection, knowledge: RawKnowledge, specs: Iterable[ModelSpec], lineage: Lineage
) -> list[StalePartition]:
    """Return the nights whose features miss something, or were never built although they can be.

    Args:
        conn: Any connection.
        knowledge: Raw versions.
        specs: The models.
        lineage: Which versions count for each view.
    """
    found: dict[dt.date, StalePartition] = {}
    for dataset, table in sorted({(spec.features_dataset, spec.feature_table) for spec in specs}):
        built = staleness.last_done(conn, dataset)
        counts = lineage.of(table)
        for stale in staleness.stale_features(
            knowledge, dataset, built, _nights(knowledge), counts
        ):
            found.setdefault(stale.day, stale)
    return [found[day] for day in sorted(found)]


def _nights(knowledge: RawKnowledge) -> list[dt.date]:
    """Return every day from the first to the last that any daily dataset has."""
    daily = {
        contract.dataset
        for contract in knowledge.contracts.values()
        if contract.delivery is Delivery.DAILY
    }
    days = {version.day for version in knowledge.versions if version.dataset in daily}
    return PartitionRange(Partition(min(days)), Partition(max(days))).days if days else []


def find_predictions(
    conn: Connection,
    specs: Iterable[ModelSpec],
    cascade: Iterable[StalePartition] = (),
    only: Collection[dt.date] | None = None,
) -> list[StalePartition]:
    """Return the nights whose predictions are older than their features, or missing although the model was in service.

    Args:
        conn: Any connection.
        specs: The models.
        cascade: Features that are to be built first.
        only: The nights of a narrow scope; None takes all.
    """
    rebuilt, found = {stale.day for stale in cascade}, []
    for spec in specs:
        scored, features = (
            staleness.last_done(conn, spec.predictions_dataset),
            staleness.pointed(conn, spec.features_dataset),
        )
        stale = staleness.stale_after(
            spec.predictions_dataset,
            scored,
            {spec.features_dataset: features},
            {spec.features_dataset: [0]},
        )
        first = min(scored, default=FAR)
        stale += [
            StalePartition(spec.predictions_dataset, day, "were never made")
            for day in (features.keys() | rebuilt) - scored.keys()
            if day > first
        ]
        stale += [
            StalePartition(spec.predictions_dataset, day, "if the features change")
            for day in rebuilt & scored.keys()
        ]
        found += _first_reason(one for one in stale if only is None or one.day in only)
    return found


def find_verdicts(
    conn: Connection,
    knowledge: RawKnowledge,
    specs: Iterable[ModelSpec],
    lineage: Lineage,
    cascade: Iterable[StalePartition] = (),
    remade: Iterable[StalePartition] = (),
) -> list[StalePartition]:
    """Return the nights whose verdict is older than what it judged, or missing although the model was watched.

    Args:
        conn: Any connection.
        knowledge: Raw versions: a corrected outcome that a night may know changes its verdict.
        specs: The models.
        lineage: Which versions count for each label; a narrow scope leaves verdicts before the
            first night that it touches.
        cascade: Features and predictions that are to be made first.
        remade: Those that were made just now: where a narrow scope begins.
    """
    cascade, remade = list(cascade), list(remade)
    redone = {(stale.dataset, stale.day) for stale in cascade}
    found: list[StalePartition] = []
    for spec in specs:
        name, back = (
            f"monitoring/{spec.name}",
            (evaluated_partition(spec, Partition(FAR)).day - FAR).days,
        )
        needs = {
            spec.features_dataset: [0, back],
            spec.predictions_dataset: [0, back],
            name: list(range(1 - spec.monitoring.windows.m, 0)),
        }
        judged = staleness.last_done(conn, name)
        inputs = {dataset: staleness.pointed(conn, dataset) for dataset in needs}
        counts = lineage.of(spec.label.relation)
        touched = _touched_by_outcomes(knowledge, name, judged, back, counts)
        stale = staleness.stale_after(name, judged, inputs, needs) + touched
        first, both = (
            min(judged, default=FAR),
            inputs[spec.predictions_dataset].keys() & inputs[spec.features_dataset].keys(),
        )
        stale += [
            StalePartition(name, day, "was never given")
            for day in both - judged.keys()
            if day > first
        ]
        stale += [
            StalePartition(name, day, f"if {dataset} of {day + dt.timedelta(days=offset)} changes")
            for dataset in (spec.features_dataset, spec.predictions_dataset)
            for offset in needs[dataset]
            for day in judged
            if (dataset, day + dt.timedelta(days=offset)) in redone
        ]
        if lineage.scope.is_narrow:
            begin = min((one.day for one in [*cascade, *remade, *touched]), default=FAR)
            stale = [one for one in stale if one.day >= begin]
        found += _first_reason(stale)
    return found


def _touched_by_outcomes(
    knowledge: RawKnowledge,
    name: str,
    judged: dict[dt.date, CompletedLoad],
    back: int,
    counts: Counts,
) -> list[StalePartition]:
    """Return verdicts for which a version of the days between prediction and verdict came in later."""
    found = []
    for day, as_of in knowledge.as_of(judged).items():
        earliest = day + dt.timedelta(days=back)
        touching = knowledge.touching(day, as_of, judged[day], counts)
        if versions := [version for version in touching if version.day >= earliest]:
            found.append(
                StalePartition(
                    name, day, f"{versions[-1].dataset} of {versions[-1].day} came in later"
                )
            )
    return found


def _first_reason(stale: Iterable[StalePartition]) -> list[StalePartition]:
    by_day: dict[dt.date, StalePartition] = {}
    for one in stale:
        by_day.setdefault(one.day, one)
    return [by_day[day] for day in sorted(by_day)]


def _holes(
    conn: Connection, store: ObjectStore, knowledge: RawKnowledge, ranges: dict[str, PartitionRange]
) -> list[MissingDrop]:
    """Return the drops that were due by the newest day of any daily dataset, and that did not even land."""
    present = {(version.dataset, version.day) for version in knowledge.versions}
    nights = _nights(knowledge)
    missing = [
        (name, day)
        for name, days in ranges.items()
        if knowledge.contracts[name].delivery is Delivery.DAILY
        for day in nights
        if days.first.day <= day <= days.last.day and (f"raw/{name}", day) not in present
    ]
    refused = {
        (dataset, day): code
        for dataset, day, code in conn.execute(
            "select dataset, partition_date, code from quarantine.refused_drops"
        )
    }
    waiting = {
        (name, day): sum(
            day in lookback_of(knowledge.contracts[name], Partition(night)) for night in nights
        )
        for name, day in missing
    }
    halfway = {
        (name, day)
        for name, day in missing
        if list_undelivered(store, name, PartitionRange.single(Partition(day)))
    }
    return [
        MissingDrop(
            name,
            day,
            f"refused with {refused[f'raw/{name}', day]}"
            if (f"raw/{name}", day) in refused
            else "a file without a manifest"
            if (name, day) in halfway
            else "nothing landed",
            waiting[name, day],
        )
        for name, day in missing
    ]


def _trainings(conn: Connection, days: Sequence[dt.date]) -> list[str]:
    """Say which models learnt from nights that are done again; training is decided by schedule and evidence, not by a redo."""
    rows = conn.execute(
        """
        select model, max(partition_date)::text, count(*) from ml.training_sets
        where exists (select from unnest(%s::date[]) d where d between first_day and last_day) group by model order by model
        """,
        [list(days)],
    )
    return [
        f"{model}: {n} training set(s), the last of {day}, hold such nights; nothing is retrained by this"
        for model, day, n in rows
    ]


def _unadopted(conn: Connection) -> list[str]:
    rows = conn.execute(
        """
        select d.dataset, note, min(d.partition_date), max(d.partition_date), count(*)
        from raw.ingested_drops d join ops.published p using (dataset, partition_date, load_id), unnest(d.notes) note
        group by 1, 2 order by 1, 2
        """
    )
    return [
        f"{dataset}: {note}, {n} drop(s) from {first} to {last}; adopt it? nightshift contract diff {dataset.removeprefix('raw/')} {last}"
        for dataset, note, first, last, n in rows
    ]
