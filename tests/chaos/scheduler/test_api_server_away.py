"""Airflow's API server is away in the middle of a night, or everything of Airflow is killed: the
night ends by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from tests.chaos.scheduler.disturbance import (
    contents,
    eventually,
    start,
    unpublished,
    wait_until_quiet,
)
from tests.whole_night import IMPATIENT, NIGHT, Whole, not_green

from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.connection import connect
from nightshift_local.process import ServerProcess
from nightshift_local.servers.airflow_parts import API_SERVER, DAG_PROCESSOR, SCHEDULER
from nightshift_local.supervisor import NAME as SUPERVISOR

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.timeout(1500, func_only=True),
    pytest.mark.long,
]

NIGHT_DATA = ("features/flight", "predictions/flight_delayed", "predictions/arrival_delay_minutes")
AWAY_SECONDS = 75
"""Longer than three tries with Airflow's own defaults would last."""


def kill(whole: Whole, name: str) -> None:
    """End a part of the home and all that it has started, without a chance to say a word."""
    process = ServerProcess(whole.settings.home, name)
    for one in {*process.members(), *filter(None, [process.find()])}:
        with suppress(psutil.NoSuchProcess):
            one.kill()


def wait_for_build(whole: Whole) -> None:
    """Wait until the night's features are being built."""

    def is_building() -> bool:
        runs = [
            run
            for run in whole.api.runs(NIGHT)
            if run.dag_id == "transform" and run.state == "running"
        ]
        return any(task["state"] == "running" for run in runs for task in whole.api.tasks(run))

    eventually(is_building, 300, "the features are being built")


def wait_for_night(whole: Whole) -> None:
    eventually(lambda: set(NIGHT_DATA) <= set(contents(whole)), 600, "the night is published")
    eventually(lambda: _answers(whole), 300, "the API server is back")
    wait_until_quiet(whole, 600)


def _answers(whole: Whole) -> bool:
    with suppress(Exception):
        return bool(whole.api.dag_ids())
    return False


def failed_tries(whole: Whole, since: float) -> list[tuple[str, str]]:
    """Return the tries whose own code has failed since then."""
    query = """
        select dag_id || '.' || task_id, outcome from ops.task_tries
        where started_at > to_timestamp(%s) and outcome <>
            all('{success,skipped,waiting,NS-AIRFLOW-001}')
    """
    with connect(whole.settings, "test") as conn:
        return conn.execute(query, [since]).fetchall()


@pytest.fixture
def red_before(whole: Whole) -> set[str]:
    wait_until_quiet(whole)
    return set(not_green(whole.api, whole.api.runs(NIGHT)))


@pytest.mark.promise("R16")
def test_the_night_ends_by_itself_when_the_api_server_is_away_for_more_than_a_minute(
    whole: Whole, red_before: set[str]
) -> None:
    began = time.time()
    with unpublished(whole, *NIGHT_DATA):
        start(whole, "ingest")
        wait_for_build(whole)
        stopped = []
        until = time.monotonic() + AWAY_SECONDS
        while time.monotonic() < until:
            kill(whole, API_SERVER)
            scheduler = ServerProcess(whole.settings.home, SCHEDULER).find()
            stopped.append(scheduler is not None and scheduler.status() == psutil.STATUS_STOPPED)
            time.sleep(1)
        assert sum(stopped) > len(stopped) / 2, "nothing is dispatched meanwhile"
        wait_for_night(whole)
    assert failed_tries(whole, began) == []
    assert set(not_green(whole.api, whole.api.runs(NIGHT))) <= red_before


@pytest.mark.promise("R16")
def test_the_night_ends_by_itself_when_all_of_airflow_was_killed_and_is_started_again(
    whole: Whole, red_before: set[str]
) -> None:
    with unpublished(whole, *NIGHT_DATA):
        start(whole, "ingest")
        wait_for_build(whole)
        for name in (SUPERVISOR, SCHEDULER, API_SERVER, DAG_PROCESSOR):
            kill(whole, name)
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")
        }
        own = {
            "NIGHTSHIFT_HOME": str(whole.settings.home),
            "NIGHTSHIFT_DAGS_DIR": str(whole.settings.dags_dir),
        }
        env |= own | {"PYTHONPATH": str(PROJECT_ROOT / "plugins")} | IMPATIENT
        up = [sys.executable, "-m", "nightshift.cli", "up", "--only", "postgres,s3,airflow"]
        done = subprocess.run(up, env=env, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_for_night(whole)
    assert set(not_green(whole.api, whole.api.runs(NIGHT))) <= red_before
