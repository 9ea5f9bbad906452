"""``nightshift critical-path``: the tasks that a night's predictions waited for, and what each spent its time on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli.console import print_table, say
from nightshift.errors import NightshiftError
from nightshift.settings import default_home

if TYPE_CHECKING:
    from nightshift_local.airflow_api import AirflowApi, DagRun

STAGES = ("ingest", "transform", "score__")
"""What the path leads through, in order: names of DAGs, or how they begin."""
BODY_BEGINS = "The task's own code begins"
"""What ``orchestration.task_scope`` writes into the log."""


class NoPathError(NightshiftError):
    """The night has not gone through Airflow to published predictions."""

    code = "NS-AIRFLOW-010"


@dataclass(frozen=True)
class Step:
    """One task of the path; all times in seconds.

    Attributes:
        task: ``<dag>.<task>``.
        waiting: From the end of the task before to when Airflow queues this one: events, scheduler.
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
        """Return all of it."""
        return self.waiting + self.starting + self.importing + self.working


def critical_path(
    night: Annotated[str, typer.Argument(help="Partition, YYYY-MM-DD, that went through Airflow.")],
) -> None:
    """Print what a night's predictions waited for, and the shares of waiting, starting, importing and working."""
    from nightshift_local.airflow_api import AirflowApi

    print_path(find_path(AirflowApi.local(default_home()), night))


def print_path(steps: Sequence[Step]) -> None:
    """Print one line per task, and the shares."""
    rows = [
        (
            step.task,
            *(
                f"{part:.1f}"
                for part in (step.waiting, step.starting, step.importing, step.working)
            ),
        )
        for step in steps
    ]
    print_table(("task", "waiting", "starting", "importing", "working"), rows)
    whole = sum(step.seconds for step in steps) or 1.0
    shares = {
        name: sum(getattr(step, name) for step in steps) / whole
        for name in ("waiting", "starting", "importing", "working")
    }
    say(f"{whole:.1f} s: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))


def find_path(api: AirflowApi, night: str) -> list[Step]:
    """Return the tasks that the last prediction table of a night waited for, the first one first.

    Each task waited for the one that ended last before it, in its own run, or, for the first of a
    run, in the DAG of the stage before.

    Raises:
        NoPathError: No run of the night has published predictions.
        ServiceError: Airflow does not answer.
    """
    runs = _last_runs(api.runs(night))
    tasks = [
        _Task(run, found)
        for run in runs
        for found in api.tasks(run)
        if found["state"] == "success" and found["end_date"]
    ]
    last = max(
        (task for task in tasks if task.stage == len(STAGES) - 1),
        key=lambda task: task.ended_at,
        default=None,
    )
    if last is None:
        raise NoPathError(
            f"No run of {night} has published predictions.",
            todo="Name a night that went through Airflow.",
        )
    path = [last]
    while (before := _before(path[-1], tasks)) is not None:
        path.append(before)
    path.reverse()
    starts = [
        _at(path[0].run.started_at or path[0].found["start_date"]),
        *(task.ended_at for task in path),
    ]
    return [_step(api, task, start) for task, start in zip(path, starts, strict=False)]


@dataclass(frozen=True)
class _Task:
    run: DagRun
    found: dict[str, Any]

    @property
    def stage(self) -> int:
        """Return its place in STAGES, -1 outside."""
        return next(
            (place for place, name in enumerate(STAGES) if self.run.dag_id.startswith(name)), -1
        )

    @property
    def ended_at(self) -> dt.datetime:
        """Return when it ended."""
        return _at(self.found["end_date"])

    @property
    def started_at(self) -> dt.datetime:
        """Return when its process began."""
        return _at(self.found["start_date"])


def _last_runs(runs: Iterable[DagRun]) -> list[DagRun]:
    """Return the newest run of each DAG of the path."""
    by_dag = {run.dag_id: run for run in runs if run.dag_id.startswith(STAGES)}
    return list(by_dag.values())


def _before(task: _Task, tasks: Sequence[_Task]) -> _Task | None:
    earlier = [one for one in tasks if one.ended_at <= task.started_at and one is not task]
    own = [one for one in earlier if one.run == task.run]
    upstream = own or [one for one in earlier if one.stage == task.stage - 1]
    return max(upstream, key=lambda one: one.ended_at, default=None)


def _step(api: AirflowApi, task: _Task, start: dt.datetime) -> Step:
    queued = max(_at(task.found["queued_when"] or task.found["start_date"]), start)
    begins = _body_begins(api, task) or task.started_at
    place = f"[{task.found['map_index']}]" if task.found["map_index"] >= 0 else ""
    return Step(
        f"{task.run.dag_id}.{task.found['task_id']}{place}",
        (queued - start).total_seconds(),
        max((task.started_at - queued).total_seconds(), 0.0),
        max((begins - task.started_at).total_seconds(), 0.0),
        (task.ended_at - max(begins, queued)).total_seconds(),
    )


def _body_begins(api: AirflowApi, task: _Task) -> dt.datetime | None:
    lines = api.log(
        task.run, task.found["task_id"], task.found["try_number"], task.found["map_index"]
    )
    return next(
        (_at(line["timestamp"]) for line in lines if BODY_BEGINS in str(line.get("event"))), None
    )


def _at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
