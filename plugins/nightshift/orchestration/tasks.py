"""Task bodies of the nightly DAGs: each calls one stage and reads the result back.

A body takes its partition key as an argument; Airflow fills it in from the run. XCom carries keys
and counts, never rows. ``task_scope`` makes a terminated task fail, ``waiting`` reschedules a task
whose upstream is late, and ``post_conditions`` checks the warehouse before the task succeeds.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import task
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.contracts.datasets import DatasetContract, Delivery, load_contract, read_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError, StaleTokenError
from nightshift.orchestration.post_conditions import count_shard, require_published, require_row
from nightshift.orchestration.reruns import loads_without_outcome, lost_tries_error
from nightshift.orchestration.task_scope import TaskScope, task_scope, waiting
from nightshift.orchestration.upstream import drop_wait, fail_on_permanent_holes, require_runnable
from nightshift.warehouse.damage import VanishedRowsError
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.scoring.plan import ScorePlan
    from nightshift.warehouse.write_types import PublishedLoad

logger = logging.getLogger(__name__)

# Maximum wait where no contract sets one: for the cut-off, and for holes in the look-back.
MAX_WAIT = dt.timedelta(minutes=180)


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
        for contract in _contracts(scope, Delivery.ON_CHANGE):
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
            return _ingest(scope, contract, scope.partition.shift(-lookback_days()).day)


def _ingest(scope: TaskScope, contract: DatasetContract, late_since: dt.date) -> dict[str, int]:
    """Ingest the partition of one dataset, and its late drops; return the counts."""
    from nightshift.ingestion.load import ingest

    result = ingest(scope.settings, contract.name, scope.partitions, scope.run)
    # A dataset that arrives on change has no partition on a day without one.
    is_delivered = contract.delivery is Delivery.DAILY or bool(result.partitions)
    is_expected = is_delivered and contract.history_start <= scope.partition.day
    published = require_published(scope, [contract.dataset] if is_expected else [])
    return {
        "n_rows": sum(load.n_rows for load in published.values()),
        "n_refused": result.n_refused,
        "n_late_drops": _load_late_drops(scope, contract, late_since),
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
            "Loaded %s late drop(s) of %s; `nightshift redo --plan` lists affected partitions.",
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
        contracts = _contracts(scope, Delivery.DAILY)
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


def _contracts(scope: TaskScope, delivery: Delivery) -> list[DatasetContract]:
    """Return the contracts of one delivery type whose history includes the partition."""
    contracts = read_contracts(scope.settings.datasets_dir).documents.values()
    return [
        contract
        for contract in contracts
        if contract.delivery is delivery and contract.history_start <= scope.partition.day
    ]


@task
def build_features(partition_key: str) -> dict[str, Any]:
    """Build, check and publish marts and feature views; wait for holes in the look-back.

    The result names each view that failed. Its own task (``emit_feature_view_asset``) fails then,
    and the other views go on.
    """
    from nightshift.transformation.build import build

    with task_scope(partition_key) as scope, waiting(MAX_WAIT), fail_on_permanent_holes(scope):
        result = build(scope.settings, scope.partitions, scope.run)
        claims = _claims(result.published)
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


@task(task_id="begin")
def begin_scoring(model: str, partition_key: str) -> dict[str, Any]:
    """Choose and verify the model, and begin the write; return the plan."""
    from nightshift.scoring.pipeline import begin

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        plan = begin(scope.settings, spec, scope.partitions, scope.run)
        require_row(scope, "load", load_id=plan.load_id, dataset=spec.predictions_dataset)
        return plan.model_dump(mode="json")


@task(task_id="score_shard")
def score_shard(model: str, plan: dict[str, Any], shard: int, partition_key: str) -> int:
    """Score one shard into the begun write; return its rows."""
    from nightshift.scoring.pipeline import score_shard as score
    from nightshift.scoring.plan import ScorePlan

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        begun = ScorePlan.model_validate(plan)
        score(scope.settings, spec, begun, shard, scope.run)
        require_row(scope, "load", load_id=begun.load_id, dataset=spec.predictions_dataset)
        return count_shard(scope, spec, begun.load_id, shard)


@task(task_id="publish")
def publish_predictions(model: str, plan: dict[str, Any], partition_key: str) -> dict[str, Any]:
    """Audit, gate and publish the predictions; return the load that readers see."""
    from nightshift.scoring.plan import ScorePlan

    with task_scope(partition_key) as scope:
        spec = scope.spec(model)
        published = _publish_or_rescore(scope, spec, ScorePlan.model_validate(plan))
        logger.info("Published: %s", published)
        dataset = spec.predictions_dataset
        load = require_published(scope, [dataset], _claims(published))[dataset]
        return asdict(load)


def _publish_or_rescore(
    scope: TaskScope, spec: ModelSpec, plan: ScorePlan
) -> Iterable[PublishedLoad]:
    """Publish the plan; if it is obsolete, score the partition again within this task.

    A plan is obsolete if shards are missing (somebody cleared ``begin`` alone), if a newer attempt
    took over but published nothing, or if published rows have vanished.
    """
    from nightshift.scoring.pipeline import has_successor, publish, score
    from nightshift.scoring.row_checks import IncompletePredictionsError

    try:
        return publish(scope.settings, spec, plan, scope.run)
    except StaleTokenError as error:
        if has_successor(scope.settings, spec, plan, scope.run):
            logger.warning("A newer attempt has published the partition:\n%s", error)
            return []
        logger.warning("Scoring again in this task:\n%s", error)
    except (IncompletePredictionsError, VanishedRowsError) as error:
        logger.warning("Scoring again in this task:\n%s", error)
    return score(scope.settings, spec, scope.partitions, scope.run)


def _claims(published: Iterable[PublishedLoad]) -> dict[str, int]:
    """Return the loads that a stage reports as published, by dataset."""
    return {load.dataset: load.load_id for load in published}


@task(task_id="measure")
def measure_model(model: str, partition_key: str) -> dict[str, Any]:
    """Measure performance and drift, and publish the verdict; return its summary."""
    from nightshift.monitoring.monitor import monitor

    with task_scope(partition_key) as scope:
        verdict = monitor(scope.settings, scope.spec(model), scope.partitions, scope.run)
        require_published(scope, [f"monitoring/{model}"])
        return verdict.summary()


@task(task_id="announce_retraining")
def emit_retrain_asset(verdict: dict[str, Any], partition_key: str) -> int:
    """Emit the retrain event of an open request; skip without one, so that nothing is emitted."""
    decision_id = verdict["retrain_decision_id"]
    if decision_id is None:
        raise AirflowSkipException("The verdict requests no retraining.")
    with task_scope(partition_key) as scope:
        return int(require_row(scope, "decision", decision_id=decision_id))


@task.short_circuit(task_id="is_due")
def is_training_due(model: str, partition_key: str) -> bool:
    """Return whether the spec's schedule or an open retrain request calls for training now."""
    from nightshift.training.schedule import is_due

    with task_scope(partition_key) as scope:
        return is_due(scope.settings, scope.spec(model), scope.partition)


@task
def build_training_set(model: str, partition_key: str) -> str:
    """Probe the window's features for leakage, freeze the training set and return its key."""
    from nightshift.training import training_set
    from nightshift.training.point_in_time_probe import probe_features

    with task_scope(partition_key) as scope, waiting(MAX_WAIT):
        spec = scope.spec(model)
        window = training_set.mature_window(spec, scope.partition)
        probe_features(scope.settings, spec, window, scope.run)
        built = training_set.build_training_set(scope.settings, spec, scope.partition, scope.run)
        return str(require_row(scope, "training set", key=built.key, model=model))


@task(task_id="train")
def train_model(model: str, training_set_key: str, partition_key: str) -> int:
    """Train, evaluate and register a challenger; return its version."""
    from nightshift.registry.model_versions import register
    from nightshift.training.pipeline import train

    with task_scope(partition_key) as scope:
        candidate = train(scope.settings, scope.spec(model), training_set_key, scope.run)
        version = register(scope.settings, candidate, scope.run).version
        return int(require_row(scope, "model version", version=version, model=model))


@task(task_id="decide")
def decide_promotion(model: str, version: int, partition_key: str) -> dict[str, Any]:
    """Promote or refuse the challenger, and close the retrain requests that it answers."""
    from nightshift.registry.promotion import decide

    with task_scope(partition_key) as scope:
        decision = decide(scope.settings, scope.spec(model), version, scope.run)
        promotion_id = decision.promotion_id
        verdict = require_row(
            scope, "promotion", promotion_id=promotion_id, model=model, version=version
        )
        return {
            "promotion_id": promotion_id,
            "verdict": verdict,
            "reasons": list(decision.reasons),
        }
