"""The DAGs of a night as functions: each task body runs as Airflow runs it, without a scheduler.

``python -m tests.chaos.on_call.airflow_tasks <dag> <task> <key>`` runs one task in a process of
its own, which a failpoint may kill.
"""

from __future__ import annotations

import datetime as dt
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException, AirflowSkipException

from nightshift.contracts.datasets import Delivery, load_contracts
from nightshift.contracts.model_spec import load_spec
from nightshift.orchestration import data_tasks, score_tasks, train_tasks
from nightshift.orchestration import task_scope as scopes
from nightshift.orchestration.defaults import WAREHOUSE, task_defaults
from nightshift.orchestration.task_tries import N_TRIES, UNCOUNTED, is_last_try, outcome_of
from nightshift.settings import Settings, load_settings

logger = logging.getLogger(__name__)

RETRIES = task_defaults("team", WAREHOUSE, timeout_minutes=5)["retries"]
Results = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One task of a DAG.

    Attributes:
        name: Its id, with the map index of a mapped task.
        body: Gets the partition key and the results of the tasks before it.
        rule: Its trigger rule over all tasks before it.
    """

    name: str
    body: Callable[[Any, Results], Any]
    rule: str = "all_success"


@dataclass
class DagRun:
    """One run of a DAG: the state and result of each task, and what its log ends with."""

    dag_id: str
    key: str | None
    steps: list[Step]
    states: dict[str, str] = field(default_factory=dict)
    results: Results = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    is_overdue: bool = False
    ended_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    @property
    def failed_tasks(self) -> list[dict[str, Any]]:
        """Return the failed tasks as Airflow's API describes them."""
        names = [name for name, state in self.states.items() if state == "failed"]
        # A run that reached its limit has failed, and none of its tasks has.
        return [self._describe(name) for name in (*names, *([""] if self.is_overdue else []))]

    def _describe(self, name: str) -> dict[str, Any]:
        task_id, _, map_index = name.partition(".")
        return {
            "dag_id": self.dag_id,
            "dag_run_id": f"manual__{self.key}",
            "task_id": task_id,
            "map_index": int(map_index or -1),
            "end_date": self.ended_at.isoformat(),
            "partition_key": self.key,
        }

    @property
    def is_success(self) -> bool:
        """Return whether each task has succeeded or was skipped."""
        return set(self.states.values()) <= {"success", "skipped"}

    @property
    def log(self) -> str:
        """Return what the logs of the failed tasks end with."""
        return "\n".join(self.logs.values())

    def run(self, settings: Settings, names: set[str] | None = None) -> None:
        """Run tasks in their order.

        Args:
            settings: What the tasks load.
            names: The tasks that get a process; all others of the run are lost. None: all.
        """
        for number, step in enumerate(self.steps):
            if self.states.get(step.name) in {"success", "skipped"}:
                continue
            before = {self.states[earlier.name] for earlier in self.steps[:number]}
            has_failed = bool(before & {"failed", "upstream_failed"})
            if step.rule == "one_failed" and not has_failed:
                self.states[step.name] = "skipped"
            elif step.rule == "all_success" and has_failed:
                self.states[step.name] = "upstream_failed"
            elif names is not None and step.name not in names:
                self.states[step.name] = "failed"
            else:
                self._try(settings, step)

    def clear(self, *, only_failed: bool) -> None:
        """Forget the state of the failed tasks, or of all."""
        kept = {"success", "skipped"} if only_failed else set()
        self.is_overdue = False
        # A task that was skipped since nothing had failed is judged again.
        self.states = {
            name: state
            for name, state in self.states.items()
            if state in kept and not (state == "skipped" and name == "tell_failures")
        }
        self.logs.clear()

    def _try(self, settings: Settings, step: Step) -> None:
        """Run a task until it ends or no try is left, as Airflow does, without its pauses."""
        first = self.attempts.get(step.name, 0) + 1
        for attempt in range(first, first + N_TRIES):
            error = self._try_once(settings, step, attempt, first)
            is_over = error is None or is_last_try(error, attempt - first)
            if is_over or outcome_of(error) in UNCOUNTED:
                break

    def _try_once(
        self, settings: Settings, step: Step, attempt: int, first: int
    ) -> BaseException | None:
        """Run one try; return why it failed."""
        self.attempts[step.name] = attempt
        try:
            with airflow_context(settings, self, step.name, attempt, first):
                self.results[step.name] = step.body(self.key, self.results)
        except AirflowSkipException:
            self.states[step.name] = "skipped"
        except AirflowRescheduleException as error:
            self.states[step.name] = "up_for_reschedule"
            self.logs[step.name] = str(error.__cause__)
        except Exception as error:
            logger.exception("%s of %s has failed", step.name, self.dag_id)
            self.states[step.name] = "failed"
            self.ended_at = dt.datetime.now(dt.UTC)
            self.logs[step.name] = f"{type(error).__name__}: {error}"
            return error
        else:
            self.states[step.name] = "success"
            self.logs.pop(step.name, None)
        return None


@dataclass(frozen=True)
class ReadDags:
    """All DAGs but some."""

    gone: set[str]

    def __contains__(self, dag_id: object) -> bool:
        return dag_id not in self.gone


@dataclass
class ReportedAirflow:
    """What Airflow's API would say of the runs of a world.

    Attributes:
        runs: The runs, as the world keeps them.
        paused: DAGs that a person has paused.
        slots: Slots of the pools.
        silent_for: For how long each part has said nothing.
        files: The file of a DAG; one whose file is gone is not there any more.
    """

    runs: dict[tuple[str, str | None], DagRun]
    paused: set[str] = field(default_factory=set)
    slots: dict[str, int] = field(default_factory=lambda: {"scoring": 4, "warehouse": 4})
    silent_for: dict[str, dt.timedelta] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    def dag_ids(self) -> ReadDags:
        return ReadDags({dag_id for dag_id, path in self.files.items() if not path.is_file()})

    def import_errors(self) -> list[str]:
        return []

    def paused_dags(self) -> set[str]:
        return self.paused

    def pools(self) -> list[dict[str, Any]]:
        return [{"name": name, "slots": slots} for name, slots in self.slots.items()]

    def heartbeats(self) -> dict[str, dt.datetime]:
        parts = ("scheduler", "dag_processor", "triggerer")
        now = dt.datetime.now(dt.UTC)
        return {part: now - self.silent_for.get(part, dt.timedelta()) for part in parts}

    def failed_tasks(self, since: dt.datetime) -> list[dict[str, Any]]:
        return [task for run in self.runs.values() for task in run.failed_tasks]


@contextmanager
def airflow_context(
    settings: Settings, run: DagRun, step_name: str, attempt: int, first: int
) -> Iterator[None]:
    """Be a task of Airflow's as long as the block lasts; ``first`` began its round of tries."""
    task_id, _, map_index = step_name.partition(".")
    context = {
        "dag_run": SimpleNamespace(dag_id=run.dag_id, run_id=f"manual__{run.key}"),
        "ti": SimpleNamespace(
            task_id=task_id,
            map_index=int(map_index or -1),
            try_number=attempt,
            max_tries=first - 1 + RETRIES,
            get_first_reschedule_date=lambda _: None,
        ),
        "task": SimpleNamespace(execution_timeout=None, retries=RETRIES),
    }
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scopes, "get_current_context", lambda: context)
        patch.setattr(scopes, "load_settings", lambda: settings)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def open_run(
    settings: Settings, dag_id: str, key: str | None, only: tuple[str, ...] = ()
) -> DagRun:
    """Return a run of a DAG with its tasks in their order; none has begun.

    Args:
        settings: Where its contracts and specs are.
        dag_id: The DAG.
        key: The partition key.
        only: The tasks that matter to the test; the others are left out. Empty: all.
    """
    kind, _, model = dag_id.partition("__")
    steps = {
        "ingest": lambda: _ingest(settings, f"manual__{key}"),
        "transform": _transform,
        "score": lambda: _score(settings, model),
        "train": lambda: _train(model),
    }[kind]()
    return DagRun(dag_id, key, [step for step in steps if not only or step.name in only])


def _ingest(settings: Settings, run_id: str) -> list[Step]:
    contracts = load_contracts(settings.datasets_dir).values()
    daily = [contract.name for contract in contracts if contract.delivery is Delivery.DAILY]

    def load(dataset: str) -> Callable[[Any, Results], Any]:
        return lambda key, _: data_tasks.load_dataset.function(dataset, partition_key=key)

    # Loads run side by side: one that failed keeps none of the others from running.
    return [
        Step("load_reference", lambda key, _: data_tasks.load_reference.function(key), "all_done"),
        *(Step(f"load_{name}", load(name), "all_done") for name in daily),
        Step("announce_raw", lambda key, _: data_tasks.emit_raw_assets.function(key), "all_done"),
        Step(
            "tell_failures",
            lambda key, _: data_tasks.watcher.function(key, run_id),
            "one_failed",
        ),
    ]


def _transform() -> list[Step]:
    def announce(key: str, results: Results) -> object:
        return data_tasks.emit_feature_view_asset.function("flight", results["build_features"], key)

    return [
        Step("build_features", lambda key, _: data_tasks.build_features.function(key)),
        Step("announce_flight", announce),
    ]


def _score(settings: Settings, model: str) -> list[Step]:
    n_shards = load_spec(settings.models_dir, model).scoring.shards

    def score_shard(shard: int) -> Callable[[Any, Results], Any]:
        return lambda key, results: score_tasks.score_shard.function(
            model, results["begin"], shard, key
        )

    def publish(key: str, results: Results) -> object:
        return score_tasks.publish_predictions.function(model, results["begin"], key)

    return [
        Step("begin", lambda key, _: score_tasks.begin_scoring.function(model, key)),
        *(Step(f"score_shard.{shard}", score_shard(shard)) for shard in range(n_shards)),
        Step("publish", publish),
    ]


def _train(model: str) -> list[Step]:
    """Return the tasks that make a version; what decides about it is another matter."""

    def build(key: str, _: Results) -> object:
        return train_tasks.build_training_set.function(model, key)

    def train(key: str, results: Results) -> object:
        return train_tasks.train_model.function(model, results["build_training_set"], key)

    return [Step("build_training_set", build), Step("train", train)]


if __name__ == "__main__":
    _dag_id, _task, _key = sys.argv[1:]
    open_run(load_settings(), _dag_id, _key).run(load_settings(), {_task})
