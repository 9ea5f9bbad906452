"""Requests to Airflow's API become acts with the user's name; looking is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.errors import SettingsError
from nightshift.orchestration.api_server import acts as module
from nightshift.orchestration.api_server.acts import RecordActs, act_of
from nightshift.warehouse.control_tables.acts import RunningAct

FORM = {"conf": {"model": "late", "to_version": 2, "reason": "it broke"}, "note": None}


@pytest.mark.parametrize(
    ("method", "path", "body", "name", "reason"),
    [
        ("POST", "/dags/rollback/dagRuns", FORM, "airflow.trigger", "it broke"),
        (
            "POST",
            "/dags/ingest/clearTaskInstances",
            {"dry_run": False, "note": "file is back"},
            "airflow.clear",
            "file is back",
        ),
        ("POST", "/dags/a/dagRuns/r1/clear", {"dry_run": False}, "airflow.clear", ""),
        ("PATCH", "/dags/a/dagRuns/r1", {"state": "failed"}, "airflow.mark", ""),
        ("PATCH", "/dags/a/dagRuns/r1/taskInstances/t", {}, "airflow.mark", ""),
        ("PATCH", "/dags/a", {"is_paused": True}, "airflow.pause", ""),
        ("POST", "/backfills", {"dag_id": "ingest"}, "airflow.backfill", ""),
        ("PATCH", "/variables/x", {"value": "secret"}, "airflow.variables.patch", ""),
    ],
)
def test_request_is_an_act(method: str, path: str, body: Any, name: str, reason: str):
    act = act_of(method, path, json.dumps(body).encode(), "ann")
    assert act is not None
    assert (act.name, act.actor, act.reason, act.door) == (name, "airflow:ann", reason, "airflow")
    # Bodies of other resources may hold secrets.
    assert "secret" not in json.dumps(act.arguments)


@pytest.mark.parametrize(
    ("body", "is_trial"),
    [
        (b"{}", True),
        (b'{"dry_run": true}', True),
        (b'{"dry_run": false}', False),
        # Airflow takes these for false, or refuses them.
        (b'{"dry_run": 0}', False),
        (b'{"dry_run": "no"}', False),
        (b"", False),
        (b"[" * 60_000, False),
        (b'{"dry_run": false, "task_ids": ["%s"]}' % (b"x" * module.MAX_BODY_BYTES), False),
    ],
    ids=range(8),
)
def test_a_clear_is_no_act_only_where_it_surely_tries(body: bytes, is_trial: bool):
    assert (act_of("POST", "/dags/a/clearTaskInstances", body, "ann") is None) == is_trial


def test_a_conf_that_is_no_object_is_recorded():
    act = act_of("POST", "/dags/a/dagRuns", b'{"conf": ["reason"]}', "ann")
    assert act is not None
    assert act.arguments == {"conf": ["reason"], "dag": "a"}


@pytest.mark.parametrize(
    ("method", "path", "changes"),
    [
        ("POST", "/dags/~/dagRuns/list", False),
        ("POST", "/backfills/dry_run", False),
        ("PATCH", "/dags/a/dagRuns/r/taskInstances/t/dry_run", False),
        ("PATCH", "/dags/a/dagRuns/r/taskInstances/t/0/dry_run", False),
        # Things of these names.
        ("PATCH", "/dags/list", True),
        ("DELETE", "/variables/dry_run", True),
        ("PATCH", "/dags/a/dagRuns/r/taskInstances/dry_run", True),
        ("POST", "x", False),
    ],
)
def test_only_a_question_and_a_trial_are_passed_on(method: str, path: str, changes: bool):
    scope = {"type": "http", "method": method, "path": f"/api/v2{path}"}
    assert module.changes_something(scope) == changes


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": "Bearer ann"}, "ann"),
        # As Airflow decides: a header before a cookie, and any space between its words.
        ({"authorization": "bearer  ann", "cookie": "_token=bob"}, "ann"),
        ({"authorization": "Basic ann", "cookie": "_token=bob"}, "bob"),
        ({}, None),
    ],
)
def test_the_user_is_the_one_whom_airflow_sees(monkeypatch, headers: dict, name: str | None):
    from airflow.api_fastapi.core_api import security

    async def resolve(token):
        if not token:
            raise ValueError("no token")
        return SimpleNamespace(get_name=token.strip)

    monkeypatch.setattr(security, "resolve_user_from_token", resolve)
    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw}
    assert asyncio.run(module.user_of(scope)) == name


def serve(
    monkeypatch,
    *,
    path: str,
    user: str | None,
    status: int = 200,
    load_settings: Callable[[], Any] = lambda: None,
    act_id: int | None = 1,
) -> tuple[list, bytes]:
    """Send one POST through the middleware; return what was recorded, and what Airflow read."""
    recorded: list[Any] = []
    read: list[bytes] = []

    async def airflow(scope, receive, send):
        message = await receive()
        read.append(message["body"])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b'{"dag_run_id": "r7"}'})

    async def receive():
        return {"type": "http.request", "body": b'{"conf": {}}', "more_body": False}

    async def send(message):
        return None

    async def known(_):
        return user

    def begin(settings, act):
        recorded.append(act.name)
        return RunningAct(act_id)

    def end(settings, act, running, code):
        recorded.append((running.read_back, code))

    monkeypatch.setattr(module, "user_of", known)
    monkeypatch.setattr(module, "load_settings", load_settings)
    monkeypatch.setattr(module, "begin_act", begin)
    monkeypatch.setattr(module, "end_act", end)
    scope = {"type": "http", "method": "POST", "path": path}
    asyncio.run(RecordActs(airflow)(scope, receive, send))
    return recorded, b"".join(read)


def test_an_act_is_recorded_with_the_run_that_came_of_it(monkeypatch):
    recorded, read = serve(monkeypatch, path="/api/v2/dags/a/dagRuns", user="ann")
    assert recorded == ["airflow.trigger", ({"status": 200, "dag_run_id": "r7"}, None)]
    assert read == b'{"conf": {}}'


def test_a_refused_request_is_a_failed_act(monkeypatch):
    recorded, _ = serve(monkeypatch, path="/api/v2/dags/a/dagRuns", user="ann", status=403)
    assert recorded[1][1] == "HTTP 403"


@pytest.mark.parametrize(
    ("path", "user"),
    [
        ("/api/v2/dags/a/dagRuns", None),
        ("/api/v2/dags/~/dagRuns/list", "ann"),
        ("/execution/task-instances/1/run", "ann"),
    ],
)
def test_a_question_a_task_and_a_stranger_are_passed_on(monkeypatch, path: str, user: str | None):
    recorded, read = serve(monkeypatch, path=path, user=user)
    assert recorded == []
    assert read == b'{"conf": {}}'


def test_an_act_that_could_not_be_recorded_before_is_recorded_or_logged_after(monkeypatch):
    recorded, _ = serve(monkeypatch, path="/api/v2/dags/a/dagRuns", user="ann", act_id=None)
    assert recorded[1] == ({"status": 200, "dag_run_id": "r7"}, None)


def test_a_request_is_served_when_nothing_can_be_recorded(monkeypatch, caplog):
    def broken():
        raise SettingsError("No password.")

    recorded, read = serve(
        monkeypatch, path="/api/v2/dags/a/dagRuns", user="ann", load_settings=broken
    )
    assert recorded == []
    assert read == b'{"conf": {}}'
    assert "airflow.trigger by airflow:ann is not on record" in caplog.text
    assert "No password." in caplog.text
