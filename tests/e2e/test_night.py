"""One night through the real scheduler, and every task of it once more."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from tests.processor_time import STAGES, difference, processor_seconds
from tests.whole_night import NIGHT, Whole, expected_dags, not_green

from nightshift.incidents import evaluation
from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.records import open_incidents
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect
from nightshift_local.airflow_api import AirflowApi, DagRun
from nightshift_local.servers.airflow_parts import API_SERVER

pytestmark = [pytest.mark.airflow, pytest.mark.integration, pytest.mark.timeout(900)]

RERUN_TIMEOUT_SECONDS = 240
# Each minute of a night of two and a half; six have every rule at least twice.
LOOKS_OF_A_NIGHT, LOOKS = 3, 6


def published(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return content hash and rows of everything that readers see of the night."""
    query = """
        select p.dataset, l.content_hash,
            l.n_rows from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.partition_date = %s and p.dataset not like 'monitoring%%'
            and p.dataset not like 'shadow/%%'
    """
    with connect(settings, "test") as conn:
        return {
            dataset: (content_hash, n_rows)
            for dataset, content_hash, n_rows in conn.execute(query, [NIGHT])
        }


@pytest.mark.mlts("infra-3")
def test_a_night_runs_every_dag_and_publishes_every_dataset(whole: Whole) -> None:
    """That each run of it was green is seen when ``whole`` runs the night."""
    _wait_until_quiet(whole.api)
    runs = whole.api.runs(NIGHT)
    assert {run.dag_id for run in runs} == expected_dags(whole.settings)
    assert set(published(whole.settings)) == {
        "raw/flight_schedules",
        "raw/flight_outcomes",
        "raw/weather",
        "features/flight",
        "predictions/flight_delayed",
        "predictions/arrival_delay_minutes",
    }


def test_a_good_night_leaves_no_incident(whole: Whole) -> None:
    _wait_until_quiet(whole.api)
    # Without Airflow: other tests of this home let tasks of theirs fail.
    evaluation = evaluate(whole.settings)
    assert evaluation.failed_rules == ()
    with connect(whole.settings, "test") as conn:
        assert [(incident.code, incident.what) for incident in open_incidents(conn)] == []


def test_looking_for_incidents_takes_a_hundredth_of_a_night(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, record_figure: Callable[[str, float], None]
) -> None:
    """By processor time, which a busy machine changes less than its clock."""
    _wait_until_quiet(whole.api)
    backends: list[float] = []
    real_connect = evaluation.connect

    @contextmanager
    def observed_connect(*arguments: Any) -> Iterator[Any]:
        with real_connect(*arguments) as conn:
            yield conn
            times = psutil.Process(conn.info.backend_pid).cpu_times()
            backends.append(times.user + times.system)

    monkeypatch.setattr(evaluation, "connect", observed_connect)
    # The first look of a process reads all files; a watch goes on for weeks.
    evaluate(whole.settings, airflow=whole.api)
    backends.clear()
    own, before = time.process_time(), processor_seconds(whole.settings.home)
    for _ in range(LOOKS):
        # As if a minute had passed: some rules are due every two or three.
        with connect(whole.settings, "test") as conn:
            conn.execute(
                "update ops.incident_rules set evaluated_at = evaluated_at - interval '1 minute'"
            )
        assert evaluate(whole.settings, airflow=whole.api).failed_rules == ()
    used = difference(before, processor_seconds(whole.settings.home))
    servers = used[API_SERVER] + used["s3"] + sum(backends)
    look = (time.process_time() - own + servers) / LOOKS
    night = sum(whole.cost[part] for part in STAGES)
    share = LOOKS_OF_A_NIGHT * look / night
    figures = {
        "processor seconds of a look for incidents": look,
        "of these in Airflow's API": used[API_SERVER] / LOOKS,
        "of these in the warehouse": sum(backends) / LOOKS,
        "processor seconds of a night's stages": night,
        "share of a night that looking takes": share,
    }
    for name, value in figures.items():
        record_figure(name, value)
        print(f"{name}: {value:.4f}")
    assert share < 0.01


def test_airflow_says_until_when_a_run_may_hold_its_slot(whole: Whole) -> None:
    # As the DAG files declare it; `nightshift status` tells it to whoever waits.
    assert whole.api.longest_run("ingest") == dt.timedelta(hours=12)
    assert whole.api.longest_run("train__flight_delayed") == dt.timedelta(hours=24)


def test_the_critical_path_of_a_night_adds_up(whole: Whole) -> None:
    if not whole.path:
        pytest.skip("the runs of a kept home may have been cleared")
    names = [step.task.partition("[")[0] for step in whole.path]
    assert names[0].startswith("ingest.load_")
    assert names[-1].endswith(".publish")
    assert [name for name in names if name.startswith(("transform.", "ingest.announce"))] == [
        "ingest.announce_raw",
        "transform.build_features",
        "transform.announce_flight",
    ]
    assert all(
        min(step.waiting, step.starting, step.importing, step.working) >= 0 for step in whole.path
    )
    assert all(step.importing > 0.05 and step.working > 0 for step in whole.path)
    assert sum(step.seconds for step in whole.path) == pytest.approx(
        whole.night.seconds_to_predictions, abs=10
    )


def test_every_scheduled_flight_of_the_next_day_is_scored_once_by_the_champion(
    whole: Whole,
) -> None:
    query = """
        select count(*), count(distinct flight_id), min(model_version), max(model_version),
            min(score_source), max(score_source)
        from analytics.flight_delayed_current where partition_date = %s
    """
    with connect(whole.settings, "test") as conn:
        scored = conn.execute(query, [NIGHT]).fetchone()
        scheduled = conn.execute(
            "select n_rows from ops.loads where dataset = 'raw/flight_schedules' and "
            "partition_date = %s",
            [NIGHT],
        )
        n_flights = scheduled.fetchall()[-1][0]
    assert n_flights == 896
    assert scored == (n_flights, n_flights, 1, 1, "champion", "champion")


@pytest.mark.promise("R6")
@pytest.mark.promise("R11")
@pytest.mark.parametrize(
    "dag_ids",
    [
        pytest.param(["ingest"], id="ingest"),
        pytest.param(["transform"], id="transform", marks=pytest.mark.long),
        pytest.param(
            ["score__flight_delayed", "train__flight_delayed", "monitor__flight_delayed"],
            id="score, train and monitor",
            # They run again when `ingest` is cleared; their own tasks are cleared in
            # test_single_tasks.py and test_first_night.py.
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_cleared_dag_run_publishes_the_same_content(whole: Whole, dag_ids: list[str]) -> None:
    _wait_until_quiet(whole.api)
    before, red = published(whole.settings), not_green(whole.api, whole.api.runs(NIGHT))
    cleared = [
        next(run for run in whole.api.runs(NIGHT) if run.dag_id == dag_id) for dag_id in dag_ids
    ]
    for run in cleared:
        assert whole.api.clear(run) > 0
    _wait_until_quiet(whole.api)
    for run in cleared:
        assert whole.api.run(run.dag_id, run.run_id).state == "success"
    assert set(not_green(whole.api, whole.api.runs(NIGHT))) <= set(red)
    assert published(whole.settings) == before


def test_a_run_without_a_partition_fails_with_its_code(whole: Whole) -> None:
    run_id = whole.api.trigger("train__flight_delayed", None)
    run = _wait_for_end(whole.api, "train__flight_delayed", run_id)
    assert run.state == "failed"
    tasks = {task["task_id"]: task for task in whole.api.tasks(run)}
    is_due = tasks.pop("is_due")
    # A key that is missing needs a person: the first try is the only one.
    assert (is_due["state"], is_due["try_number"]) == ("failed", 1)
    assert {task["state"] for task in tasks.values()} == {"upstream_failed"}
    log = str(whole.api.log(run, "is_due", 1))
    assert "[NS-AIRFLOW-002]" in log
    assert "has no partition key" in log


def _wait_until_quiet(api: AirflowApi) -> None:
    """Wait until no run of the night is active, in three polls in a row."""
    n_quiet, started = 0, time.monotonic()
    while n_quiet < 3:
        time.sleep(1)
        n_quiet = (
            n_quiet + 1 if all(run.state in {"success", "failed"} for run in api.runs(NIGHT)) else 0
        )
        assert time.monotonic() - started < RERUN_TIMEOUT_SECONDS


def _wait_for_end(api: AirflowApi, dag_id: str, run_id: str) -> DagRun:
    started = time.monotonic()
    while (run := api.run(dag_id, run_id)).state not in {"success", "failed"}:
        time.sleep(1)
        assert time.monotonic() - started < RERUN_TIMEOUT_SECONDS
    return run
