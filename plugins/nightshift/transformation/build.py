"""Build the feature views of a partition range: complete look-back, one dbt run, audit, gate, one publication.

A view that fails takes no other view along: the rest is built once more without it, and published.
Source: docs/adr/0006-dbt-loads.md.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightshift.contracts.datasets import Delivery, read_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import AuditError, NightshiftError
from nightshift.warehouse import ledger
from nightshift.warehouse.connection import connect
from nightshift.warehouse.damage import refuse_damaged, version_records
from nightshift.warehouse.dbt.invocation import DbtError
from nightshift.warehouse.dbt.project import FeatureView, feature_views
from nightshift.warehouse.dbt.runner import ModelRun, ensure_relations, run_models
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PartitionWrite,
    PublishedLoad,
    Target,
    audit,
    begin,
    collect,
    publish,
    refuse,
)

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_SHOWN_HOLES = 10


class LookbackIncomplete(NightshiftError):  # noqa: N818  (a state of the data that passes, not a defect)
    """A drop that the look-back needs is not published yet; the night waits."""

    code = "NS-TRANSFORM-001"
    is_retryable = True
    is_waiting = True
    holes: tuple[tuple[str, dt.date], ...] = ()
    """Each dataset of the ledger with the day that it lacks."""


class InputsChangedError(NightshiftError):
    """A raw version that the build should have read was published while it ran."""

    code = "NS-TRANSFORM-003"
    is_retryable = True


class _BlamedError(Exception):
    """Some of several views failed; the others can do without them."""

    def __init__(self, names: Sequence[str], error: NightshiftError) -> None:
        self.names, self.error = names, error
        super().__init__(str(error))


class NoFeatureViewError(NightshiftError):
    """The dbt project has no feature view, so there is nothing to build."""

    code = "NS-TRANSFORM-004"


@dataclass(frozen=True)
class TransformResult:
    """What readers see after a build.

    Attributes:
        partitions: The partitions that were built.
        published: One entry per feature view and partition, as read back.
        models: What dbt says about each model.
        seconds: Wall-clock time of the whole build.
        failures: Why a view was not published, by its name; readers keep what they had of it.
    """

    partitions: PartitionRange
    published: tuple[PublishedLoad, ...]
    models: tuple[ModelRun, ...]
    seconds: float
    failures: Mapping[str, NightshiftError] = field(default_factory=dict)

    def require_all(self) -> TransformResult:
        """Return the result if every view was published.

        Raises:
            NightshiftError: One was not; its own error.
        """
        for error in self.failures.values():
            raise error
        return self

    @property
    def n_rows(self) -> int:
        """Return the rows that readers see, over all feature views and partitions."""
        return sum(load.n_rows for load in self.published)

    def summary(self) -> dict[str, Any]:
        """Return keys and counts for logs and XCom."""
        datasets = sorted({load.dataset for load in self.published})
        return {
            "partitions": str(self.partitions),
            "datasets": datasets,
            "n_rows": self.n_rows,
            "n_new_partitions": sum(load.is_new for load in self.published),
            "load_ids": sorted({load.load_id for load in self.published})[-3:],
            "seconds": round(self.seconds, 1),
            "failures": {
                name: f"{error.code}: {error.what}" for name, error in self.failures.items()
            },
        }


def build(settings: Settings, partitions: PartitionRange, run: RunContext) -> TransformResult:
    """Build and publish every feature view for a range, at once or night by night with equal content.

    A rerun builds again: equal content keeps the published load, other content under the same
    inputs is an error. A view whose model, audit or gate fails is left out, and named in the
    result; the other views are published.

    Args:
        settings: Warehouse, bucket, project.
        partitions: Both ends included; all of a view are published together or none.
        run: Who builds.

    Raises:
        NoFeatureViewError: The project has no feature view.
        LookbackIncomplete: A required drop is not published; the message names each.
        DamagedInputError: Raw rows of the look-back are not what was published.
        InputsChangedError: An input changed meanwhile.
        DbtError: No view is left, and a model failed.
        AuditError: No view is left, and a partition is empty or has repeated keys.
        GateError: No view is left, and an expectation suite failed.
        WarehouseError: The warehouse was away.
    """
    started = time.monotonic()
    views = feature_views(settings)
    if not views:
        raise _no_view(partitions)
    failures = _wrong_contracts(settings, views) | _broken_relations(settings, views)
    while remaining := [view for view in views if view.name not in failures]:
        try:
            published, models = _build_views(settings, remaining, partitions, run)
        except _BlamedError as blamed:
            failures |= dict.fromkeys(blamed.names, blamed.error)
        else:
            return TransformResult(
                partitions, published, models, time.monotonic() - started, failures
            )
    raise next(iter(failures.values()))


def _wrong_contracts(
    settings: Settings, views: Sequence[FeatureView]
) -> dict[str, NightshiftError]:
    """Return the views that read a dataset whose contract is wrong, with what is wrong.

    Such a view would miss tonight's rows of the dataset without a word; its models are rescued.
    """
    wrong = read_contracts(settings.datasets_dir).broken
    failures: dict[str, NightshiftError] = {}
    for view in views:
        unreadable = sorted(view.raw_datasets & wrong.keys())
        if unreadable:
            failures[view.name] = wrong[unreadable[0]]
    return failures


def _broken_relations(
    settings: Settings, views: Sequence[FeatureView]
) -> dict[str, NightshiftError]:
    """Make the project's relations, and return the views that could not be made, with why.

    Raises:
        DbtError: No view is to blame.
    """
    try:
        ensure_relations(settings)
    except DbtError as error:
        if not (broken := [view.name for view in views if view.table in error.models]):
            raise
        return dict.fromkeys(broken, error)
    return {}


def _build_views(
    settings: Settings, views: Sequence[FeatureView], partitions: PartitionRange, run: RunContext
) -> tuple[tuple[PublishedLoad, ...], tuple[ModelRun, ...]]:
    """Build some views together and publish them in one transaction.

    Raises:
        _BlamedError: Some of them failed; nothing was published.
    """
    targets = [_target(view) for view in views]
    with connect(settings, run.application_name) as conn:
        as_of, inputs = _read_inputs(conn, settings, partitions)
        _refuse_damaged_raw(conn, settings, partitions)
        write = begin(conn, targets, partitions, LoadManifest(run, inputs))
    try:
        models = run_models(
            settings, [view.table for view in views], _variables(write, as_of), run.application_name
        )
    except DbtError as error:
        raise _BlamedError(
            [view.name for view in views if view.table in error.models], error
        ) from error
    with connect(settings, run.application_name) as conn:
        _check(conn, settings, write, inputs, run, views)
        published = publish(conn, write)
        collect(conn, targets)
    return tuple(published), tuple(models)


def _no_view(partitions: PartitionRange) -> NoFeatureViewError:
    return NoFeatureViewError(
        "There is no feature view to build.",
        expected="at least one model under dbt_project/models/features",
        got=f"none for {partitions}",
        todo=f"Add one (docs/own-model.md, step 2), then rerun `nightshift backfill {partitions.first} {partitions.last}`.",
    )


def _target(view: FeatureView) -> Target:
    return Target(
        view.dataset, "features", view.table, (view.entity_key,), may_be_empty=view.may_be_empty
    )


def _variables(write: PartitionWrite, as_of: Mapping[Partition, dt.datetime]) -> dict[str, Any]:
    return {
        "load_id": write.load_id,
        "as_of": {partition.key: instant.isoformat() for partition, instant in as_of.items()},
    }


def _read_inputs(
    conn: Connection, settings: Settings, partitions: PartitionRange
) -> tuple[dict[Partition, dt.datetime], dict[str, str]]:
    """Return each partition's as-of and the digests of what it may read."""
    contracts = read_contracts(settings.datasets_dir).documents
    versions = ledger.raw_versions(conn, contracts.values(), partitions.last)
    if holes := ledger.missing_drops(contracts, versions, partitions):
        raise _lookback_incomplete(holes, partitions)
    as_of = ledger.as_of_by_partition(contracts, versions, partitions)
    return as_of, ledger.input_digests(versions, as_of)


def _refuse_damaged_raw(conn: Connection, settings: Settings, partitions: PartitionRange) -> None:
    """Refuse to build from raw versions whose rows vanished or changed since they were published.

    Raises:
        DamagedInputError: There is one in the look-back; the message names it.
    """
    for contract in read_contracts(settings.datasets_dir).documents.values():
        first = partitions.first.shift(-ledger.LOOKBACK_DAYS).day
        if contract.delivery is not Delivery.DAILY:
            first = contract.history_start
        records = version_records(conn, contract.dataset, first, partitions.last.day)
        refuse_damaged(
            conn,
            Target(contract.dataset, "raw", contract.name, contract.key, is_versioned=True),
            records,
        )


def _lookback_incomplete(
    holes: list[tuple[str, dt.date]], partitions: PartitionRange
) -> LookbackIncomplete:
    shown = ", ".join(f"{dataset} {day}" for dataset, day in holes[:_SHOWN_HOLES])
    more = f" and {len(holes) - _SHOWN_HOLES} more" if len(holes) > _SHOWN_HOLES else ""
    error = LookbackIncomplete(
        f"The look-back of {partitions} misses {len(holes)} drop(s): {shown}{more}.",
        expected=f"a published version of every daily dataset, {ledger.LOOKBACK_DAYS} days back",
        got=f"{len(holes)} without one",
        todo="Wait for upstream, or ingest the missing drops; the build then goes on by itself.",
    )
    error.holes = tuple(holes)
    return error


def _check(
    conn: Connection,
    settings: Settings,
    write: PartitionWrite,
    inputs: Mapping[str, str],
    run: RunContext,
    views: Sequence[FeatureView],
) -> None:
    """Audit and gate the staged rows; record why if they are refused.

    Raises:
        InputsChangedError: The inputs changed.
        _BlamedError: The audit or the gate of some views failed.
    """
    names = {view.dataset: view.name for view in views}
    try:
        if _read_inputs(conn, settings, write.partitions)[1] != inputs:
            raise InputsChangedError(
                "A raw version was published while the build ran.",
                todo="Rerun the task; nothing was published.",
            )
        try:
            audit(conn, write)
        except AuditError as error:
            blamed = [name for dataset, name in names.items() if f"{dataset} has " in error.what]
            raise _BlamedError(blamed or list(names.values()), error) from error
        for target in write.targets:
            _pass_gate(settings, target, write, run, names[target.dataset])
    except _BlamedError as blamed:
        refuse(conn, write, f"{blamed.error.code}: {blamed.error.what}")
        raise
    except NightshiftError as error:
        refuse(conn, write, f"{error.code}: {error.what}")
        raise


def _pass_gate(
    settings: Settings, target: Target, write: PartitionWrite, run: RunContext, view: str
) -> None:
    from nightshift.quality.gate_errors import GateError
    from nightshift.quality.gates import run_gate

    try:
        run_gate(
            settings,
            target.dataset,
            target.schema,
            target.table,
            write.load_id,
            write.partitions,
            run,
        )
    except GateError as error:
        raise _BlamedError([view], error) from error
