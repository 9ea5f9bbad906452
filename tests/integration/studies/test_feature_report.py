"""The feature report: what decides is found, what is noise is not, and the budget holds."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.contracts.run import RunContext
from nightshift.orchestration import monitor_tasks
from nightshift.orchestration import task_scope as scopes
from nightshift.studies.feature_page import render_markdown
from nightshift.studies.feature_report import report_features
from nightshift.studies.report_store import is_due, read_report
from nightshift.studies.view_costs import view_costs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
RUN = RunContext("features/test", 1, "test")


@pytest.fixture(scope="module")
def spec(court):
    causes = [
        {"name": "weather", "features": ["wind"]},
        {"name": "parcel", "features": ["weight", "is_fragile", "distance"]},
    ]
    document = court.spec.model_dump() | {"analytics": {"causes": causes}}
    return type(court.spec).model_validate(document)


@pytest.fixture(scope="module")
def report(court, spec):
    return report_features(court.settings, spec, RUN)


@pytest.mark.mlts("data-2")
def test_a_group_that_decides_earns_its_place(report):
    benefit = {found.name: found for found in report.of("benefit")}
    assert benefit.keys() == {"weather", "parcel", "other"}
    # Wind decides, and every draw of days says so.
    assert benefit["weather"].low > 0.02
    assert benefit["weather"].value > benefit["parcel"].value
    assert report.loss == "log_loss"
    assert report.left_out == []


def test_importance_is_there_for_whole_weeks_by_feature_and_cause(report):
    weeks = sorted({found.period for found in report.of("shapley")})
    # The window is 44 days until 2020-02-13: six whole weeks, counted back from its end.
    assert weeks == [
        "2020-01-03", "2020-01-10", "2020-01-17", "2020-01-24", "2020-01-31", "2020-02-07",
    ]  # fmt: skip
    last = {found.name: found.value for found in report.of("shapley") if found.period == weeks[-1]}
    assert max(last, key=last.get) == "wind"
    causes = {found.name: found.value for found in report.of("cause") if found.period == weeks[-1]}
    assert causes["weather"] == pytest.approx(last["wind"])
    # Within a group contributions may cancel.
    assert causes["parcel"] <= last["weight"] + last["is_fragile"] + last["distance"] + 1e-12
    gains = [found for found in report.of("gain") if found.name == "wind"]
    assert [found.note for found in gains] == ["version 1"]


@pytest.mark.mlts("data-3")
def test_each_view_costs_its_part_of_the_loads_of_the_ledger(conn):
    """A load of two views and two days, of eight seconds, is two seconds each."""
    conn.execute("create table features.feat_small (n integer)")
    conn.execute("insert into features.feat_small select generate_series(1, 10000)")
    conn.execute(
        """
        insert into ops.loads (dataset, partition_date, load_id, token, state, run_id, attempt,
            actor, code_version, inputs, inputs_digest, n_rows, content_hash, started_at,
            published_at)
        select view, day, 1, 1, 'published', 'r', 1, 'test', 'test', '{}', 'd', 5000, 'h',
            '2020-01-01 00:00:00+00', '2020-01-01 00:00:08+00'
        from unnest(array['features/small', 'features/gone']) view,
            unnest(array['2020-01-01', '2020-01-02']::date[]) day
        """
    )
    costs = {(cost.finding, cost.name): cost.value for cost in view_costs(conn)}
    (n_bytes,) = conn.execute("select pg_total_relation_size('features.feat_small')").fetchone()
    assert costs == {
        ("seconds", "small"): 2.0,
        ("seconds", "gone"): 2.0,
        ("bytes", "small"): n_bytes / 2,
    }


def test_learning_curves_end_at_the_whole(report):
    assert {found.name for found in report.of("learning_days")} == {"5 of 23 days", "11 of 23 days"}
    assert {found.name for found in report.of("learning_rows")} == {"25% of rows", "50% of rows"}
    (few, _) = sorted(report.of("learning_rows"), key=lambda found: found.name)
    assert few.low < few.value < few.high
    assert "carrier" in {found.name for found in report.of("night_constant")}


def test_a_repeated_report_replaces_the_first_and_a_month_has_one(court, spec, report):
    with_less = report_features(court.settings, spec, RUN, budget_seconds=0)
    assert with_less.of("benefit") == []
    assert "benefit weather" in with_less.left_out
    assert read_report(court.conn, spec.name) == with_less
    count = "select count(*) from ml.feature_reports"
    assert court.conn.execute(count).fetchone() == (1,)
    assert not is_due(court.conn, spec)
    court.conn.execute("delete from ml.feature_reports")
    assert is_due(court.conn, spec)
    # Nothing is due where nothing serves: there may be too few days to judge.
    assert not is_due(court.conn, spec.model_copy(update={"name": "serves_nowhere"}))


def test_the_task_of_noon_makes_it_once(court, spec, monkeypatch):
    given = {
        "dag_run": SimpleNamespace(dag_id="study__parcel_late", run_id="noon"),
        "ti": SimpleNamespace(task_id="report_features", try_number=1, map_index=-1),
        "task": SimpleNamespace(execution_timeout=dt.timedelta(minutes=5)),
    }
    monkeypatch.setattr(scopes, "get_current_context", lambda: given)
    monkeypatch.setattr(scopes, "load_settings", lambda: court.settings)
    monkeypatch.setattr(scopes, "load_spec", lambda *_: spec)
    court.conn.execute("delete from ml.feature_reports")
    assert monitor_tasks.is_report_due.function(spec.name, "2020-02-20")
    done = monitor_tasks.report_features.function(spec.name, "2020-02-20")
    kept = read_report(court.conn, spec.name)
    assert done == {"partition": str(kept.partition_date), "n_rows": kept.n_rows}
    assert not monitor_tasks.is_report_due.function(spec.name, "2020-02-21")


def test_the_page_shows_every_part(report):
    page = render_markdown(report)
    for title in ("What groups are worth", "Causes over time", "Learning curves", "Redundant"):
        assert f"## {title}" in page
    row = next(line for line in page.splitlines() if line.startswith("| weather | +"))
    assert " .. +" in row
    empty = render_markdown(replace(report, findings=[], version=None))
    assert empty.count("None.") == 7


def test_the_command_shows_the_kept_report_without_a_fit(court, spec, monkeypatch):
    monkeypatch.setattr("nightshift.cli.models.features.load_settings", lambda: court.settings)
    monkeypatch.setattr("nightshift.contracts.model_spec.load_spec", lambda *_: spec)
    made = report_features(court.settings, spec, RUN, budget_seconds=0)
    monkeypatch.setattr("nightshift.studies.feature_report.report_features", None)
    shown = CliRunner().invoke(app, ["features", "report", "parcel_late", "--stored", "--json"])
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert document["n_rows"] == made.n_rows
    due = CliRunner().invoke(app, ["features", "report", "parcel_late", "--if-due"])
    assert "or this month has one" in due.stdout
