"""Build the feature views of a partition range: complete look-back, one dbt run, audit, gate, one publication."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.warehouse import ledger
from nightshift.warehouse.connection import connect
from nightshift.warehouse.dbt_runner import FeatureView, ModelRun, ensure_relations, feature_views, run_models
from nightshift.warehouse.partition_write import LoadManifest, PartitionWrite, PublishedLoad, Target, audit, begin, collect, publish, refuse

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_SHOWN_HOLES = 10


class LookbackIncomplete(NightshiftError):  # noqa: N818  (a state of the data that passes, not a defect)
    """A drop that the look-back needs is not published yet; the night waits."""

    code = "NS-TRANSFORM-001"
    is_retryable = True
    is_waiting = True


class InputsChangedError(NightshiftError):
    """A raw version that the build should have read was published while it ran."""

    code = "NS-TRANSFORM-003"
    is_retryable = True


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
    """

    partitions: PartitionRange
    published: tuple[PublishedLoad, ...]
    models: tuple[ModelRun, ...]
    seconds: float

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
        }


def build(settings: Settings, partitions: PartitionRange, run: RunContext) -> TransformResult:
    """Build and publish every feature view for a range, at once or night by night with equal content.

    A rerun builds again: equal content keeps the published load, other content under the same inputs is an error.

    Args:
        settings: Warehouse, bucket, project.
        partitions: Both ends included; all are published together or none.
        run: Who builds.

    Raises:
        NoFeatureViewError: The project has no feature view.
        LookbackIncomplete: A required drop is not published; the message names each.
        InputsChangedError: An input changed meanwhile.
        DbtError: A model failed.
        AuditError: A partition is empty or has repeated keys.
        GateError: The expectation suite of a feature view failed.
    """
    started = time.monotonic()
    ensure_relations(settings)
    views = feature_views(settings)
    if not views:
        raise _no_view(partitions)
    targets = [_target(view) for view in views]
    with connect(settings, run.application_name) as conn:
        as_of, inputs = _read_inputs(conn, settings, partitions)
        write = begin(conn, targets, partitions, LoadManifest(run, inputs))
    models = run_models(settings, [view.table for view in views], _variables(write, as_of), run.application_name)
    with connect(settings, run.application_name) as conn:
        _check(conn, settings, write, inputs, run)
        published = publish(conn, write)
        collect(conn, targets)
    return TransformResult(partitions, tuple(published), tuple(models), time.monotonic() - started)


def _no_view(partitions: PartitionRange) -> NoFeatureViewError:
    return NoFeatureViewError(
        "There is no feature view to build.",
        expected="at least one model under dbt_project/models/features",
        got=f"none for {partitions}",
        todo=f"Add one (docs/own-model.md, step 2), then rerun `nightshift backfill {partitions.first} {partitions.last}`.",
    )


def _target(view: FeatureView) -> Target:
    return Target(view.dataset, "features", view.table, (view.entity_key,), may_be_empty=view.may_be_empty)


def _variables(write: PartitionWrite, as_of: Mapping[Partition, dt.datetime]) -> dict[str, Any]:
    return {"load_id": write.load_id, "as_of": {partition.key: instant.isoformat() for partition, instant in as_of.items()}}


def _read_inputs(conn: Connection, settings: Settings, partitions: PartitionRange) -> tuple[dict[Partition, dt.datetime], dict[str, str]]:
    """Return each partition's as-of and the digests of what it may read."""
    contracts = load_contracts(settings.datasets_dir)
    versions = ledger.raw_versions(conn, contracts.values(), partitions.last)
    if holes := ledger.missing_drops(contracts, versions, partitions):
        raise _lookback_incomplete(holes, partitions)
    as_of = ledger.as_of_by_partition(contracts, versions, partitions)
    return as_of, ledger.input_digests(versions, as_of)


def _lookback_incomplete(holes: list[tuple[str, dt.date]], partitions: PartitionRange) -> LookbackIncomplete:
    shown = ", ".join(f"{dataset} {day}" for dataset, day in holes[:_SHOWN_HOLES])
    more = f" and {len(holes) - _SHOWN_HOLES} more" if len(holes) > _SHOWN_HOLES else ""
    return LookbackIncomplete(
        f"The look-back of {partitions} misses {len(holes)} drop(s): {shown}{more}.",
        expected=f"a published version of every daily dataset, {ledger.LOOKBACK_DAYS} days back",
        got=f"{len(holes)} without one",
        todo="Wait for upstream, or ingest the missing drops; the build then goes on by itself.",
    )


def _check(conn: Connection, settings: Settings, write: PartitionWrite, inputs: Mapping[str, str], run: RunContext) -> None:
    """Audit and gate the staged rows; record why if they are refused.

    Raises:
        NightshiftError: The inputs changed, or the audit or a gate failed.
    """
    from nightshift.quality.gates import run_gate

    try:
        if _read_inputs(conn, settings, write.partitions)[1] != inputs:
            raise InputsChangedError("A raw version was published while the build ran.", todo="Rerun the task; nothing was published.")
        audit(conn, write)
        for target in write.targets:
            run_gate(settings, target.dataset, target.schema, target.table, write.load_id, write.partitions, run)
    except NightshiftError as error:
        refuse(conn, write, f"{error.code}: {error.what}")
        raise
