"""Task bodies: each is one call into a stage. XCom carries keys and counts, never rows.

A body that returns has read its result back from the warehouse (``post_conditions``), and one that
Airflow ends raises (``task_scope``). A body that upstream keeps waiting is put back by the
scheduler until its limit; that uses up no try and no slot.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.contracts.datasets import DatasetContract, Delivery, load_contract, read_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError, StaleTokenError
from nightshift.orchestration.post_conditions import count_shard, require_published, require_row
from nightshift.orchestration.reruns import loads_without_outcome, lost_tries_error
from nightshift.orchestration.task_scope import TaskScope, task_scope, waiting
from nightshift.orchestration.upstream import drop_wait, fail_on_permanent_holes, require_runnable
from nightshift.warehouse.damage import VanishedRowsError
from nightshift.warehouse.ledger import LOOKBACK_DAYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightshift.warehouse.write_types import PublishedLoad

logger = logging.getLogger(__name__)

LONGEST_WAIT = dt.timedelta(minutes=180)
"""How long a task waits where no contract says it: for the cut-off, and for holes in the
look-back.
"""


class LoadFailedError(NightshiftError):
    """A load of the night failed; what does not need it went on."""

    code = "NS-AIRFLOW-006"


def load_reference() -> dict[str, int]:
    """Ingest the datasets that come only when something changed; return their accepted rows.

    Raises:
        NightshiftError: One of them failed; all others were loaded.
    """
    with task_scope() as scope, waiting(LONGEST_WAIT):
        require_runnable(scope)
        counts: dict[str, int] = {}
        errors: list[NightshiftError] = []
        for contract in _contracts(scope, Delivery.ON_CHANGE):
            try:
                counts[contract.name] = _load_changes(scope, contract)
            except NightshiftError as error:
                logger.error("%s was not loaded:\n%s", contract.dataset, error)  # noqa: TRY400  (the error has the words)
                errors.append(error)
        if errors:
            # A try that can heal by itself is made, also when another dataset needs a person.
            raise next((error for error in errors if error.is_retryable), errors[0])
        return counts


def _load_changes(scope: TaskScope, contract: DatasetContract) -> int:
    from nightshift.ingestion.load import ingest

    result = ingest(scope.settings, contract.name, scope.partitions, scope.run)
    n_rows = (
        require_published(scope, [contract.dataset])[contract.dataset].n_rows
        if result.partitions
        else 0
    )
    _sweep(scope, contract, contract.history_start)
    return n_rows


def _contracts(scope: TaskScope, delivery: Delivery) -> list[DatasetContract]:
    """Return the contracts of one kind that have a history by the scope's partition."""
    contracts = read_contracts(scope.settings.datasets_dir).documents.values()
    return [
        contract
        for contract in contracts
        if contract.delivery is delivery and contract.history_start <= scope.partition.day
    ]


def load_dataset(dataset: str) -> dict[str, int]:
    """Ingest one daily dataset; while its drop is missing, the task waits as long as the contract says."""
    from nightshift.ingestion.load import ingest

    with task_scope() as scope, waiting(_longest_wait(scope, dataset)):
        require_runnable(scope)
        result = ingest(scope.settings, dataset, scope.partitions, scope.run)
        contracts = [
            contract for contract in _contracts(scope, Delivery.DAILY) if contract.name == dataset
        ]
        seen = require_published(scope, [contract.dataset for contract in contracts])
        n_late = sum(
            _sweep(scope, contract, scope.partition.shift(-LOOKBACK_DAYS).day)
            for contract in contracts
        )
        return {
            "n_rows": sum(one.n_rows for one in seen.values()),
            "n_refused": result.n_refused,
            "n_late_drops": n_late,
        }


def _sweep(scope: TaskScope, contract: DatasetContract, first: dt.date) -> int:
    """Load what came late for earlier partitions and return how many drops that were; its troubles are not tonight's."""
    from nightshift.ingestion.late_arrivals import sweep

    last = scope.partition.shift(-1)
    if last.day < max(first, contract.history_start):
        return 0
    try:
        swept = sweep(
            scope.settings,
            contract.name,
            PartitionRange(Partition(max(first, contract.history_start)), last),
            scope.run,
        )
    except NightshiftError as error:
        logger.warning("Late drops of %s stay for the next night:\n%s", contract.name, error)
        return 0
    for drop, code in swept.left:
        logger.warning("A late drop was refused with %s: %s", code, drop.data_key)
    if swept.loaded:
        logger.warning(
            "%s late drop(s) of %s are in; `nightshift redo --plan` lists what they touch.",
            len(swept.loaded),
            contract.name,
        )
    return len(swept.loaded)


def _longest_wait(scope: TaskScope, dataset: str) -> dt.timedelta:
    return drop_wait(load_contract(scope.settings.datasets_dir, dataset), scope.partition)


def emit_raw_assets() -> str:
    """Emit the events of all raw datasets from one task, and return the partition key.

    Two tasks that end at the same moment make two half-filled entries in Airflow's queue, and
    neither starts ``transform``. Source: docs/adr/0003-partitions-and-assets.md,
    apache/airflow#71070.
    """
    with task_scope() as scope:
        require_runnable(scope)
        require_published(
            scope, [contract.dataset for contract in _contracts(scope, Delivery.DAILY)]
        )
        return scope.partition.key


def watcher() -> None:
    """Fail, so that a run does not end green in which a load failed and the event was emitted all the same.

    Raises:
        LostTriesError: No load failed by its own doing: tries died before their code began, or in
            the middle of it.
        LoadFailedError: One did. Airflow starts the task only after a failure.
    """
    with task_scope() as scope:
        if silent := loads_without_outcome(scope.settings, get_current_context()["dag_run"].run_id):
            raise lost_tries_error(", ".join(silent))
    raise LoadFailedError(
        "A load of this night failed; see the red tasks beside this one.",
        expected="every dataset loaded, or waited for",
        todo="If `announce_raw` is green the night went on with the reference data of before. Correct the file, then clear the task.",
    )


class ViewFailedError(NightshiftError):
    """A feature view was not published, while others were."""

    code = "NS-AIRFLOW-011"


def build_features() -> dict[str, Any]:
    """Build, check and publish marts and feature views; while the look-back has holes that can be filled, the task waits.

    A view that fails is named in the result; its own task fails then (``announce_features``), and
    the other views go on.
    """
    from nightshift.transformation.build import build

    with task_scope() as scope, waiting(LONGEST_WAIT), fail_on_permanent_holes(scope):
        result = build(scope.settings, scope.partitions, scope.run)
        claims = _claims(result.published)
        require_published(scope, claims, claims)
        return result.summary()


def emit_feature_view_asset(view: str, built: dict[str, Any]) -> str:
    """Emit the event of one feature view if it is published, and return the partition key.

    Raises:
        ViewFailedError: It was not built; names its error.
    """
    with task_scope() as scope:
        if failure := built.get("failures", {}).get(view):
            raise ViewFailedError(
                f"The feature view {view} of {scope.partition} was not published; the other views were.",
                expected="a build that passes its audit and its gate",
                got=failure,
                todo="Read the page of that code, correct the cause, and clear `build_features` with downstream.",
            )
        require_published(scope, [f"features/{view}"])
        return scope.partition.key


def _claims(published: Iterable[PublishedLoad]) -> dict[str, int]:
    return {load.dataset: load.load_id for load in published}


def begin_scoring(model: str) -> dict[str, Any]:
    """Choose and verify the model, and begin the write; return the plan."""
    from nightshift.scoring.batch_scorer import begin

    with task_scope() as scope:
        plan = begin(scope.settings, scope.spec(model), scope.partitions, scope.run)
        require_row(
            scope, "load", load_id=plan.load_id, dataset=scope.spec(model).predictions_dataset
        )
        return plan.model_dump(mode="json")


def shards_of(plan: dict[str, Any]) -> list[int]:
    """Return the shard numbers of a plan, for task mapping."""
    return list(range(plan["n_shards"]))


def score_shard(model: str, plan: dict[str, Any], shard: int) -> int:
    """Score one shard into the begun write; return its rows."""
    from nightshift.scoring.batch_scorer import score_shard as score
    from nightshift.scoring.plan import ScorePlan

    with task_scope() as scope:
        spec, begun = scope.spec(model), ScorePlan.model_validate(plan)
        score(scope.settings, spec, begun, shard, scope.run)
        require_row(scope, "load", load_id=begun.load_id, dataset=spec.predictions_dataset)
        return count_shard(scope, spec, begun.load_id, shard)


def publish_predictions(model: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Audit, gate and publish the predictions; return what readers see.

    A plan whose shards are not all there (somebody cleared ``begin`` alone), that was overtaken by
    an attempt that published nothing, or whose published rows have vanished is given up: this task
    then does all of the scoring itself. What a newer attempt has published is the night's result.
    """
    from nightshift.scoring.plan import ScorePlan
    from nightshift.scoring.publication import (
        IncompletePredictionsError,
        has_successor,
        publish,
        score,
    )

    with task_scope() as scope:
        spec = scope.spec(model)
        begun = ScorePlan.model_validate(plan)
        published: list[PublishedLoad] = []
        try:
            published = publish(scope.settings, spec, begun, scope.run)
        except (IncompletePredictionsError, StaleTokenError, VanishedRowsError) as error:
            if isinstance(error, StaleTokenError) and has_successor(
                scope.settings, spec, begun, scope.run
            ):
                logger.warning("A newer attempt has published the partition:\n%s", error)
            else:
                logger.warning("Scoring once more in this task:\n%s", error)
                published = score(scope.settings, spec, scope.partitions, scope.run)
        logger.info("Published: %s", published)
        seen = require_published(scope, [spec.predictions_dataset], _claims(published))[
            spec.predictions_dataset
        ]
        return {"load_id": seen.load_id, "n_rows": seen.n_rows, "content_hash": seen.content_hash}


def measure_model(model: str) -> dict[str, Any]:
    """Measure performance and drift, and give the verdict; return it with the decision that it opened."""
    from nightshift.monitoring.monitor import monitor

    with task_scope() as scope:
        verdict = monitor(scope.settings, scope.spec(model), scope.partitions, scope.run)
        require_published(scope, [f"monitoring/{model}"])
        return verdict.summary()


def emit_retrain_asset(verdict: dict[str, Any]) -> int:
    """Wake training for an open decision; without one the task is skipped and nothing is emitted."""
    decision_id = verdict["retrain_decision_id"]
    if decision_id is None:
        raise AirflowSkipException("The verdict asks for no retraining.")
    with task_scope() as scope:
        return int(require_row(scope, "decision", decision_id=decision_id))


def is_training_due(model: str) -> bool:
    """Return whether the spec's schedule or an open decision asks for a training now."""
    from nightshift.training.pipeline import is_due

    with task_scope() as scope:
        return is_due(scope.settings, scope.spec(model), scope.partition)


def build_training_set(model: str) -> str:
    """Probe the window's features for leaks, freeze the training set and return its key."""
    from nightshift.training.point_in_time_probe import probe_features
    from nightshift.training.training_set import build_training_set as build
    from nightshift.training.training_set import mature_window

    with task_scope() as scope, waiting(LONGEST_WAIT):
        probe_features(
            scope.settings,
            scope.spec(model),
            mature_window(scope.spec(model), scope.partition),
            scope.run,
        )
        key = build(scope.settings, scope.spec(model), scope.partition, scope.run).key
        return str(require_row(scope, "training set", key=key, model=model))


def train_model(model: str, training_set_key: str) -> int:
    """Train, evaluate and register a challenger; return its version."""
    from nightshift.registry.model_versions import register
    from nightshift.training.pipeline import train

    with task_scope() as scope:
        candidate = train(scope.settings, scope.spec(model), training_set_key, scope.run)
        version = register(scope.settings, candidate, scope.run).version
        return int(require_row(scope, "model version", version=version, model=model))


def decide_promotion(model: str, version: int) -> dict[str, Any]:
    """Promote or refuse the challenger, and close the decisions that asked for it."""
    from nightshift.registry.promotion import decide

    with task_scope() as scope:
        decision = decide(scope.settings, scope.spec(model), version, scope.run)
        recorded = require_row(
            scope, "promotion", promotion_id=decision.promotion_id, model=model, version=version
        )
        return {
            "promotion_id": decision.promotion_id,
            "verdict": recorded,
            "reasons": list(decision.reasons),
        }
