"""``catch_up`` ends analysts' sessions that hold up deployments, every ten minutes."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace

import psycopg
import pytest
from airflow.sdk.exceptions import AirflowSkipException

from nightshift.cli.services.migrate import as_admin
from nightshift.orchestration import reconcile
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.analysts.logins import ANALYST
from nightshift.warehouse.connection import connect

pytestmark = pytest.mark.integration


def test_catch_up_ends_a_long_transaction_of_an_analyst_and_finds_nothing_stranded(
    settings, monkeypatch
):
    with connect(as_admin(settings), "test admin") as admin:
        apply_grants(admin)
        guard = "select pg_get_functiondef('ops.end_hindering_sessions'::regproc)"
        (rule,) = admin.execute(guard).fetchone()
        admin.execute(rule.replace("30 minutes'", "1 microsecond'").encode())
    task = SimpleNamespace(execution_timeout=dt.timedelta(minutes=5))
    monkeypatch.setattr(reconcile, "load_settings", lambda: settings)
    monkeypatch.setattr(reconcile, "get_current_context", lambda: {"task": task})
    reader = psycopg.connect(
        host=settings.warehouse_host,
        port=settings.warehouse_port,
        dbname=settings.warehouse_database,
        user=ANALYST,
        password=settings.analyst_password.get_secret_value(),
    )
    with reader:
        reader.execute("select 1")

        with pytest.raises(AirflowSkipException):
            reconcile.find_stranded.function()

        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            reader.execute("select 2")
