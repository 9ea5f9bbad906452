"""Identifiers are functions of what they name; texts that a person typed are withheld."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys

import pytest

from nightshift.orchestration.task_scope import task_identity
from nightshift.settings import PROJECT_ROOT
from nightshift.telemetry.identifiers import (
    WITHHELD,
    airflow_run_id,
    declared_name,
    declared_word,
    error_name,
    lineage_run_id,
    run_digest,
    span_id,
    trace_id,
)
from nightshift.telemetry.night_records import task_of

DAY = dt.date(2013, 3, 4)


def test_a_night_has_the_same_trace_id_wherever_it_is_asked_for() -> None:
    # Written down: a change would split every night that is under way into two traces.
    assert f"{trace_id('nightshift/warehouse', DAY):032x}" == "71dac771ddc4b59e0ae969269e823645"
    assert f"{span_id(1, 'night'):016x}" == "705aab7137e458c1"


def test_nights_and_deployments_have_traces_of_their_own() -> None:
    ids = {
        trace_id(name, day)
        for name in ("a/warehouse", "b/warehouse")
        for day in (DAY, DAY + dt.timedelta(days=1))
    }
    assert len(ids) == 4
    assert all(0 < number < 2**128 for number in ids)


def test_a_lineage_run_is_a_uuid_of_the_deployment_and_the_load() -> None:
    assert lineage_run_id("a", "load 7") == lineage_run_id("a", "load 7")
    assert lineage_run_id("a", "load 7") != lineage_run_id("b", "load 7")


def test_a_load_names_the_task_that_wrote_it() -> None:
    identity = task_identity("score__m", "scheduled__1", "2013-03-04", "score_shard", 3)
    assert task_of(identity) == ("score__m", "score_shard.3", run_digest("scheduled__1"))


@pytest.mark.parametrize(
    "text",
    ["scheduled__2013-03-04T00:00:00+00:00", "asset_triggered__2026-11-30T01:02:03.456+00:00_aB3x"],
)
def test_a_run_id_of_airflows_own_is_kept(text: str) -> None:
    assert airflow_run_id(text) == text


@pytest.mark.parametrize("text", ["for jane doe", "manual__jane", "/home/jane/x", ""])
def test_a_run_id_that_a_person_typed_is_withheld(text: str) -> None:
    assert airflow_run_id(text) == WITHHELD


@pytest.mark.parametrize(
    "text", ["jane@example.com", "a b", "", "x" * 121, "ü", "/home/jane", "home/jane/x"]
)
def test_what_is_no_declared_name_is_withheld(text: str) -> None:
    assert declared_name(text) == WITHHELD


def test_a_declared_name_is_kept() -> None:
    assert declared_name("load/predictions/flight_delayed") == "load/predictions/flight_delayed"
    assert declared_word("great_expectations") == "great_expectations"
    assert error_name("NS-GATE-001") == "NS-GATE-001"
    assert error_name("KeyError") == "KeyError"


@pytest.mark.parametrize("text", ["Jane", "a b", "x" * 41, "a1b2c3", ""])
def test_what_is_no_word_of_ours_is_withheld(text: str) -> None:
    assert declared_word(text) == WITHHELD


def test_no_library_of_telemetry_is_imported_before_something_is_sent() -> None:
    code = (
        "import sys; import nightshift.telemetry.export_round, nightshift.stage_times;"
        "heavy = {'openlineage', 'opentelemetry', 'requests', 'google', 'psycopg'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "plugins")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
