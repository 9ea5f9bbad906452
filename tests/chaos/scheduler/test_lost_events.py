"""Wake-ups that never came, and two runs of one partition at once: the night still ends, once,
with the same content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.chaos.scheduler.disturbance import (
    contents,
    end_of,
    eventually,
    expect_published_by,
    instance,
    is_task_of,
    new_runs,
    set_paused,
    start,
    unpublished,
    wait_until_quiet,
)
from tests.whole_night import NIGHT, Whole, expected_dags, not_green

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables import retrain_requests
from nightshift_local.airflow_api import DagRun
from nightshift_local.servers.airflow_parts import API_SERVER, AirflowPart

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.timeout(900, func_only=True),
    pytest.mark.long,
]

SCORES, FEATURES, VERDICT = (
    "predictions/flight_delayed",
    "features/flight",
    "monitoring/flight_delayed",
)
_IMPATIENT = """
from nightshift.orchestration import reconcile
reconcile.PATIENCE = datetime.timedelta(seconds=1)
reconcile.MAX_EMISSIONS = 1000
"""


@contextmanager
def deaf(whole: Whole, dag_id: str) -> Iterator[None]:
    """Lose every event for a DAG: Airflow queues none for a paused one."""
    wait_until_quiet(whole)
    set_paused(whole, dag_id, is_paused=True)
    try:
        yield
    finally:
        set_paused(whole, dag_id, is_paused=False)


def catch_up(whole: Whole) -> DagRun:
    """Let the next tick come now, and return its run."""
    with whole.inject(_IMPATIENT):
        run = end_of(whole, whole.api.run("catch_up", whole.api.trigger("catch_up", None)))
        assert run.state == "success"
    return run


@pytest.mark.promise("R16")
def test_scoring_and_monitor_catch_up_when_the_features_event_was_lost(whole: Whole) -> None:
    with unpublished(whole, SCORES, VERDICT):
        earlier = whole.api.runs(NIGHT)
        with deaf(whole, "score__flight_delayed"):
            assert end_of(whole, start(whole, "transform")).state == "success"
            wait_until_quiet(whole)
        assert new_runs(whole, "score__flight_delayed", earlier) == []
        assert SCORES not in contents(whole)
        catch_up(whole)
        eventually(lambda: VERDICT in contents(whole), 400, "scored and measured")
        wait_until_quiet(whole)
        expect_published_by(whole, SCORES, "score__flight_delayed", earlier)
        expect_published_by(whole, VERDICT, "monitor__flight_delayed", earlier)
    assert not_green(whole.api, whole.api.runs(NIGHT)) == []


@pytest.mark.promise("R16")
def test_transform_catches_up_when_the_raw_events_were_lost(whole: Whole) -> None:
    with unpublished(whole, FEATURES):
        earlier = whole.api.runs(NIGHT)
        with deaf(whole, "transform"):
            assert end_of(whole, start(whole, "ingest")).state == "success"
            wait_until_quiet(whole)
        assert new_runs(whole, "transform", earlier) == []
        assert FEATURES not in contents(whole)
        catch_up(whole)
        eventually(lambda: FEATURES in contents(whole), 300, "built")
        wait_until_quiet(whole)
        expect_published_by(whole, FEATURES, "transform", earlier)


@pytest.mark.promise("R16")
def test_an_order_to_retrain_is_followed_once_when_its_event_was_lost(whole: Whole) -> None:
    model, night = "arrival_delay_minutes", Partition.parse(NIGHT)
    earlier = whole.api.runs(NIGHT)
    with connect(whole.settings, "test") as conn:
        order = retrain_requests.open_request(
            conn, model, night, ["a test"], {}, RunContext("test/order", 1, "test")
        )
        catch_up(whole)
        eventually(
            lambda: not retrain_requests.open_requests(conn, model), 180, "the order is closed"
        )
        wait_until_quiet(whole)
        closed = retrain_requests.requests_closed_by(conn, model, night)
        ((state, closed_by),) = conn.execute(
            "select state, closed_by from monitoring.retrain_decisions where decision_id = %s",
            [order.decision_id],
        ).fetchall()
    assert [one.decision_id for one in closed] == [order.decision_id]
    assert state == "consumed"
    trainings = new_runs(whole, f"train__{model}", earlier)
    assert any(is_task_of(closed_by, run) for run in trainings), (closed_by, trainings)


def test_nothing_is_woken_when_nothing_is_stranded(whole: Whole) -> None:
    wait_until_quiet(whole)
    earlier, before = whole.api.runs(NIGHT), contents(whole)
    tick = catch_up(whole)
    wait_until_quiet(whole)
    assert instance(whole, tick, "find_stranded")["state"] == "skipped"
    assert {run.run_id for run in whole.api.runs(NIGHT)} == {run.run_id for run in earlier}
    assert contents(whole) == before


@pytest.mark.promise("R11")
def test_a_backfill_that_races_the_nightly_run_publishes_the_same_content(whole: Whole) -> None:
    predictions = {
        f"predictions/{dag_id.partition('__')[2]}"
        for dag_id in expected_dags(whole.settings)
        if dag_id.startswith("score__")
    }
    with unpublished(whole, FEATURES, *predictions):
        earlier = whole.api.runs(NIGHT)
        span = [
            "--from-date",
            NIGHT,
            "--to-date",
            NIGHT,
            "--reprocess-behavior",
            "completed",
            "--max-active-runs",
            "1",
        ]
        AirflowPart(whole.settings.home, API_SERVER).run(
            "backfill", "create", "--dag-id", "ingest", *span
        )
        start(whole, "ingest")
        eventually(lambda: predictions <= set(contents(whole)), 400, "scored")
        wait_until_quiet(whole)
        assert len(new_runs(whole, "ingest", earlier)) == 2
        expect_published_by(whole, FEATURES, "transform", earlier)
        for dataset in predictions:
            expect_published_by(whole, dataset, f"score__{dataset.partition('/')[2]}", earlier)
    assert not_green(whole.api, whole.api.runs(NIGHT)) == []
