"""What a plan rests on: code, specs, drops, raw versions, champions and pointers, each by name.

A fact is a mapping of keys to digests or load ids. A plan is stale as soon as one differs from what
it was. Changes that a killed application of the same plan made itself do not count.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.datasets import daily_contracts, load_contracts
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import code_version
from nightshift.ingestion.late_arrivals import find_late_drops
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring.trigger import loss_lag_days
from nightshift.plans.plan import Facts, Step
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

Fact = dict[str, str]

# Names of the facts, as a person reads them when a plan is refused.
CODE = "code"
DROPS = "landed drops"
RAW = "raw versions"
CHAMPIONS = "champions"
POINTERS = "pointers"
_SUFFIXES = (".yaml", ".yml", ".sql", ".json", ".csv")


@dataclass(frozen=True)
class PlanScope:
    """What a plan reads and writes.

    Attributes:
        days: Its partitions, from the first to the last.
        pointers: Datasets of the ledger, each with first and last day, that it writes or reads.
        models: Models whose champion it asks for.
    """

    days: PartitionRange
    pointers: frozenset[tuple[str, dt.date, dt.date]]
    models: frozenset[str]


def scope_of(settings: Settings, work: Iterable[Step]) -> PlanScope:
    """Return what some steps read and write; the feature views are read by all of them."""
    steps = list(work)
    first = min(step.first for step in steps)
    last = max(step.last for step in steps)
    specs = load_specs(settings.models_dir)
    datasets = {spec.features_dataset for spec in specs.values()}
    earlier = set()
    models = set()
    for step in steps:
        # The views stand in there already.
        if step.stage == "transform":
            continue
        datasets.add(step.dataset)
        if step.stage != "ingest":
            models.add(step.name)
        if step.stage == "monitor":
            # A verdict judges its day, and the earlier one whose predictions mature now.
            spec = specs[step.name]
            datasets.add(spec.predictions_dataset)
            lag = dt.timedelta(days=loss_lag_days(spec))
            for dataset in (spec.features_dataset, spec.predictions_dataset):
                earlier.add((dataset, step.first - lag, step.last - lag))
    days = PartitionRange(Partition(first), Partition(last))
    own_days = {(dataset, first, last) for dataset in datasets}
    return PlanScope(days, frozenset(own_days | earlier), frozenset(models))


def read_facts(
    settings: Settings,
    conn: Connection,
    work: Iterable[Step],
) -> Facts:
    """Return the facts that some steps rest on, as they are now.

    Args:
        settings: Warehouse, lake and project.
        conn: Any connection of the warehouse.
        work: The steps that run.
    """
    scope = scope_of(settings, work)
    facts: dict[str, Fact] = {}
    facts[CODE] = {"version": code_version()}
    # The code's version may be pinned by an image; these folders may not be of it.
    facts["specs and contracts"] = _files(settings.dags_dir)
    facts["dbt project"] = _files(settings.dbt_project_dir)
    facts["suites"] = _files(settings.expectations_dir)
    facts[DROPS] = _drops(settings, conn, scope)
    facts[RAW] = _raw_versions(settings, conn, scope)
    facts[CHAMPIONS] = _champions(conn, scope)
    facts[POINTERS] = _pointers(conn, scope)
    return facts


def _files(folder: Path) -> Fact:
    """Return the digest of each file that says what is computed."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        # What dbt writes next to its models is no input.
        if path.suffix in _SUFFIXES and "target" not in path.parts:
            name = str(path.relative_to(folder))
            digests[name] = sha256(path.read_bytes()).hexdigest()
    return digests


def _drops(
    settings: Settings,
    conn: Connection,
    scope: PlanScope,
) -> Fact:
    """Return the drops that landed and are not loaded, of the days that the partitions read."""
    store = ObjectStore.open(settings)
    digests = {}
    first = scope.days.first.shift(-lookback_days())
    for contract in load_contracts(settings.datasets_dir).values():
        begin = max(first.day, contract.history_start)
        if begin > scope.days.last.day:
            continue
        zone = contract.timezone
        last = Partition(scope.days.last.day, zone)
        days = PartitionRange(Partition(begin, zone), last)
        for drop in find_late_drops(conn, store, contract.name, days):
            digests[drop.data_key] = drop.sha256
    return digests


def _raw_versions(
    settings: Settings,
    conn: Connection,
    scope: PlanScope,
) -> Fact:
    """Return the raw versions that the partitions may read; reference data of all days before."""
    contracts = load_contracts(settings.datasets_dir).values()
    daily = [contract.dataset for contract in daily_contracts(contracts)]
    first = scope.days.first.shift(-lookback_days())
    rows = conn.execute(
        """
        select dataset, partition_date, load_id, content_hash
        from ops.raw_versions
        where partition_date <= %s and (partition_date >= %s or dataset <> all(%s::text[]))
        """,
        [scope.days.last.day, first.day, daily],
    )
    return {f"{dataset} {day} load {load}": str(content) for dataset, day, load, content in rows}


def _champions(conn: Connection, scope: PlanScope) -> Fact:
    """Return the standing decisions about who serves."""
    rows = conn.execute(
        """
        select model || ' record ' || promotion_id, 'version ' || version from ml.succession
        where model = any(%(models)s)
        union all
        -- Who gets a share alongside them, from when until when.
        select
            model || ' record ' || promotion_id,
            'canary ' || version || ' until ' || coalesce(last_partition::text, 'it is returned')
        from ml.canaries where model = any(%(models)s)
        """,
        {"models": list(scope.models)},
    )
    return dict(rows.fetchall())


def _pointers(conn: Connection, scope: PlanScope) -> Fact:
    # Ranges of a dataset may overlap: a mapping has each of its days once.
    datasets, firsts, lasts = zip(*scope.pointers, strict=True)
    rows = conn.execute(
        """
        select p.dataset || ' ' || p.partition_date, p.load_id::text
        from ops.published p
        join unnest(%s::text[], %s::date[], %s::date[]) as r (dataset, first, last)
            on p.dataset = r.dataset and p.partition_date between r.first and r.last
        """,
        [list(datasets), list(firsts), list(lasts)],
    )
    return dict(rows.fetchall())


def changes(
    conn: Connection,
    planned: Facts,
    now: Facts,
    run_id: str,
) -> list[str]:
    """Return what differs from the plan, one line each; what the plan's own run made is left out.

    Args:
        conn: Any connection.
        planned: The facts of the plan.
        now: The facts as they are.
        run_id: The run that applies the plan.
    """
    own = own_changes(conn, run_id)
    lines = []
    for name, before in planned.items():
        after = now.get(name, {})
        for key in sorted(before.keys() | after.keys()):
            old, new = before.get(key), after.get(key)
            if old == new or _is_own(own, name, key, new):
                continue
            lines.append(f"{name}: {key}: {old or 'not there'} then, {new or 'not there'} now")
    return lines


@dataclass(frozen=True)
class OwnChanges:
    """What a run wrote: load ids, partitions, the keys of its drops, and its decisions."""

    loads: frozenset[str]
    partitions: frozenset[str]
    drops: frozenset[str]
    decisions: frozenset[str]


def own_changes(conn: Connection, run_id: str) -> OwnChanges:
    """Return what the run of a plan has changed itself."""
    loads = conn.execute(_OWN_LOADS, [run_id]).fetchall()
    drops = conn.execute(
        """
        select d.source_uri from raw.ingested_drops d
        where d.load_id in (select load_id from ops.loads where run_id = %s)
        """,
        [run_id],
    )
    query = "select promotion_id::text from ml.promotions where run_id = %s"
    decisions = conn.execute(query, [run_id])
    return OwnChanges(
        frozenset(load for load, _ in loads),
        frozenset(partition for _, partition in loads),
        # The record has the key with its bucket.
        frozenset(uri.split("/", 3)[3] for (uri,) in drops),
        frozenset(decision for (decision,) in decisions),
    )


_OWN_LOADS = """
select load_id::text, dataset || ' ' || partition_date from ops.loads where run_id = %s
"""


def _is_own(
    own: OwnChanges,
    name: str,
    key: str,
    new: str | None,
) -> bool:
    """Return whether a changed fact is the work of the plan's own run."""
    if name == POINTERS:
        return new in own.loads
    if name == RAW:
        partition, _, load = key.rpartition(" load ")
        # A new delivery can also settle an older reading of its day as equal.
        return load in own.loads or (new is None and partition in own.partitions)
    if name == DROPS:
        # A drop that is not late any more.
        return new is None and key in own.drops
    if name == CHAMPIONS and own.decisions:
        # A rollback of this run revokes decisions, too.
        return new is None or key.rpartition(" record ")[2] in own.decisions
    return False
