"""Task bodies: each is one call into a stage. XCom carries keys and counts, never rows.

A body that returns has read its result back from the warehouse; a terminated one raises (Airflow 3.3 records a task that
handles SIGTERM and goes on as success: docs/adr/0003-partitions-and-assets.md). A body that upstream keeps waiting is put
back by the scheduler until its limit; that uses up no try and no slot.
"""

from __future__ import annotations

import datetime as dt
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from nightshift.contracts.datasets import Delivery, load_contract, load_contracts
from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings

logger = logging.getLogger(__name__)

WAIT_DELAY = dt.timedelta(minutes=2)
"""Pause between two looks for what upstream still owes."""
LONGEST_WAIT = dt.timedelta(minutes=180)
"""How long a task waits where no contract says it: for the cut-off, and for holes in the look-back."""


_AFTER_SIGNAL = "Clear it to run it again; nothing is half published."


class TaskTerminatedError(NightshiftError):
    """Airflow ended the task, by a person's mark, a clear or a shutdown."""

    code = "NS-AIRFLOW-001"
    is_retryable = True


class NotPartitionedError(NightshiftError):
    """A run has no partition key."""

    code = "NS-AIRFLOW-002"


class CutoffAheadError(NightshiftError):
    """The partition's knowledge cut-off lies ahead."""

    code = "NS-AIRFLOW-003"
    is_retryable = True
    is_waiting = True


@dataclass(frozen=True)
class TaskScope:
    """What a task body works with.

    Attributes:
        settings: Endpoints and credentials.
        partition: The run's partition.
        run: The identity of this try.
    """

    settings: Settings
    partition: Partition
    run: RunContext

    @property
    def partitions(self) -> PartitionRange:
        """Return the partition as a range."""
        return PartitionRange.single(self.partition)

    def spec(self, model: str) -> ModelSpec:
        """Return one model's spec."""
        return load_spec(self.settings.models_dir, model)


@contextmanager
def task_scope() -> Iterator[TaskScope]:
    """Give the running task its scope, and turn SIGTERM into an error, also where a stage swallows it.

    Raises:
        NotPartitionedError: The run was started without a partition key.
        TaskTerminatedError: Airflow ended the task.
    """
    context = get_current_context()
    run, instance = context["dag_run"], context["ti"]
    if not run.partition_key:
        raise NotPartitionedError(
            f"Run {run.run_id} has no partition key.",
            expected="a partition key YYYY-MM-DD",
            todo="Trigger `ingest` with a partition key, or use `airflow backfill create --dag-id ingest`.",
        )
    partition = Partition.parse(run.partition_key)
    identity = RunContext(f"{run.dag_id}/{partition.key}/{instance.task_id}", instance.try_number, "airflow")
    terminated: list[TaskTerminatedError] = []

    def terminate(signal_number: int, _: object) -> NoReturn:
        terminated.append(TaskTerminatedError(f"The task was ended by signal {signal_number}.", todo=_AFTER_SIGNAL))
        raise terminated[0]

    signal.signal(signal.SIGTERM, terminate)
    yield TaskScope(load_settings(), partition, identity)
    if terminated:
        raise terminated[0]


@contextmanager
def waiting(limit: dt.timedelta) -> Iterator[None]:
    """Put the task back for a while if the block waits for upstream; after the limit, let its error through.

    Args:
        limit: Time since the first look.

    Raises:
        AirflowRescheduleException: The block waits, and there is time left.
        NightshiftError: The block waits and the limit is over, or it failed.
    """
    try:
        yield
    except NightshiftError as error:
        context, now = get_current_context(), dt.datetime.now(dt.UTC)
        if not error.is_waiting or now - (context["ti"].get_first_reschedule_date(context) or now) >= limit:
            raise
        logger.warning("Waiting for upstream:\n%s", error)
        raise AirflowRescheduleException(now + WAIT_DELAY) from error


def load_reference() -> dict[str, int]:
    """Ingest the datasets that come only when something changed; return their accepted rows."""
    from nightshift.ingestion.load import ingest

    with task_scope() as scope, waiting(LONGEST_WAIT):
        _refuse_before_cutoff(scope.partition)
        contracts = load_contracts(scope.settings.datasets_dir).values()
        names = [contract.name for contract in contracts if contract.delivery is Delivery.ON_CHANGE]
        return {name: ingest(scope.settings, name, scope.partitions, scope.run).n_rows for name in names}


def load_dataset(dataset: str) -> dict[str, int]:
    """Ingest one daily dataset; while its drop is missing, the task waits as long as the contract says."""
    from nightshift.ingestion.load import ingest

    with task_scope() as scope, waiting(_longest_wait(scope, dataset)):
        _refuse_before_cutoff(scope.partition)
        result = ingest(scope.settings, dataset, scope.partitions, scope.run)
        return {"n_rows": result.n_rows, "n_refused": result.n_refused}


def _longest_wait(scope: TaskScope, dataset: str) -> dt.timedelta:
    return dt.timedelta(minutes=load_contract(scope.settings.datasets_dir, dataset).maximum_wait_minutes)


def _refuse_before_cutoff(partition: Partition) -> None:
    """Keep a night from starting before its as-of: what came in between would change a rerun."""
    if dt.datetime.now(dt.UTC) < partition.cutoff:
        raise CutoffAheadError(f"The cut-off of {partition} is {partition.cutoff.isoformat()}.", todo="Nothing: the task waits for it.")


def announce_raw() -> str:
    """Emit the events of all raw datasets from one task, and return the partition key.

    Two tasks that end at the same moment make two half-filled entries in Airflow's queue, and neither starts ``transform``.
    Source: docs/adr/0003-partitions-and-assets.md, apache/airflow#71070.
    """
    with task_scope() as scope:
        return scope.partition.key


def build_features() -> dict[str, Any]:
    """Build, check and publish marts and feature views; while the look-back has holes, the task waits."""
    from nightshift.transformation.build import build

    with task_scope() as scope, waiting(LONGEST_WAIT):
        return build(scope.settings, scope.partitions, scope.run).summary()


def begin_scoring(model: str) -> dict[str, Any]:
    """Choose and verify the model, and begin the write; return the plan."""
    from nightshift.scoring.batch_scorer import begin

    with task_scope() as scope:
        return begin(scope.settings, scope.spec(model), scope.partitions, scope.run).model_dump(mode="json")


def shards_of(plan: dict[str, Any]) -> list[int]:
    """Return the shard numbers of a plan, for task mapping."""
    return list(range(plan["n_shards"]))


def score_shard(model: str, plan: dict[str, Any], shard: int) -> int:
    """Score one shard into the begun write; return its rows."""
    from nightshift.scoring.batch_scorer import score_shard as score
    from nightshift.scoring.plan import ScorePlan

    with task_scope() as scope:
        return score(scope.settings, scope.spec(model), ScorePlan.model_validate(plan), shard, scope.run)["n_rows"]


def publish_predictions(model: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Audit, gate and publish the predictions; return what readers see.

    A plan whose shards are not all there (somebody cleared ``begin`` alone) is given up: this task then does all of the scoring itself.
    """
    from nightshift.scoring.plan import ScorePlan
    from nightshift.scoring.publication import IncompletePredictionsError, publish, score

    with task_scope() as scope:
        spec = scope.spec(model)
        try:
            published = publish(scope.settings, spec, ScorePlan.model_validate(plan), scope.run)
        except IncompletePredictionsError as error:
            logger.warning("Scoring once more in this task:\n%s", error)
            published = score(scope.settings, spec, scope.partitions, scope.run)
        return {"load_id": published[0].load_id, "n_rows": published[0].n_rows, "content_hash": published[0].content_hash}


def measure_model(model: str) -> dict[str, Any]:
    """Measure performance and drift, and give the verdict; return it with the decision that it opened."""
    from nightshift.monitoring.measure import measure

    with task_scope() as scope:
        return measure(scope.settings, scope.spec(model), scope.partitions, scope.run).summary()


def announce_retraining(verdict: dict[str, Any]) -> int:
    """Wake training for an open decision; without one the task is skipped and nothing is emitted."""
    decision_id = verdict["retrain_decision_id"]
    if decision_id is None:
        raise AirflowSkipException("The verdict asks for no retraining.")
    return int(decision_id)


def is_training_due(model: str) -> bool:
    """Return whether the spec's schedule or an open decision asks for a training now."""
    from nightshift.training.pipeline import is_due

    with task_scope() as scope:
        return is_due(scope.settings, scope.spec(model), scope.partition)


def build_training_set(model: str) -> str:
    """Freeze the training set and return its key."""
    from nightshift.training.training_set import build_training_set as build

    with task_scope() as scope, waiting(LONGEST_WAIT):
        return build(scope.settings, scope.spec(model), scope.partition, scope.run).key


def train_model(model: str, training_set_key: str) -> int:
    """Train, evaluate and register a challenger; return its version."""
    from nightshift.registry.model_versions import register
    from nightshift.training.pipeline import train

    with task_scope() as scope:
        candidate = train(scope.settings, scope.spec(model), training_set_key, scope.run)
        return register(scope.settings, candidate, scope.run).version


def decide_promotion(model: str, version: int) -> dict[str, Any]:
    """Promote or refuse the challenger, and close the decisions that asked for it."""
    from nightshift.registry.promotion import decide

    with task_scope() as scope:
        decision = decide(scope.settings, scope.spec(model), version, scope.run)
        return {"promotion_id": decision.promotion_id, "verdict": decision.verdict, "reasons": list(decision.reasons)}
