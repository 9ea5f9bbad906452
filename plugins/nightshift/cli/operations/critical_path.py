"""``nightshift critical-path``: the tasks that a partition's predictions waited for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.console import print_table
from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.page.critical_path import STAGES, critical_tasks
from nightshift.settings import default_home

if TYPE_CHECKING:
    from nightshift_local.airflow_api import AirflowApi, DagRun

PHASES = ("waiting", "starting", "importing", "working")
BODY_BEGINS = "The task's own code begins"
"""What ``orchestration.task_scope`` writes into the log."""


class NoPathError(NightshiftError):
    """No run of the partition in Airflow has published predictions."""

    code = "NS-AIRFLOW-010"


@dataclass(frozen=True)
class PathTask:
    """One task of the path; all times in seconds.

    Attributes:
        task: ``<dag>.<task>``.
        waiting: From the end of the previous task until Airflow queues this one.
        starting: Until its process runs.
        importing: Until its own code begins: DAG file, library, Airflow itself.
        working: Until it ends.
    """

    task: str
    waiting: float
    starting: float
    importing: float
    working: float

    @property
    def seconds(self) -> float:
        """Return the sum of all phases."""
        return self.waiting + self.starting + self.importing + self.working


def critical_path(
    partition: Annotated[
        str,
        typer.Argument(help="Partition, YYYY-MM-DD, that went through Airflow."),
    ],
) -> None:
    """Print the tasks that a partition's predictions waited for, and where the time went."""
    from nightshift_local.airflow_api import AirflowApi

    day = Partition.parse(partition)
    api = AirflowApi.local(default_home())
    steps = find_path(api, day.key)
    print_path(steps)


def print_path(steps: Sequence[PathTask]) -> None:
    """Print one line per task, and the share of each phase."""
    rows = []
    for step in steps:
        seconds = [f"{getattr(step, phase):.1f}" for phase in PHASES]
        rows.append((step.task, *seconds))
    print_table(("task", *PHASES), rows)
    # A path without any time has no shares; a division by zero would hide its table.
    total = sum(step.seconds for step in steps) or 1.0
    shares = []
    for phase in PHASES:
        seconds_of_phase = sum(getattr(step, phase) for step in steps)
        shares.append(f"{phase} {seconds_of_phase / total:.0%}")
    typer.echo(f"{total:.1f} s: {', '.join(shares)}")


def find_path(api: AirflowApi, partition_key: str) -> list[PathTask]:
    """Return the tasks that the last prediction table of a partition waited for, in order.

    Raises:
        NoPathError: No run of the partition has published predictions.
        ServiceError: Airflow does not answer.
    """
    path = critical_tasks(_successful_tasks(api, partition_key))
    if not path:
        raise NoPathError(
            f"No run of {partition_key} has published predictions.",
            todo="Name a partition that went through Airflow.",
        )
    first = path[0]
    started_at = first.run.started_at
    previous_end = _instant(started_at) if started_at else first.started_at
    steps = []
    for task in path:
        steps.append(_step(api, task, previous_end))
        previous_end = task.ended_at
    return steps


@dataclass(frozen=True)
class _Task:
    """A task instance as Airflow's API describes it, and its run."""

    run: DagRun
    fields: dict[str, Any]

    @property
    def run_key(self) -> tuple[str, str]:
        """Return its DAG and the run."""
        return (self.run.dag_id, self.run.run_id)

    @property
    def started_at(self) -> dt.datetime:
        """Return when its process began."""
        return _instant(self.fields["start_date"])

    @property
    def ended_at(self) -> dt.datetime:
        """Return when it ended."""
        return _instant(self.fields["end_date"])


def _successful_tasks(api: AirflowApi, partition_key: str) -> list[_Task]:
    """Return the tasks that succeeded in the newest run of each DAG of the path."""
    runs: dict[str, DagRun] = {}
    for run in api.runs(partition_key):
        # The API lists the oldest run first, so that a later one replaces it here.
        if run.dag_id.startswith(STAGES):
            runs[run.dag_id] = run
    tasks = []
    for run in runs.values():
        ended = [fields for fields in api.tasks(run) if fields["end_date"]]
        tasks += [_Task(run, fields) for fields in ended if fields["state"] == "success"]
    return tasks


def _step(api: AirflowApi, task: _Task, previous_end: dt.datetime) -> PathTask:
    fields = task.fields
    name = f"{task.run.dag_id}.{fields['task_id']}"
    if fields["map_index"] >= 0:
        name += f"[{fields['map_index']}]"
    # A task can be queued before the previous one ends; its wait begins with that end.
    queued_at = _instant(fields["queued_when"] or fields["start_date"])
    queued_at = max(queued_at, previous_end)
    started_at = task.started_at
    body_at = _body_began_at(api, task) or started_at
    return PathTask(
        name,
        waiting=_seconds(previous_end, queued_at),
        starting=max(_seconds(queued_at, started_at), 0.0),
        importing=max(_seconds(started_at, body_at), 0.0),
        working=_seconds(max(body_at, queued_at), task.ended_at),
    )


def _body_began_at(api: AirflowApi, task: _Task) -> dt.datetime | None:
    """Return when the task's own code began, from its log; None if the log does not say."""
    fields = task.fields
    lines = api.log(task.run, fields["task_id"], fields["try_number"], fields["map_index"])
    for line in lines:
        if BODY_BEGINS in str(line.get("event")):
            return _instant(line["timestamp"])
    return None


def _seconds(start: dt.datetime, end: dt.datetime) -> float:
    return (end - start).total_seconds()


def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
