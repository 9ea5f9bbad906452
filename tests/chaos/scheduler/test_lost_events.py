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


def catch_up(whole: Whole) -> None:
    """Let the next tick come now."""
    with whole.inject(_IMPATIENT):
        run = whole.api.run("catch_up", whole.api.trigger("catch_up", None))
        assert end_of(whole, run).state == "success"


@pytest.mark.promise("R16")
def test_scoring_and_monitor_catch_up_when_the_features_event_was_lost(whole: Whole) -> None:
    with unpublished(whole, SCORES, VERDICT):
        n_runs = _count_runs(whole, "score__flight_delayed")
        with deaf(whole, "score__flight_delayed"):
            assert end_of(whole, start(whole, "transform")).state == "success"
            wait_until_quiet(whole)
        assert _count_runs(whole, "score__flight_delayed") == n_runs
        assert SCORES not in contents(whole)
        catch_up(whole)
        eventually(lambda: VERDICT in contents(whole), 400, "scored and measured")
        wait_until_quiet(whole)
    assert not_green(whole.api, whole.api.runs(NIGHT)) == []


@pytest.mark.promise("R16")
def test_transform_catches_up_when_the_raw_events_were_lost(whole: Whole) -> None:
    with unpublished(whole, FEATURES):
        with deaf(whole, "transform"):
            assert end_of(whole, start(whole, "ingest")).state == "success"
            wait_until_quiet(whole)
        assert FEATURES not in contents(whole)
        catch_up(whole)
        eventually(lambda: FEATURES in contents(whole), 300, "built")
        wait_until_quiet(whole)


@pytest.mark.promise("R16")
def test_an_order_to_retrain_is_followed_once_when_its_event_was_lost(whole: Whole) -> None:
    model, night = "arrival_delay_minutes", Partition.parse(NIGHT)
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
    assert [one.decision_id for one in closed] == [order.decision_id]


def test_nothing_is_woken_when_nothing_is_stranded(whole: Whole) -> None:
    wait_until_quiet(whole)
    before = len(whole.api.runs(NIGHT))
    catch_up(whole)
    wait_until_quiet(whole)
    assert len(whole.api.runs(NIGHT)) == before


@pytest.mark.promise("R11")
def test_a_backfill_that_races_the_nightly_run_publishes_the_same_content(whole: Whole) -> None:
    predictions = {
        f"predictions/{dag_id.partition('__')[2]}"
        for dag_id in expected_dags(whole.settings)
        if dag_id.startswith("score__")
    }
    with unpublished(whole, FEATURES, *predictions):
        before = _count_runs(whole, "ingest")
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
        assert _count_runs(whole, "ingest") == before + 2
    assert not_green(whole.api, whole.api.runs(NIGHT)) == []


def _count_runs(whole: Whole, dag_id: str) -> int:
    return sum(run.dag_id == dag_id for run in whole.api.runs(NIGHT))
