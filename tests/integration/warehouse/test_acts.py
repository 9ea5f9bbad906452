"""What people did is on record: before it begins, with its outcome, and for good."""

from __future__ import annotations

import getpass
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.integration.warehouse.conftest import DAY, PLAIN, stage
from typer.testing import CliRunner

from nightshift.cli.app import app
from nightshift.cli.arguments import command_run
from nightshift.cli.operations import acts as acts_command
from nightshift.cli.operations import void as void_command
from nightshift.errors import WarehouseError
from nightshift.incidents.rules.services import warehouse_rights
from nightshift.settings import Settings
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables.acts import (
    Act,
    NoReasonError,
    NotRecordedError,
    list_acts,
    recorded_act,
)
from nightshift.warehouse.partition_write import LoadManifest, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration
ACT = Act("redo", "cli", "cli:ann", "a late file", {"dataset": "thing"}, needs_reason=True)


def publish_thing(conn: Connection, run_id: str) -> None:
    """Publish two rows by a run of the person at the keyboard."""
    write = begin(conn, [PLAIN], DAY, LoadManifest(command_run(run_id), {"input": "a"}))
    stage(conn, write, [("a", "x", 1.0), ("b", "y", 2.0)])
    audit(conn, write)
    publish(conn, write)


def test_the_outcome_is_read_back_from_the_ledger(settings: Settings, conn: Connection, tables):
    with recorded_act(settings, ACT):
        publish_thing(conn, "redo/thing")
    [act] = list_acts(conn)
    assert (act.name, act.door, act.actor, act.reason) == ("redo", "cli", "cli:ann", "a late file")
    assert act.outcome == "done"
    assert act.read_back == {
        "ledger": {"features/thing": {"published": {"partitions": 1, "rows": 2}}}
    }


def test_a_failed_act_names_its_code_and_an_unfinished_one_has_no_outcome(settings, conn):
    with pytest.raises(WarehouseError), recorded_act(settings, ACT):
        raise WarehouseError("It broke.")
    with recorded_act(settings, ACT):
        # As if the process were killed here.
        assert [act.outcome for act in list_acts(conn)] == ["unfinished", "failed"]
    failed = list_acts(conn)[1]
    assert failed.code == "NS-WAREHOUSE-001"
    assert failed.read_back == {"error": "NS-WAREHOUSE-001: It broke."}


def test_an_act_without_a_reason_or_a_record_does_not_begin(settings: Settings):
    with (
        pytest.raises(NoReasonError),
        recorded_act(settings, Act("redo", "cli", "a", needs_reason=True)),
    ):
        pytest.fail("it began")
    lost = settings.model_copy(update={"warehouse_database": "gone"})
    with pytest.raises(NotRecordedError), recorded_act(lost, ACT):
        pytest.fail("it began")
    with recorded_act(lost, Act("rescue", "cli", "cli:ann", must_be_recorded=False)) as running:
        assert running.act_id is None


def test_nobody_changes_an_act_not_even_the_role_of_the_pipeline(settings: Settings, conn):
    with recorded_act(settings, ACT):
        pass
    statements = (
        "update ops.acts set reason = 'another'",
        "delete from ops.act_outcomes",
        "truncate ops.acts cascade",
        "truncate ops.plans cascade",
        "truncate ops.plan_events",
    )
    for statement in statements:
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            conn.execute(statement.encode())

    user = {
        "warehouse_user": settings.warehouse_admin_user,
        "warehouse_password": settings.warehouse_admin_password,
    }
    if not settings.warehouse_admin_user:
        pytest.skip("one role for everything")
    with connect(settings.model_copy(update=user), "test") as admin:
        apply_grants(admin)
    # The role cannot disable the trigger either, and still records.
    disable = "alter table ops.acts disable trigger all"
    date_back = (
        "insert into ops.acts (at, door, name, actor, reason, arguments, code_version)"
        " values ('2013-01-01', 'cli', 'void', 'cli:bob', '', '{}', '')"
    )
    for statement in (*statements[:3], disable, date_back):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(statement.encode())
    with recorded_act(settings, ACT):
        pass
    assert [act.outcome for act in list_acts(conn)] == ["done", "done"]
    # What the role may not write of acts is meant so, and no incident.
    assert list(warehouse_rights(SimpleNamespace(conn=conn, specs={}))) == []


@pytest.mark.mlts("data-5")
def test_values_of_rows_and_secrets_are_not_recorded(settings: Settings, conn: Connection):
    arguments = {
        "values": ["email=ann@example.org", "city=Bonn"],
        "api_token": "t0p",
        "url": "https://ann:pw@host/x",
        "key": "landing/thing/dt=2013-07-01/a.csv",
        # Which night, and which plan: without them the record says nothing.
        "partition_key": "2013-07-01",
        "token": "plan-3f2a91c04d77",
        "other_token": "plan-B or plan-3f2a91c04d77",
    }
    act = Act("quarantine.correct", "cli", "cli:ann", "asked", arguments, frozenset({"values"}))
    with recorded_act(settings, act):
        pass
    [row] = conn.execute("select arguments::text from ops.acts").fetchall()
    assert json.loads(row[0]) == {
        "values": ["email=…", "city=…"],
        "api_token": "…",
        "url": "https://…@host/x",
        "key": "landing/thing/dt=2013-07-01/a.csv",
        "partition_key": "2013-07-01",
        "token": "plan-3f2a91c04d77",
        "other_token": "…",
    }


def test_a_command_records_itself_and_is_listed(settings: Settings, conn, tables, monkeypatch):
    monkeypatch.setattr(void_command, "load_settings", lambda: settings)
    monkeypatch.setattr(acts_command, "load_settings", lambda: settings)
    publish_thing(conn, "x")
    call = ["void", "features/thing", "2013-07-01", "--reason"]

    assert CliRunner().invoke(app, [*call, " "]).exit_code == 1
    assert CliRunner().invoke(app, [*call, "restored by hand"]).exit_code == 0

    listed = CliRunner().invoke(app, ["acts", "--json", "--name", "void"])
    [act] = json.loads(listed.output)
    assert (act["actor"], act["reason"]) == (f"cli:{getpass.getuser()}", "restored by hand")
    assert act["arguments"] == {"dataset": "features/thing", "partition": "2013-07-01"}
    assert act["read_back"]["ledger"]["features/thing"]["voided"]["partitions"] == 1
    assert "restored by hand" in CliRunner().invoke(app, ["acts"]).output
