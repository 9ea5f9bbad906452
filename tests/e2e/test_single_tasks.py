"""Tasks of a scored night, cleared one by one and in the wrong order."""

from __future__ import annotations

import time

import pytest
from tests.e2e.test_night import published
from tests.whole_night import NIGHT, Whole

from nightshift.registry.rollback import history
from nightshift.warehouse.connection import connect
from nightshift_local.servers.airflow_settings import USER

pytestmark = [pytest.mark.airflow, pytest.mark.integration, pytest.mark.timeout(900)]

TIMEOUT_SECONDS = 120


@pytest.mark.promise("R6")
@pytest.mark.parametrize(
    "task_ids",
    [
        ["begin", "publish", "score_shard"],
        pytest.param(["score_shard", "begin", "publish"], marks=pytest.mark.long),
    ],
)
def test_scoring_tasks_cleared_alone_in_any_order_publish_the_same_content(
    whole: Whole, task_ids: list[str]
) -> None:
    before = published(whole.settings)
    run = next(run for run in whole.api.runs(NIGHT) if run.dag_id == "score__flight_delayed")
    for task_id in task_ids:
        assert whole.api.clear(run, [task_id]) > 0
        assert end_of(whole, run.dag_id, run.run_id) == "success"
    assert published(whole.settings) == before


def end_of(whole: Whole, dag_id: str, run_id: str) -> str:
    """Wait for a run and return its last state."""
    started = time.monotonic()
    while (state := whole.api.run(dag_id, run_id).state) not in {"success", "failed"}:
        time.sleep(1)
        assert time.monotonic() - started < TIMEOUT_SECONDS
    return state


@pytest.mark.promise("R19")
@pytest.mark.long
def test_rollback_that_a_person_asks_for_publishes_what_the_version_gives_and_names_the_person(
    whole: Whole,
) -> None:
    before = published(whole.settings)
    dag_id, form = (
        "rollback",
        {"model": "flight_delayed", "to_version": 1, "since": NIGHT, "reason": "an exercise"},
    )
    run_id = whole.api.trigger(dag_id, None, **form, only_plan=True)
    assert end_of(whole, dag_id, run_id) == "success"
    states = {
        task["task_id"]: task["state"] for task in whole.api.tasks(whole.api.run(dag_id, run_id))
    }
    assert states == {"plan": "success", "repair": "skipped"}

    run_id = whole.api.trigger(dag_id, None, **form)
    for _ in range(2):
        assert end_of(whole, dag_id, run_id) == "success"
        assert published(whole.settings) == before
        with connect(whole.settings, "test") as conn:
            last = history(conn, "flight_delayed")[-1]
        assert (last.verdict, last.version, last.actor, last.reasons) == (
            "rolled_back",
            1,
            f"airflow:{USER}",
            ("an exercise",),
        )
        whole.api.clear(whole.api.run(dag_id, run_id))
    assert end_of(whole, dag_id, run_id) == "success"
