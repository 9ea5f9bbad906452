"""A plan is applied exactly, once, by one; and refused once anything that it rests on changed."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.flights.faults import Fault, FaultType
from examples.flights.upstream import deliver
from pydantic import SecretStr
from tests.databases import (
    copy_bucket,
    create_database,
    drop_database,
    new_name,
    own_database,
    run_as_admin,
)
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.cli.operations import apply as apply_command
from nightshift.cli.operations import plan as plan_command
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import PartitionRange
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import DropMissingError
from nightshift.plans import facts, stage_runner
from nightshift.plans.applying import PLAN_LOCK, PlanUsedError, apply_plan
from nightshift.plans.making import NothingToPlanError, Planner
from nightshift.plans.migration import plan_migration, refuse_stale_migration
from nightshift.plans.plan import (
    Plan,
    PlanBusyError,
    StalePlanError,
    UnknownPlanError,
    find_plan,
    store_plan,
)
from nightshift.reprocess.changes import published_hashes
from nightshift.reprocess.scope import Scope
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("warm_dbt", "quick_gate"),
]

DAYS = PartitionRange.of("2013-01-01", "2013-01-02")
FIRST, SECOND = DAYS.days
LATE = Fault(
    FaultType.CORRECTION,
    "flight_outcomes",
    FIRST,
    column="arrival_delay_minutes",
    value="500",
    n_rows=3,
    delay=dt.timedelta(hours=20),
)


@pytest.fixture
def settings(dbt_settings: Settings, tmp_path) -> Settings:
    return in_folder(dbt_settings, tmp_path)


def in_folder(settings: Settings, folder: Path) -> Settings:
    """Return settings with folders of the test's own; the parsed dbt project is the session's."""
    (folder / "home").mkdir()
    (folder / "home" / "dbt").symlink_to(settings.home / "dbt")
    folders = {}
    for name in ("dags_dir", "expectations_dir"):
        folders[name] = folder / name
        shutil.copytree(getattr(settings, name), folders[name])
    changes = {"home": folder / "home", "mlflow_tracking_uri": SecretStr(""), **folders}
    return settings.model_copy(update=changes)


def stored(conn, plan: Plan) -> Plan:
    """Keep a plan as the command does."""
    store_plan(conn, plan, "cli:ann")
    return find_plan(conn, plan.token)


def apply(settings: Settings, plan: Plan) -> Any:
    return apply_plan(settings, plan.token, "asked", "cli:ann", lambda _: None)


@pytest.fixture(scope="module")
def built_state(
    session_settings: Settings,
    dbt_database: tuple[str, str],
    warm_dbt: None,
    quick_gate: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Settings, str]]:
    """Return a database in which two days were loaded and built by a plan, and its copies' name."""
    template, name = dbt_database
    own = create_database(session_settings, template, name)
    settings = in_folder(own, tmp_path_factory.mktemp("built"))
    with connect(settings, "test") as conn:
        deliver(settings, DAYS, [])
        apply(settings, stored(conn, Planner(settings, conn).backfill(DAYS)))
    # The parsed project names its database: this one makes way for its copies.
    state = own.model_copy(update={"warehouse_database": new_name()})
    run_as_admin(own, f"alter database {name} rename to {state.warehouse_database}")
    yield state, name
    drop_database(state)


@pytest.fixture
def built(built_state: tuple[Settings, str], tmp_path) -> Iterator[Planner]:
    """Return a planner of a warehouse in which two days were loaded and built by a plan."""
    state, name = built_state
    with own_database(state, state.warehouse_database, name) as own:
        copy_bucket(state, own)
        settings = in_folder(own, tmp_path)
        with connect(settings, "test") as conn:
            yield Planner(settings, conn)


def test_a_backfill_is_applied_exactly_and_its_token_once(settings: Settings, conn):
    deliver(settings, DAYS, [])
    planner = Planner(settings, conn)
    plan = stored(conn, planner.backfill(DAYS))

    assert published_hashes(conn) == {}
    assert {step.stage for step in plan.work} == {"ingest", "transform"}
    assert plan.notes == ("features/*: 2 partition(s) new",)
    applied = apply(settings, plan)

    views = {spec.features_dataset for spec in planner.specs.values()}
    changed = {(change.dataset, change.day) for change in applied.changes}
    assert {(view, day) for view in views for day in DAYS.days} <= changed
    with pytest.raises(PlanUsedError) as used:
        apply(settings, plan)
    assert used.value.code == "NS-PLAN-002"
    with pytest.raises(UnknownPlanError):
        apply_plan(settings, "plan-nowhere", "asked", "cli:ann", print)

    # The same inputs and code: everything is reused.
    with pytest.raises(NothingToPlanError):
        planner.backfill(DAYS)
    again = planner.rerun(DAYS, everything=True)
    assert {step.stage for step in again.work} == {"transform", "score", "monitor"}
    # The record of the first application is what the second is expected to take.
    steps = conn.execute("select detail from ops.plan_events where event = 'step'").fetchall()
    timed = [detail for (detail,) in steps if detail["stage"] == "transform"]
    assert timed[0]["n_partitions"] == 2
    assert 0.3 * timed[0]["seconds"] < again.cost.seconds
    assert again.cost.n_rows == sum(
        n
        for (n,) in conn.execute(
            "select l.n_rows from ops.published p join ops.loads l"
            " using (dataset, partition_date, load_id) where p.dataset like 'features/%'"
        )
    )
    assert again.cost.n_bytes > 0


def test_a_backfill_of_days_that_nobody_has_delivered_is_no_plan(settings: Settings, conn):
    planner = Planner(settings, conn)
    deliver(settings, PartitionRange.of(str(FIRST)), [])
    with pytest.raises(DropMissingError, match="raw/weather 2013-01-02") as missing:
        planner.backfill(DAYS)
    assert "2013-01-01" not in missing.value.what
    # The look-back counts too: the day alone could not be built.
    deliver(settings, PartitionRange.of("2013-01-03"), [])
    with pytest.raises(DropMissingError, match="raw/weather 2013-01-01, "):
        planner.backfill(PartitionRange.of("2013-01-03"))
    deliver(settings, PartitionRange.of(str(SECOND)), [])
    assert planner.backfill(DAYS).work


def land_a_drop(settings: Settings, _: Any, __: Any) -> None:
    deliver(settings, PartitionRange.of(str(FIRST)), [LATE], ("flight_outcomes",))


def publish_a_raw_version(settings: Settings, _: Any, run: Any) -> None:
    land_a_drop(settings, _, run)
    load_late_drops(settings, "flight_outcomes", DAYS, run)


def move_a_pointer(_: Settings, conn: Any, __: Any) -> None:
    conn.execute(
        "update ops.published set load_id = load_id + 1000 where dataset = 'features/flight'"
        " and partition_date = %s",
        [SECOND],
    )


def change_file(folder: str, pattern: str) -> Callable[[Settings, Any, Any], None]:
    def change(settings: Settings, _: Any, __: Any) -> None:
        path = min(getattr(settings, folder).rglob(pattern))
        path.write_text(path.read_text() + "\n")

    return change


def change_champion(settings: Settings, conn: Any, _: Any) -> None:
    """Record a decision about a model that the plan scores."""
    name = min(load_specs(settings.models_dir))
    conn.execute("alter table ml.promotions drop constraint promotions_model_version_fkey")
    conn.execute(
        "insert into ml.promotions (model, version, verdict, partition_date, effective_partition,"
        " reasons, numbers, run_id, actor) values (%s, 1, 'first', %s, %s, '{}', '{}', 'x', 'ann')",
        [name, FIRST, FIRST],
    )


CHANGES = {
    "landed drops": land_a_drop,
    "raw versions": publish_a_raw_version,
    "pointers": move_a_pointer,
    "specs and contracts: models": change_file("dags_dir", "models/*.yaml"),
    "specs and contracts: datasets": change_file("dags_dir", "datasets/*.yaml"),
    "suites": change_file("expectations_dir", "*.json"),
    "champions": change_champion,
}


def test_a_stale_token_is_refused_whatever_changed(built: Planner, run, monkeypatch, tmp_path):
    settings, conn, n_refused = built.settings, built.conn, 0
    for name, change in CHANGES.items():
        plan = stored(conn, built.rerun(DAYS, everything=True))
        before = published_hashes(conn)
        change(settings, conn, run)
        changed = published_hashes(conn)
        with pytest.raises(StalePlanError) as stale:
            apply(settings, plan)
        assert stale.value.code == "NS-PLAN-004"
        assert name.partition(":")[0] in (stale.value.got or ""), name
        # Nothing was done: what readers see is what the change itself left.
        assert published_hashes(conn) == changed, name
        assert name in {"raw versions", "pointers"} or changed == before
        n_refused += 1
        conn.execute("update ops.published set load_id = load_id - 1000 where load_id > 1000")

    project = tmp_path / "dbt_project"
    shutil.copytree(settings.dbt_project_dir, project, ignore=shutil.ignore_patterns("target"))
    plan = stored(conn, built.rerun(DAYS, everything=True))
    edited = settings.model_copy(update={"dbt_project_dir": project})
    model = next(project.rglob("feat_*.sql"))
    model.write_text(model.read_text() + "\n-- another\n")
    with pytest.raises(StalePlanError, match="stale"):
        apply(edited, plan)
    monkeypatch.setattr(facts, "code_version", lambda: "another")
    with pytest.raises(StalePlanError) as stale:
        apply(settings, plan)
    assert "code" in (stale.value.got or "")
    [(n_recorded,)] = conn.execute("select count(*) from ops.plan_events where event = 'refused'")
    assert n_recorded == n_refused + 2


def test_a_killed_application_is_applied_again(built: Planner, monkeypatch):
    settings, conn = built.settings, built.conn
    deliver(settings, PartitionRange.of(str(FIRST)), [LATE], ("flight_outcomes",))
    plan = stored(conn, built.redo(Scope()))
    assert [step.stage for step in plan.work][:2] == ["ingest", "transform"]
    build = stage_runner.build

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    # The drop is in by then, so the raw versions differ from the plan's.
    monkeypatch.setattr(stage_runner, "build", killed)
    with pytest.raises(KeyboardInterrupt):
        apply(settings, plan)
    monkeypatch.setattr(stage_runner, "build", build)
    # Others see a stale world, the plan itself its own work.
    applied = apply(settings, plan)
    assert {change.day for change in applied.changes if change.dataset == "features/flight"} == {
        SECOND
    }
    with pytest.raises(PlanUsedError):
        apply(settings, plan)
    events = conn.execute(
        "select event from ops.plan_events where token = %s and event <> 'step' order by event_id",
        [plan.token],
    ).fetchall()
    assert [event for (event,) in events] == ["begun", "failed", "begun", "applied"]


def test_two_appliers_at_once_apply_it_once(built: Planner):
    settings, conn = built.settings, built.conn
    plan = stored(conn, built.rerun(PartitionRange.of(str(FIRST)), everything=True))
    ends: list[str] = []

    def run_one() -> None:
        try:
            apply(settings, plan)
        except (PlanBusyError, PlanUsedError) as error:
            ends.append(error.code)
        else:
            ends.append("applied")

    threads = [threading.Thread(target=run_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("applied") == 1
    [(n_applied,)] = conn.execute("select count(*) from ops.plan_events where event = 'begun'")
    assert n_applied == 2  # the backfill's and this one

    with connect(settings, "test") as other:
        other.execute("select pg_advisory_lock(%s)", [PLAN_LOCK])
        with pytest.raises(PlanBusyError):
            apply(settings, stored(conn, built.rerun(DAYS, everything=True)))


def test_plan_and_apply_by_command(settings: Settings, conn, monkeypatch):
    monkeypatch.setattr(plan_command, "load_settings", lambda: settings)
    monkeypatch.setattr(apply_command, "load_settings", lambda: settings)
    deliver(settings, PartitionRange.of(str(FIRST)), [])

    printed = CliRunner().invoke(app, ["plan", "backfill", str(FIRST), "--json"])
    plan = json.loads(printed.output)
    assert plan["cost"]["n_rows"] == 0  # nothing was ever loaded
    assert CliRunner().invoke(app, ["apply", plan["token"]]).exit_code == 1
    done = CliRunner().invoke(app, ["apply", plan["token"], "--reason", "first day"])
    assert done.exit_code == 0, done.output
    assert "changed for readers" in done.output
    [act] = conn.execute("select name, reason, outcome, read_back from ops.people_acts").fetchall()
    assert act[:3] == ("apply", "first day", "done")
    assert "features/flight" in act[3]["ledger"]

    nothing = CliRunner().invoke(app, ["plan", "redo"])
    assert nothing.exit_code == 0
    assert "There is nothing to redo." in nothing.output


def test_a_migration_is_planned_from_what_is_pending(settings: Settings, conn):
    assert plan_migration(settings, conn).lines == ()
    conn.execute("delete from ops.schema_migrations where name like '0030%'")
    conn.execute("alter table raw.weather drop column visibility_miles cascade")
    pending = plan_migration(settings, conn)
    assert [line.partition(" (")[0] for line in pending.lines] == [
        "migration 0030_acts_plans_probes.sql",
        "new column raw.weather.visibility_miles double precision",
    ]
    refuse_stale_migration(settings, conn, pending.token)
    conn.execute("insert into ops.schema_migrations (name) values ('0030_acts_plans_probes.sql')")
    with pytest.raises(StalePlanError):
        refuse_stale_migration(settings, conn, pending.token)
