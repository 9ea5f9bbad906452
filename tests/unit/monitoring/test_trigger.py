from __future__ import annotations

import datetime as dt

import pytest

from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.monitoring.trigger import NightStatus, rule, status
from nightshift.settings import PROJECT_ROOT

SPEC = load_spec(PROJECT_ROOT / "dags" / "models", "arrival_delay_minutes")


def spec_with(**changes: object) -> ModelSpec:
    monitoring = {"metric": "mae", "maximum_metric_loss": 5.0, "windows": {"n": 2, "m": 3}, "cooldown_days": 7} | changes
    return ModelSpec.model_validate(SPEC.model_dump() | {"monitoring": monitoring})


def night(day: int, drift: str = "ok", score_drift: str = "ok", performance: str = "ok") -> NightStatus:
    return NightStatus(dt.date(2013, 9, day), drift, score_drift, performance)


def test_triggers_when_condition_held_on_n_of_m_nights() -> None:
    ruling = rule(spec_with(), night(6, "breached"), [night(4, "breached"), night(5)], [])
    assert ruling.has_triggered
    assert ruling.breached_days["drift"] == [dt.date(2013, 9, 4), dt.date(2013, 9, 6)]
    assert ruling.reasons == ["drift held on 2 of the last 3 nights: 2013-09-04, 2013-09-06"]


def test_waits_when_condition_held_on_one_night_only() -> None:
    ruling = rule(spec_with(), night(6, "breached"), [night(4), night(5)], [])
    assert (ruling.has_triggered, ruling.reasons) == (False, [])


def test_waits_when_earlier_night_lies_outside_of_the_window() -> None:
    assert not rule(spec_with(), night(6, "breached"), [night(3, "breached")], []).has_triggered


def test_waits_when_nights_of_different_conditions_add_up() -> None:
    assert not rule(spec_with(), night(6, "breached"), [night(5, performance="breached")], []).has_triggered


def test_waits_when_tonight_itself_is_quiet() -> None:
    assert not rule(spec_with(), night(6), [night(4, "breached"), night(5, "breached")], []).has_triggered


def test_unknown_counts_as_not_breached() -> None:
    assert not rule(spec_with(), night(6, "breached"), [night(4, "unknown"), night(5, "unknown")], []).has_triggered


def test_condition_is_ignored_when_spec_does_not_list_it() -> None:
    earlier = [night(5, score_drift="breached")]
    assert not rule(spec_with(triggers=["drift"]), night(6, score_drift="breached"), earlier, []).has_triggered
    assert rule(spec_with(triggers=["score_drift"]), night(6, score_drift="breached"), earlier, []).has_triggered


@pytest.mark.parametrize(("decided", "has_triggered"), [(8, True), (9, False), (16, True), (15, False), (23, False), (24, True)])
def test_cooldown_reaches_as_many_days_as_declared_both_ways(decided: int, has_triggered: bool) -> None:
    ruling = rule(spec_with(), night(16, "breached"), [night(15, "breached")], [dt.date(2013, 9, decided)])
    assert ruling.has_triggered is has_triggered
    assert ruling.in_cooldown is (decided in (9, 15))


def test_reason_is_recorded_when_cooldown_stops_it() -> None:
    ruling = rule(spec_with(), night(16, "breached"), [night(15, "breached")], [dt.date(2013, 9, 12)])
    assert ruling.reasons[-1] == "in cooldown: 7 days around the decision of 2013-09-12"


def test_status_is_unknown_when_it_cannot_be_said() -> None:
    assert [status(None), status(True), status(False)] == ["unknown", "breached", "ok"]
