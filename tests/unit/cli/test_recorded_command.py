"""Which commands are acts, and which of them wait for their record."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from nightshift.cli import app as module
from nightshift.warehouse.control_tables import acts
from nightshift.warehouse.control_tables.acts import Act


def act_of(monkeypatch: pytest.MonkeyPatch, call: list[str]) -> Act:
    """Return the act of a command, which does not begin."""
    begun: list[Act] = []

    def refuse(_: Any, act: Act) -> Any:
        begun.append(act)
        raise KeyboardInterrupt

    monkeypatch.setattr(acts, "recorded_act", refuse)
    monkeypatch.setenv("NIGHTSHIFT_WAREHOUSE_HOST", "nowhere")
    CliRunner().invoke(module.app, call)
    (act,) = begun
    return act


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (["shadow", "flight_delayed", "2013-01-01"], "shadow"),
        (["incidents", "ack", "7"], "incidents.ack"),
        (["incidents", "snooze", "7", "--for", "2h"], "incidents.snooze"),
        (["incidents", "wake", "7"], "incidents.wake"),
    ],
)
def test_a_command_is_an_act_with_its_reason(monkeypatch, call: list[str], name: str):
    act = act_of(monkeypatch, [*call, "--reason", "I am at it"])
    assert (act.name, act.reason) == (name, "I am at it")


@pytest.mark.parametrize(("token", "must_be_recorded"), [("plan-1", True), ("migrate-1", False)])
def test_an_upgrade_does_not_wait_for_the_table_that_it_makes(
    monkeypatch, token: str, must_be_recorded: bool
):
    act = act_of(monkeypatch, ["apply", token, "--reason", "asked"])
    assert act.must_be_recorded == must_be_recorded
