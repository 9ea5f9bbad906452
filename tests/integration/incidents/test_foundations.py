"""Rules about what everything stands on: locks, views, suites, inodes, and who says so first."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
from types import SimpleNamespace

import psycopg
import pytest
from tests.conftest import write_suite

from nightshift.contracts.datasets import load_contracts
from nightshift.incidents.evaluation import evaluate
from nightshift.incidents.records import Incident, open_incidents
from nightshift.incidents.rules import services
from nightshift.incidents.rules.declared import RULES
from nightshift.settings import PROJECT_ROOT, Settings
from nightshift.warehouse import schema_lock
from nightshift.warehouse.migrate import migrate
from nightshift.warehouse.relations.schema_views import missing_schema_views, schema_views
from nightshift.warehouse.schema_lock import TableLockedError

pytestmark = pytest.mark.integration

DATASETS = PROJECT_ROOT / "dags" / "datasets"


@pytest.fixture
def project(settings, tmp_path) -> Settings:
    """Return settings of a project with one dataset and its suite."""
    folder = tmp_path / "dags" / "datasets"
    folder.mkdir(parents=True)
    (folder / "weather.yaml").write_text((DATASETS / "weather.yaml").read_text())
    suites = write_suite(tmp_path / "expectations", "raw/weather")
    changed = {"dags_dir": tmp_path / "dags", "expectations_dir": suites, "home": tmp_path}
    return Settings(**(dict(settings) | changed))


def look(settings: Settings, conn, *kinds: str) -> list[Incident]:
    """Evaluate some rules as if none had a pause, and return what is broken."""
    conn.execute("delete from ops.incident_rules")
    rules = [rule for rule in RULES if rule.kind in kinds]
    assert len(rules) == len(kinds)
    evaluate(settings, rules=rules)
    return open_incidents(conn)


@pytest.fixture
def other(settings):
    """Return the session of somebody else."""
    with psycopg.connect(
        host=settings.warehouse_host,
        port=settings.warehouse_port,
        dbname=settings.warehouse_database,
        user=settings.warehouse_user,
        password=settings.warehouse_password.get_secret_value(),
        application_name="a report",
    ) as conn:
        yield conn


def test_a_session_that_holds_a_table_is_named_and_explains_the_rules_that_fail(
    project, conn, other, monkeypatch
):
    kinds = ("held locks", "missing drop", "lost pointers")
    assert look(project, conn, *kinds) == []
    other.execute("lock table ops.published in access exclusive mode")
    # A moment is no incident: a deployment takes locks too.
    assert look(project, conn, "held locks") == []
    monkeypatch.setattr(schema_lock, "HELD_FOR", dt.timedelta())
    (incident,) = look(project, conn, *kinds)
    assert (incident.code, incident.severity) == ("NS-WAREHOUSE-017", "critical")
    assert f"process {other.info.backend_pid}, a report" in incident.what
    assert f"pg_terminate_backend({other.info.backend_pid})" in incident.command
    # What it has made itself nobody waits for.
    other.rollback()
    other.execute("create table ops.new_one ()")
    assert look(project, conn, *kinds) == []


def test_who_holds_the_tables_of_incidents_is_named_though_nothing_can_be_recorded(
    project, conn, other
):
    other.execute("lock table ops.incidents in access exclusive mode")
    with pytest.raises(TableLockedError, match=r"ops\.incidents") as caught:
        evaluate(project)
    assert str(other.info.backend_pid) in caught.value.command


def test_every_view_of_the_migrations_comes_back_when_it_was_dropped(project, conn):
    contracts = load_contracts(DATASETS)
    columns = """
        select table_schema, table_name, column_name, data_type from information_schema.columns
        where (table_schema, table_name) in (select schemaname, viewname from pg_views)
            and table_schema = any(%s)
        order by 1, 2, ordinal_position
    """
    schemas = [["ops", "ml", "monitoring", "metrics", "quarantine"]]
    before = conn.execute(columns, schemas).fetchall()
    assert {f"{schema}.{view}" for schema, view, *_ in before} == schema_views().keys()
    for name in ("ml.succession", "ops.health", "monitoring.verdicts_published"):
        conn.execute(f"drop view if exists {name} cascade".encode())
    lost = missing_schema_views(conn)
    assert "ml.succession" in lost

    (incident,) = look(project, conn, "missing views", "late predictions")
    assert (incident.code, incident.command) == ("NS-WAREHOUSE-010", "nightshift migrate")
    assert migrate(conn, contracts) == []
    assert conn.execute(columns, schemas).fetchall() == before
    assert look(project, conn, "missing views", "late predictions") == []


@pytest.mark.parametrize("content", ["", '{"name": "raw/weather", "expectations": []}', None])
def test_a_suite_that_cannot_judge_is_seen_by_day_and_git_brings_it_back(project, conn, content):
    folder = project.expectations_dir
    suite = folder / "raw" / "weather.json"
    git = ["git", "-C", str(folder)]
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for arguments in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "suites"]):
        subprocess.run([*git, *arguments], check=True)
    conn.execute(
        """
        insert into ops.loads (
            dataset, partition_date, load_id, token, state, run_id, attempt, actor, code_version,
            inputs, inputs_digest, published_at
        ) values (
            'raw/weather', current_date - 1, 1, 1, 'published', 'r', 1, 'airflow', 'c', '{}', 'i',
            clock_timestamp()
        )
        """
    )
    assert look(project, conn, "wrong suites") == []
    suite.unlink() if content is None else suite.write_text(content)
    (incident,) = look(project, conn, "wrong suites")
    assert (incident.code, incident.subject) == ("NS-GATE-002", "expectations/raw/weather.json")
    subprocess.run(incident.command.split(), check=True)
    assert look(project, conn, "wrong suites") == []


def test_a_disk_without_inodes_is_seen_whatever_space_is_free(project, conn, monkeypatch):
    usage = os.statvfs(project.home)
    names = [name for name in dir(usage) if name.startswith("f_")]
    short = SimpleNamespace(**{name: getattr(usage, name) for name in names})
    short.f_files, short.f_favail = 1_000_000, 4_000
    assert look(project, conn, "disk space") == []
    monkeypatch.setattr(services.os, "statvfs", lambda _: short)
    (incident,) = look(project, conn, "disk space")
    assert (incident.code, incident.severity) == ("NS-SPACE-001", "critical")
    assert "inodes" in incident.what
    # A file system without such a table has no limit.
    short.f_files = 0
    assert look(project, conn, "disk space") == []
