"""Build the feature views of a partition range: check the look-back, run dbt, audit, publish.

A view that fails does not stop the rest: they are built once more without it, and published.
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
from nightshift.errors import AuditError, NightshiftError, RowsAlteredError
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
    refuse_alterations,
)

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_MAX_SHOWN = 10


# A state of the data that passes, not a defect.
class LookbackIncomplete(NightshiftError):  # noqa: N818
    """A drop that the look-back needs is not published yet; the task waits for it."""

    code = "NS-TRANSFORM-001"
    is_retryable = True
    is_waiting = True
    holes: tuple[tuple[str, dt.date], ...] = ()
    """The missing drops: dataset in the ledger, and day."""


class InputsChangedError(NightshiftError):
    """A raw version that the build should have read was published while it ran."""

    code = "NS-TRANSFORM-003"
    is_retryable = True


class _ViewsFailedError(Exception):
    """Some feature views failed; the rest can be built without them."""

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
        models: What dbt reports on each model.
        seconds: Wall-clock time of the whole build.
        failures: Why a view was not published, by its name; readers keep its old rows.
    """

    partitions: PartitionRange
    published: tuple[PublishedLoad, ...]
    models: tuple[ModelRun, ...]
    seconds: float
    failures: Mapping[str, NightshiftError] = field(default_factory=dict)

    def require_all(self) -> TransformResult:
        """Return the result if every view was published.

        Raises:
            NightshiftError: The error of a view that was not.
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
        return {
            "partitions": str(self.partitions),
            "datasets": sorted({load.dataset for load in self.published}),
            "n_rows": self.n_rows,
            "n_new_partitions": sum(load.is_new for load in self.published),
            "load_ids": sorted({load.load_id for load in self.published})[-3:],
            "seconds": round(self.seconds, 1),
            "failures": {
                name: f"{error.code}: {error.what}" for name, error in self.failures.items()
            },
        }


def build(settings: Settings, partitions: PartitionRange, run: RunContext) -> TransformResult:
    """Build and publish every feature view for a range; the content does not depend on the range.

    A rerun builds again: equal content keeps the published load, other content from the same inputs
    is an error. A view whose model, audit or gate fails is left out, and named in the result; the
    other views are published.

    Args:
        settings: Warehouse, bucket, project.
        partitions: Both ends included; all of a view are published together or none.
        run: The run that builds.

    Raises:
        NoFeatureViewError: The project has no feature view.
        LookbackIncomplete: A required drop is not published; the message names each.
        DamagedInputError: Raw rows of the look-back differ from what was published.
        InputsChangedError: An input changed while the build ran.
        DbtError: No view is left, and a model failed.
        AuditError: No view is left, and a partition is empty or has repeated keys.
        GateError: No view is left, and an expectation suite failed.
        WarehouseError: The warehouse was away.
    """
    started = time.monotonic()
    views = feature_views(settings)
    if not views:
        first, last = partitions.first, partitions.last
        raise NoFeatureViewError(
            "There is no feature view to build.",
            expected="at least one model under dbt_project/models/features",
            got=f"none for {partitions}",
            todo="Add one (docs/own-model.md, step 2),"
            f" then rerun `nightshift backfill {first} {last}`.",
        )
    # Views that cannot work are left out before the first run.
    failures = _wrong_contracts(settings, views) | _broken_relations(settings, views)
    failures |= _altered_tables(settings, views, run)
    while remaining := [view for view in views if view.name not in failures]:
        try:
            published, models = _build_views(settings, remaining, partitions, run)
        except _ViewsFailedError as failed:
            # The rest is built once more without them. Every round has fewer views.
            failures |= dict.fromkeys(failed.names, failed.error)
        else:
            seconds = time.monotonic() - started
            return TransformResult(partitions, published, models, seconds, failures)
    raise next(iter(failures.values()))


def _wrong_contracts(
    settings: Settings, views: Sequence[FeatureView]
) -> dict[str, NightshiftError]:
    """Return the views that read a dataset whose contract is wrong, with the problem.

    Such a view would silently lack the dataset's newest rows.
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
    """Create the project's relations; return the views that could not be created, with the error.

    Raises:
        DbtError: It concerns no view.
    """
    try:
        ensure_relations(settings)
    except DbtError as error:
        broken = _views_of(error, views)
        if not broken:
            raise
        return dict.fromkeys(broken, error)
    return {}


def _altered_tables(
    settings: Settings, views: Sequence[FeatureView], run: RunContext
) -> dict[str, NightshiftError]:
    """Return the views whose rows a trigger or rule of others may change, with the error."""
    failures: dict[str, NightshiftError] = {}
    with connect(settings, run.application_name) as conn:
        for view in views:
            try:
                refuse_alterations(conn, [_target(view)])
            except RowsAlteredError as error:
                failures[view.name] = error
    return failures


def _views_of(error: DbtError, views: Sequence[FeatureView]) -> list[str]:
    return [view.name for view in views if view.table in error.models]


def _build_views(
    settings: Settings, views: Sequence[FeatureView], partitions: PartitionRange, run: RunContext
) -> tuple[tuple[PublishedLoad, ...], tuple[ModelRun, ...]]:
    """Build some views together and publish them in one transaction.

    Raises:
        _ViewsFailedError: Some of them failed; nothing was published.
    """
    targets = [_target(view) for view in views]
    with connect(settings, run.application_name) as conn:
        as_of, inputs = _read_inputs(conn, settings, partitions)
        _refuse_damaged_raw(conn, settings, partitions)
        write = begin(conn, targets, partitions, LoadManifest(run, inputs))
    # No connection stays open while dbt runs, which takes minutes.
    variables = {
        "load_id": write.load_id,
        "as_of": {partition.key: instant.isoformat() for partition, instant in as_of.items()},
    }
    try:
        tables = [view.table for view in views]
        models = run_models(settings, tables, variables, run.application_name)
    except DbtError as error:
        raise _ViewsFailedError(_views_of(error, views), error) from error
    with connect(settings, run.application_name) as conn:
        _check(conn, settings, write, inputs, run, views)
        _compare_stored(conn, write, views, models)
        published = publish(conn, write)
        # What refused and abandoned attempts left behind.
        collect(conn, targets)
    return tuple(published), tuple(models)


def _target(view: FeatureView) -> Target:
    key = (view.entity_key,)
    return Target(view.dataset, "features", view.table, key, may_be_empty=view.may_be_empty)


def _read_inputs(
    conn: Connection, settings: Settings, partitions: PartitionRange
) -> tuple[dict[Partition, dt.datetime], dict[str, str]]:
    """Return each partition's as-of and the digests of what it may read.

    Raises:
        LookbackIncomplete: A drop of the look-back is not published.
    """
    contracts = read_contracts(settings.datasets_dir).documents
    versions = ledger.raw_versions(conn, contracts.values(), partitions.last)
    missing = ledger.missing_drops(contracts, versions, partitions)
    if missing:
        raise _lookback_incomplete(missing, partitions)
    as_of = ledger.as_of_by_partition(contracts, versions, partitions)
    return as_of, ledger.input_digests(versions, as_of)


def _lookback_incomplete(
    missing: list[tuple[str, dt.date]], partitions: PartitionRange
) -> LookbackIncomplete:
    shown = ", ".join(f"{dataset} {day}" for dataset, day in missing[:_MAX_SHOWN])
    if len(missing) > _MAX_SHOWN:
        shown += f" and {len(missing) - _MAX_SHOWN} more"
    error = LookbackIncomplete(
        f"The look-back of {partitions} misses {len(missing)} drop(s): {shown}.",
        expected=f"a published version of every daily dataset, {ledger.lookback_days()} days back",
        got=f"{len(missing)} without one",
        todo="Wait for upstream, or ingest the missing drops; the build then continues by itself.",
    )
    error.holes = tuple(missing)
    return error


def _refuse_damaged_raw(conn: Connection, settings: Settings, partitions: PartitionRange) -> None:
    """Refuse to build from raw versions whose rows vanished or changed since they were published.

    Raises:
        DamagedInputError: There is one in the look-back; the message names it.
    """
    for contract in read_contracts(settings.datasets_dir).documents.values():
        first = contract.history_start
        if contract.delivery is Delivery.DAILY:
            first = partitions.first.shift(-ledger.lookback_days()).day
        records = version_records(conn, contract.dataset, first, partitions.last.day)
        target = Target(contract.dataset, "raw", contract.name, contract.key, is_versioned=True)
        refuse_damaged(conn, target, records)


def _check(
    conn: Connection,
    settings: Settings,
    write: PartitionWrite,
    inputs: Mapping[str, str],
    run: RunContext,
    views: Sequence[FeatureView],
) -> None:
    """Audit and gate the staged rows; record the reason if they are refused.

    Raises:
        InputsChangedError: The inputs changed.
        _ViewsFailedError: The audit or the gate of some views failed.
    """
    try:
        _, inputs_now = _read_inputs(conn, settings, write.partitions)
        # The models of one run read at different times: their rows would mix two states.
        if inputs_now != inputs:
            raise InputsChangedError(
                "A raw version was published while the build ran.",
                todo="Rerun the task; nothing was published.",
            )
        _audit(conn, write, views)
        _run_gates(settings, write, run, views)
    except (_ViewsFailedError, NightshiftError) as failure:
        error = failure.error if isinstance(failure, _ViewsFailedError) else failure
        refuse(conn, write, f"{error.code}: {error.what}")
        raise


def _audit(conn: Connection, write: PartitionWrite, views: Sequence[FeatureView]) -> None:
    try:
        audit(conn, write)
    except AuditError as error:
        # The audit checks all views at once: its message names the dataset.
        failed = [view.name for view in views if f"{view.dataset} has " in error.what]
        raise _ViewsFailedError(failed or [view.name for view in views], error) from error


def _compare_stored(
    conn: Connection,
    write: PartitionWrite,
    views: Sequence[FeatureView],
    models: Sequence[ModelRun],
) -> None:
    """Refuse views that lost rows after the server had reported them as stored.

    Raises:
        _ViewsFailedError: A trigger, or somebody, deleted them before the audit counted.
    """
    query = "select dataset, sum(n_rows) from ops.loads where load_id = %s group by dataset"
    audited: dict[str, int] = dict(conn.execute(query, [write.load_id]).fetchall())
    stored = {model.model: model.n_rows for model in models}
    for view in views:
        n_stored, n_audited = stored.get(view.table), audited.get(view.dataset)
        if n_stored is None or n_stored == n_audited:
            continue
        error = AuditError(
            f"{view.dataset} has {n_audited} rows, not the {n_stored} that dbt stored.",
            expected="every stored row",
            got=f"{n_audited} rows in load {write.load_id}",
            todo="Nothing was published. Find what deletes or copies rows of features."
            f"{view.table} (a trigger?), then rerun the task.",
        )
        refuse(conn, write, f"{error.code}: {error.what}")
        raise _ViewsFailedError([view.name], error)


def _run_gates(
    settings: Settings, write: PartitionWrite, run: RunContext, views: Sequence[FeatureView]
) -> None:
    from nightshift.quality.gate_errors import GateError
    from nightshift.quality.gates import run_gate

    for view in views:
        rows = (view.dataset, "features", view.table, write.load_id, write.partitions)
        try:
            run_gate(settings, *rows, run)
        except GateError as error:
            raise _ViewsFailedError([view.name], error) from error
