"""What the watch asks Airflow: which tasks failed, of which partition, and who is still alive."""

from __future__ import annotations

import datetime as dt

from nightshift_local.airflow_api import AirflowApi

SINCE = dt.datetime(2024, 3, 1, tzinfo=dt.UTC)
ENDED = "2024-03-05T01:00:00+00:00"


class Answers(AirflowApi):
    """A client whose server gives these answers."""

    def __init__(self, **answers: object) -> None:
        super().__init__("http://airflow.invalid", "user", "password")
        self._answers = answers
        self.queries: list[dict] = []

    def call(self, method: str, path: str, *, params: dict | None = None, **_: object) -> dict:
        self.queries.append(params or {})
        return self._answers[path.rpartition("/")[2]]


def run(run_id: str, state: str) -> dict:
    return {
        "dag_id": "ingest",
        "dag_run_id": run_id,
        "state": state,
        "partition_key": f"key of {run_id}",
        "end_date": ENDED,
    }


def task(run_id: str) -> dict:
    return {"dag_id": "ingest", "dag_run_id": run_id, "task_id": "load", "end_date": ENDED}


def page(name: str, *entries: dict) -> dict:
    return {name: list(entries), "total_entries": len(entries)}


def test_a_failed_task_has_the_key_of_its_run_and_a_run_that_goes_on_is_left_alone():
    api = Answers(
        taskInstances=page("task_instances", task("failed"), task("succeeded"), task("running")),
        dagRuns=page("dag_runs", run("failed", "failed")),
        succeeded=run("succeeded", "success"),
        running=run("running", "running") | {"end_date": None},
    )
    keys = [(entry["task_id"], entry["partition_key"]) for entry in api.failed_tasks(SINCE)]
    assert keys == [("load", "key of failed"), ("load", "key of succeeded")]


def test_the_good_runs_of_a_week_are_not_read():
    api = Answers(taskInstances=page("task_instances"), dagRuns=page("dag_runs"))
    assert api.failed_tasks(SINCE) == []
    assert [query.get("state") for query in api.queries] == ["failed", "failed"]


def test_a_run_that_failed_without_a_failed_task_is_one_without_a_task():
    api = Answers(
        taskInstances=page("task_instances"),
        dagRuns=page("dag_runs", run("overdue", "failed")),
    )
    (entry,) = api.failed_tasks(SINCE)
    assert (entry["task_id"], entry["partition_key"]) == ("", "key of overdue")


def test_heartbeats_are_those_of_parts_that_have_ever_run():
    api = Answers(
        health={
            "metadatabase": {"status": "healthy"},
            "scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": ENDED},
            "triggerer": {"status": None, "latest_triggerer_heartbeat": None},
            "dag_processor": None,
        }
    )
    assert api.heartbeats() == {"scheduler": dt.datetime.fromisoformat(ENDED)}
