"""Task bodies of `ingest` and `transform`; each calls one stage and reads the result back.

In all modules of tasks a body takes its partition key as an argument; Airflow fills it in from the
run. XCom carries keys and counts, never rows. ``task_scope`` makes a terminated task fail,
``waiting`` reschedules a task whose upstream is late, and ``post_conditions`` checks the warehouse
before the task succeeds.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

from airflow.sdk import task

from nightshift.contracts.datasets import DatasetContract, load_contract, read_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.orchestration.post_conditions import claims_of, require_published
from nightshift.orchestration.reruns import loads_without_outcome, lost_tries_error
from nightshift.orchestration.task_scope import TaskScope, task_scope, waiting
from nightshift.orchestration.upstream import (
    MAX_WAIT,
    drop_wait,
    fail_on_permanent_holes,
    require_runnable,
)
from nightshift.warehouse.ledger import lookback_days

logger = logging.getLogger(__name__)


class LoadFailedError(NightshiftError):
    """A load of the run failed; tasks that do not need it went on."""

    code = "NS-AIRFLOW-006"


class ViewFailedError(NightshiftError):
    """A feature view was not published, while other views were."""

    code = "NS-AIRFLOW-011"


@task
def load_reference(partition_key: str) -> dict[str, int]:
    """Ingest the datasets that arrive only on change; return their accepted rows.

    Raises:
        NightshiftError: A dataset failed; all others were loaded.
    """
    with task_scope(partition_key) as scope, waiting(MAX_WAIT):
        require_runnable(scope)
        n_rows: dict[str, int] = {}
        errors: list[NightshiftError] = []
        for contract in _contracts(scope, is_daily=False):
            try:
                counts = _ingest(scope, contract, contract.history_start)
                n_rows[contract.name] = counts["n_rows"]
            except NightshiftError as error:
                logger.error("%s was not loaded:\n%s", contract.dataset, error)  # noqa: TRY400
                errors.append(error)
        if errors:
            # Retryable errors first: they get their retry even if another dataset needs a person.
            raise min(errors, key=lambda error: not error.is_retryable)
        return n_rows


@task
def load_dataset(dataset: str, partition_key: str) -> dict[str, int]:
    """Ingest one daily dataset; wait for its drop as long as the contract allows."""
    with task_scope(partition_key) as scope:
        contract = load_contract(scope.settings.datasets_dir, dataset)
        with waiting(drop_wait(contract, scope.partition)):
            require_runnable(scope)
            # An older late drop changes no feature of today; `nightshift redo` finds it.
            late_since = scope.partition.shift(-lookback_days()).day
            return _ingest(scope, contract, late_since)


def _ingest(scope: TaskScope, contract: DatasetContract, late_since: dt.date) -> dict[str, int]:
    """Ingest the partition of one dataset, and its late drops; return the counts."""
    from nightshift.ingestion.load import ingest

    result = ingest(scope.settings, contract.name, scope.partitions, scope.run)
    # A dataset that arrives on change has no partition on a day without one.
    is_delivered = contract.is_daily or bool(result.partitions)
    is_expected = is_delivered and contract.history_start <= scope.partition.day
    expected = [contract.dataset] if is_expected else []
    published = require_published(scope, expected)
    n_rows = sum(load.n_rows for load in published.values())
    # Last: a failure of today's drop must not wait for a history.
    n_late_drops = _load_late_drops(scope, contract, late_since)
    return {
        "n_rows": n_rows,
        "n_refused": result.n_refused,
        "n_late_drops": n_late_drops,
    }


def _load_late_drops(scope: TaskScope, contract: DatasetContract, first: dt.date) -> int:
    """Load late drops of earlier partitions; return their number. Failures are only logged."""
    from nightshift.ingestion.late_arrivals import load_late_drops

    first = max(first, contract.history_start)
    last = scope.partition.shift(-1)
    if last.day < first:
        return 0
    partitions = PartitionRange(Partition(first), last)
    try:
        result = load_late_drops(scope.settings, contract.name, partitions, scope.run)
    except NightshiftError as error:
        # Late data must not fail the run of today: the next run finds the same drops.
        logger.warning("Late drops of %s are left to the next run:\n%s", contract.name, error)
        return 0
    for drop, code in result.left:
        logger.warning("A late drop was refused with %s: %s", code, drop.data_key)
    if result.loaded:
        logger.warning(
            "Loaded %s late drop(s) of %s; `nightshift plan redo` lists affected partitions.",
            len(result.loaded),
            contract.name,
        )
    return len(result.loaded)


@task(task_id="announce_raw")
def emit_raw_assets(partition_key: str) -> str:
    """Emit the asset events of all raw datasets from one task; return the partition key."""
    # Two tasks that end at the same moment create two half-filled entries in Airflow's queue, and
    # neither starts `transform`: docs/adr/0003-partitions-and-assets.md, apache/airflow#71070.
    with task_scope(partition_key) as scope:
        require_runnable(scope)
        contracts = _contracts(scope, is_daily=True)
        require_published(scope, [contract.dataset for contract in contracts])
        return scope.partition.key


@task(task_id="tell_failures")
def watcher(partition_key: str, run_id: str) -> None:
    """Fail the run if a load failed, even though the asset events were emitted.

    Raises:
        LostTriesError: No load reported an error: its tries died before or within their code.
        LoadFailedError: A load reported an error.
    """
    with task_scope(partition_key) as scope:
        lost = loads_without_outcome(scope.settings, run_id)
        if lost:
            raise lost_tries_error(", ".join(lost))
    raise LoadFailedError(
        "A load of this run failed; see the failed `load_…` tasks.",
        expected="every dataset loaded",
        todo="If `announce_raw` succeeded, downstream uses the earlier reference data."
        " Correct the file, then clear the failed task.",
    )


def _contracts(scope: TaskScope, *, is_daily: bool) -> list[DatasetContract]:
    """Return the daily contracts, or all others, whose history includes the partition."""
    contracts = read_contracts(scope.settings.datasets_dir).documents.values()
    of_type = [contract for contract in contracts if contract.is_daily is is_daily]
    day = scope.partition.day
    return [contract for contract in of_type if contract.history_start <= day]


@task
def build_features(partition_key: str) -> dict[str, Any]:
    """Build, check and publish marts and feature views; wait for holes in the look-back.

    The result names each view that failed. Its own task (``emit_feature_view_asset``) fails then,
    and the other views go on.
    """
    from nightshift.transformation.build import build

    with task_scope(partition_key) as scope, waiting(MAX_WAIT), fail_on_permanent_holes(scope):
        result = build(scope.settings, scope.partitions, scope.run)
        claims = claims_of(result.published)
        require_published(scope, claims, claims)
        return result.summary()


@task
def emit_feature_view_asset(view: str, built: dict[str, Any], partition_key: str) -> str:
    """Emit the asset event of a feature view that is published; return the partition key.

    Raises:
        ViewFailedError: The view was not built; names its error.
    """
    with task_scope(partition_key) as scope:
        failure = built.get("failures", {}).get(view)
        if failure:
            raise ViewFailedError(
                f"The feature view {view} of {scope.partition} was not published.",
                expected="a build that passes its audit and its gate",
                got=failure,
                todo="Read the runbook of that code and correct the cause."
                " Then clear `build_features` with downstream.",
            )
        require_published(scope, [f"features/{view}"])
        return scope.partition.key
