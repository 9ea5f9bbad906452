"""What Airflow says of runs, in sentences: who holds a slot, until when, what is paused or full."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from nightshift.incidents.context import local_time
from nightshift.incidents.running_and_waiting import describe_runs
from nightshift_local.airflow_api import DagRun

BEGAN = dt.datetime(2024, 5, 2, 4, 31, tzinfo=dt.UTC)
LIMIT = dt.timedelta(hours=7)


@dataclass
class Airflow:
    """Airflow's API, as it answers."""

    runs: list[DagRun]
    limit: dt.timedelta | None = LIMIT
    asked: list[str] = field(default_factory=list)

    def active_runs(self) -> list[DagRun]:
        return self.runs

    def longest_run(self, dag_id: str) -> dt.timedelta | None:
        self.asked.append(dag_id)
        return self.limit

    def paused_dags(self) -> set[str]:
        return {"study__b"}

    def pools(self) -> list[dict[str, Any]]:
        return [{"name": "scoring", "slots": 4, "open_slots": 0}, {"name": "free", "open_slots": 1}]


def run(dag_id: str, key: str, began: dt.datetime | None = None) -> DagRun:
    state = "running" if began else "queued"
    return DagRun(dag_id, f"r_{key}", key, state, began and began.isoformat(), None)


def test_a_queued_run_names_who_holds_its_slot_and_until_when():
    airflow = Airflow([run("ingest", "2024-05-01", BEGAN), run("ingest", "2024-05-02")])
    running, waiting = describe_runs(airflow)
    assert running == [f"ingest of 2024-05-01 since {local_time(BEGAN)}"]
    until = local_time(BEGAN + LIMIT)
    holder = f"its slot is held by the run of 2024-05-01, until {until} at the latest"
    assert waiting == [
        f"ingest of 2024-05-02 is queued: {holder}",
        "study__b is paused",
        "the pool scoring is full: 4 slots",
    ]


def test_a_run_without_a_limit_has_no_end():
    airflow = Airflow([run("ingest", "2024-05-01", BEGAN), run("ingest", "2024-05-02")], None)
    _, waiting = describe_runs(airflow)
    assert waiting[0].endswith("is queued: its slot is held by the run of 2024-05-01")


def test_limits_are_asked_for_only_where_somebody_waits():
    airflow = Airflow([run("ingest", "2024-05-01", BEGAN), run("transform", "2024-05-01")])
    _, waiting = describe_runs(airflow)
    assert waiting[0] == "transform of 2024-05-01 is queued: the scheduler has not begun it"
    assert airflow.asked == []
