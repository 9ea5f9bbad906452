"""Airflow's login under our settings: a wrong one is refused, and a line of the log."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from nightshift_local.servers.airflow_settings import USER, airflow_environment, write_logins

GUESS = "a-guess-of-this-test"
LOGIN = f"""
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.common.http_access_log import HttpAccessLogMiddleware
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

app = Starlette(routes=[Mount("/auth", SimpleAuthManager().get_fastapi_app())])
app.add_middleware(HttpAccessLogMiddleware)
for path in ("/auth/token", "/auth/token/cli"):
    answer = TestClient(app).post(path, json={{"username": "{USER}", "password": "{GUESS}"}})
    assert answer.status_code == 401, answer.text
"""


def test_each_wrong_login_is_recorded_without_the_password(tmp_path):
    write_logins(tmp_path)
    (tmp_path / "airflow").mkdir()
    environment = airflow_environment(tmp_path, "postgresql://nobody@127.0.0.1:1/none", 1)
    done = subprocess.run(
        [sys.executable, "-c", LOGIN],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "[http.access]" in line]
    assert len(lines) == 2
    assert ["status_code=401" in line for line in lines] == [True, True]
    assert ["path=/auth/token" in line for line in lines] == [True, True]
    assert GUESS not in done.stdout + done.stderr
    assert json.loads((tmp_path / "secrets" / "airflow-logins.json").read_text())[USER] != GUESS
