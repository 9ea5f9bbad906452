"""The tasks that the predictions of a partition waited for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from nightshift.page.critical_path import critical_tasks

MIDNIGHT = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Task:
    name: str
    run_key: tuple[str, str]
    begin: int
    end: int

    @property
    def started_at(self):
        return MIDNIGHT + dt.timedelta(seconds=self.begin)

    @property
    def ended_at(self):
        return MIDNIGHT + dt.timedelta(seconds=self.end)


def test_each_task_waited_for_the_one_that_ended_last_before_it():
    tasks = [
        Task("load_a", ("ingest", "r"), 0, 50),
        Task("load_b", ("ingest", "r"), 0, 80),
        Task("announce", ("ingest", "r"), 81, 82),
        Task("build", ("transform", "r"), 90, 140),
        Task("begin", ("score__m", "r"), 150, 151),
        Task("shard_0", ("score__m", "r"), 152, 170),
        Task("shard_1", ("score__m", "r"), 152, 190),
        Task("publish", ("score__m", "r"), 191, 200),
        Task("monitor", ("monitor__m", "r"), 150, 400),
    ]
    names = [task.name for task in critical_tasks(tasks)]
    assert names == ["load_b", "announce", "build", "begin", "shard_1", "publish"]


def test_nothing_waited_when_nothing_was_scored():
    assert critical_tasks([Task("load_a", ("ingest", "r"), 0, 50)]) == []
