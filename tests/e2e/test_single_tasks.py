"""Tasks of a scored night, cleared one by one and in the wrong order."""

from __future__ import annotations

import time

import pytest
from tests.e2e.test_night import published
from tests.whole_night import NIGHT, Whole

pytestmark = [pytest.mark.airflow, pytest.mark.integration, pytest.mark.timeout(900)]

TIMEOUT_SECONDS = 120


@pytest.mark.promise("R6")
@pytest.mark.parametrize("task_ids", [["begin", "publish", "score_shard"], ["score_shard", "begin", "publish"]])
def test_scoring_tasks_cleared_alone_in_any_order_publish_the_same_content(whole: Whole, task_ids: list[str]) -> None:
    before = published(whole.settings)
    run = next(run for run in whole.api.runs(NIGHT) if run.dag_id == "score__flight_delayed")
    for task_id in task_ids:
        assert whole.api.clear(run, [task_id]) > 0
        started = time.monotonic()
        while whole.api.run(run.dag_id, run.run_id).state not in {"success", "failed"}:
            time.sleep(1)
            assert time.monotonic() - started < TIMEOUT_SECONDS
        assert whole.api.run(run.dag_id, run.run_id).state == "success"
    assert published(whole.settings) == before
