"""A range of nights through the real scheduler, while another day waits for its drop."""

from __future__ import annotations

import time

import pytest
from examples.flights.upstream import deliver
from tests.whole_night import Whole, expected_dags, not_green

from nightshift.contracts.partitions import PartitionRange
from nightshift.warehouse.connection import connect
from nightshift_local.airflow_api import AirflowApi, DagRun
from nightshift_local.servers.airflow_parts import API_SERVER, AirflowPart

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.timeout(900),
    pytest.mark.long,
]

FIRST, LAST, UNDELIVERED = "2013-02-05", "2013-02-06", "2013-02-08"
TIMEOUT_SECONDS = 420
RESCHEDULE_TIMEOUT_SECONDS = 30


@pytest.mark.mlts("infra-3")
@pytest.mark.promise("R11")
def test_backfilled_nights_run_in_order_through_every_dag_while_another_day_waits(
    whole: Whole,
) -> None:
    waiting = whole.api.run("ingest", whole.api.trigger("ingest", UNDELIVERED))
    nights = PartitionRange.of(FIRST, LAST)
    deliver(whole.settings, nights)
    backfill = [
        "backfill",
        "create",
        "--dag-id",
        "ingest",
        "--from-date",
        FIRST,
        "--to-date",
        LAST,
        "--max-active-runs",
        "1",
    ]
    AirflowPart(whole.settings.home, API_SERVER).run(*backfill)
    runs = _wait_for(whole.api, expected_dags(whole.settings), nights)
    assert not_green(whole.api, runs) == []
    for dag_id in expected_dags(whole.settings):
        in_time = sorted(
            (run for run in runs if run.dag_id == dag_id), key=lambda run: run.started_at or ""
        )
        assert list(dict.fromkeys(run.partition_key for run in in_time)) == [FIRST, LAST]
    assert _published(whole, nights) == {
        (dataset, night.key) for night in nights for dataset in _datasets(whole)
    }
    _expect_tasks(
        whole.api,
        waiting,
        {
            "load_reference": ("success", 1),
            "load_flight_outcomes": ("up_for_reschedule", 1),
            "load_flight_schedules": ("up_for_reschedule", 1),
            "load_weather": ("up_for_reschedule", 1),
            "announce_raw": (None, 0),
            "tell_failures": (None, 0),
        },
    )


def _expect_tasks(
    api: AirflowApi, run: DagRun, expected: dict[str, tuple[str | None, int]]
) -> None:
    """Wait until the tasks have these states and tries; a waiting task runs for some seconds every
    two minutes."""
    started = time.monotonic()
    while (
        states := {task["task_id"]: (task["state"], task["try_number"]) for task in api.tasks(run)}
    ) != expected:
        assert time.monotonic() - started < RESCHEDULE_TIMEOUT_SECONDS, states
        time.sleep(1)


def _wait_for(api: AirflowApi, dag_ids: set[str], nights: PartitionRange) -> list[DagRun]:
    """Return the runs of the nights when every DAG has run for each of them and none is active, in
    three polls in a row."""
    n_quiet, started = 0, time.monotonic()
    while n_quiet < 3:
        time.sleep(1)
        runs = [run for night in nights for run in api.runs(night.key)]
        is_whole = {(run.dag_id, run.partition_key) for run in runs} == {
            (dag_id, night.key) for dag_id in dag_ids for night in nights
        }
        n_quiet = (
            n_quiet + 1
            if is_whole and all(run.state in {"success", "failed"} for run in runs)
            else 0
        )
        assert time.monotonic() - started < TIMEOUT_SECONDS, runs
    return runs


def _datasets(whole: Whole) -> set[str]:
    models = {dag_id.partition("__")[2] for dag_id in expected_dags(whole.settings)} - {""}
    return {"raw/flight_schedules", "raw/flight_outcomes", "raw/weather", "features/flight"} | {
        f"predictions/{name}" for name in models
    }


def _published(whole: Whole, nights: PartitionRange) -> set[tuple[str, str]]:
    query = (
        "select dataset, partition_date::text from ops.published where "
        "partition_date between %s and %s and dataset not like 'monitoring%%'"
    )
    with connect(whole.settings, "test") as conn:
        return set(conn.execute(query, [nights.first.day, nights.last.day]).fetchall())
