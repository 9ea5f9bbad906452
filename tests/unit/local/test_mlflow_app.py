"""MLflow's pages: nothing without the login, and with it nothing but reading."""

import base64
import os
import re
import subprocess
import sys

import pytest

from nightshift_local.servers.mlflow_app import READS, ReadOnlyApp

LIST_ROUTES = """
from mlflow.server import app
for rule in app.url_map.iter_rules():
    for method in rule.methods:
        print(method, rule)
"""
WRITES = re.compile(
    r"create|delete|update|upload|set-|log-|rename|transition|restore|gateway|webhook|assistant|"
    r"invoke|jobs|presigned|mpu|scorers|secrets"
)


def _behind(_environ, start_response):
    start_response("200 OK", [])
    return [b"MLflow's answer"]


def _ask(method, path, login="admin:a password"):
    heard = []
    header = (
        {"HTTP_AUTHORIZATION": "Basic " + base64.b64encode(login.encode()).decode()}
        if login
        else {}
    )
    application = ReadOnlyApp(_behind, "a password")
    application(
        {"REQUEST_METHOD": method, "PATH_INFO": path, **header},
        lambda status, *_: heard.append(status),
    )
    return int(heard[0][:3])


@pytest.fixture(scope="module")
def routes():
    """Return method and path of each route of MLflow's application, placeholders filled."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", LIST_ROUTES],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    pairs = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert len(pairs) > 500
    return [(method, re.sub(r"<[^>]+>", "a1", path)) for method, path in pairs]


def test_every_route_asks_for_the_login_but_health(routes):
    answers = {
        _ask(method, path, login)
        for method, path in routes
        if path != "/health"
        for login in ("", "admin:", "admin:wrong", "a:b")
    }
    assert answers == {401}
    assert _ask("GET", "/health", "") == 200


def test_no_route_that_writes_passes_when_the_person_is_logged_in(routes):
    passing = {(method, path) for method, path in routes if _ask(method, path) == 200}
    assert {method for method, _ in passing} == {"GET", "POST"}
    assert [path for _, path in passing if WRITES.search(path)] == []
    writers = {
        re.sub(r"^/(ajax-)?api/2.0/mlflow/", "", path)
        for method, path in passing
        if method == "POST"
    }
    assert writers == {
        "/graphql", "experiments/search", "experiments/search-datasets", "logged-models/search",
        "registered-models/get-latest-versions", "runs/search",
    }  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/static-files/static/js/main.js",
        "/ajax-api/2.0/mlflow/experiments/search",
        "/get-artifact",
    ],
)
def test_pages_pass_when_the_person_is_logged_in(path):
    assert _ask("GET", path) == 200


@pytest.mark.parametrize(
    "path",
    [
        "/ajax-api/3.0/mlflow/assistant/config",
        "/ajax-api/3.0/mlflow/assistant/message",
        "/gateway/anything",
        "/model-versions/get-artifact",
        "/ajax-api/2.0/mlflow/upload-artifact",
        "/static-files/../../etc/passwd\n",
        "//get-artifact",
        "",
    ],
)
@pytest.mark.parametrize(
    "method", [*READS, "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "get"]
)
def test_other_paths_are_refused_when_the_person_is_logged_in(method, path):
    assert _ask(method, path) == 403


def test_pages_are_not_served_when_the_password_is_empty():
    with pytest.raises(ValueError, match="NIGHTSHIFT_MLFLOW_PASSWORD"):
        ReadOnlyApp(_behind, "")


def test_each_wrong_login_is_recorded_without_what_was_tried(caplog):
    for login in ("", "admin:a guess", "admin:a password", "somebody:a password"):
        _ask("GET", "/", login)
    assert caplog.messages == ["MLflow: a wrong login was refused."] * 2
