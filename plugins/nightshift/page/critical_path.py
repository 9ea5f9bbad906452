"""The critical path of a partition: the tasks that its predictions waited for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Protocol, TypeVar

STAGES = ("ingest", "transform", "score__")
"""Stages of the path, in order: names of DAGs, or their prefixes."""


class TimedTask(Protocol):
    """A task that succeeded, wherever its times come from."""

    @property
    def run_key(self) -> tuple[str, str]:
        """Return its DAG and the run."""

    @property
    def started_at(self) -> dt.datetime:
        """Return when it began."""

    @property
    def ended_at(self) -> dt.datetime:
        """Return when it ended."""


Task = TypeVar("Task", bound=TimedTask)


def stage_of(task: TimedTask) -> int:
    """Return the index of a task's DAG in ``STAGES``, -1 outside."""
    dag_id, _ = task.run_key
    for index, prefix in enumerate(STAGES):
        if dag_id.startswith(prefix):
            return index
    return -1


def critical_tasks(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks that the last scoring task waited for, in order; none without a scoring.

    Each task waited for the task that ended last before it: in its own run, or, for the first of
    a run, in the DAG of the previous stage.
    """
    last_stage = len(STAGES) - 1
    scoring = [task for task in tasks if stage_of(task) == last_stage]
    # Backwards from the end: only then is it known which of two parallel tasks was waited for.
    path: list[Task] = []
    latest = max(scoring, key=_end, default=None)
    while latest is not None:
        path.insert(0, latest)
        latest = _previous(latest, tasks)
    return path


def _previous(task: Task, tasks: Sequence[Task]) -> Task | None:
    """Return the task that ended last before this one began; None for the first of the path."""
    # A task without a duration ends at its own start.
    ended = [other for other in tasks if other.ended_at <= task.started_at]
    earlier = [other for other in ended if other is not task]
    # Within a run its own tasks were waited for; only the first one waited for another DAG.
    same_run = [other for other in earlier if other.run_key == task.run_key]
    upstream = [other for other in earlier if stage_of(other) == stage_of(task) - 1]
    return max(same_run or upstream, key=_end, default=None)


def _end(task: TimedTask) -> dt.datetime:
    return task.ended_at
