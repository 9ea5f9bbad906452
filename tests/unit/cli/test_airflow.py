"""Which of Airflow's own commands are acts, and what is recorded of their arguments."""

from __future__ import annotations

import json

import pytest

from nightshift.cli.services.airflow import act_name, recorded_arguments
from nightshift.warehouse.control_tables.acts import redacted


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("assets materialize --asset-id 1", "airflow.assets.materialize"),
        ("dags clear ingest --yes", "airflow.dags.clear"),
        ("dags test ingest", "airflow.dags.test"),
        ("tasks test ingest load", "airflow.tasks.test"),
        ("db clean --yes", "airflow.db.clean"),
        ("db check", ""),
        ("pools set small 1 x", "airflow.pools.set"),
        ("variables import all.json", "airflow.variables.import"),
        ("connections add lake", "airflow.connections.add"),
        ("connections test lake", ""),
        ("connections list", ""),
        ("dags trigger --help", ""),
        ("dags", ""),
    ],
)
def test_a_command_that_changes_or_runs_something_is_an_act(call: str, name: str):
    assert act_name(call.split()) == name


CONF = '{"model": "late", "api_token": "t0p"}'
SHOWN = {"model": "late", "api_token": "…"}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["dags", "trigger", "a", "--conf", CONF], ["a", "--conf", SHOWN]),
        (["dags", "trigger", "-c", CONF, "a"], ["-c", SHOWN, "a"]),
        (["dags", "trigger", "a", f"--conf={CONF}"], ["a", "--conf=", SHOWN]),
        (["backfill", "create", "--dag-run-conf", CONF], ["--dag-run-conf", SHOWN]),
        (["dags", "trigger", "a", "-c", "t0p"], ["a", "-c", "…"]),
        (["dags", "trigger", "a", "--conf=t0p"], ["a", "…"]),
        (["dags", "trigger", "a", "-c", '{"api_token": t0p'], ["a", "-c", "…"]),
        (["variables", "set", "key", "t0p"], ["key", "…"]),
        (["variables", "set", "--description", "t0p", "key", "t0p"], ["…"]),
        (["connections", "add", "lake", "--conn-uri", "s3://t0p"], ["lake", "…"]),
        (["connections", "create-default-connections"], ["…"]),
    ],
)
def test_no_secret_is_recorded(arguments: list[str], shown: list):
    recorded = redacted({"arguments": recorded_arguments(arguments)})["arguments"]
    assert recorded == shown
    assert "t0p" not in json.dumps(recorded)
