"""What a plan expects of earlier loads, and what counts as a change."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nightshift.plans import cost, facts, making
from nightshift.plans.cost import Samples
from nightshift.plans.facts import changes, scope_of
from nightshift.plans.making import Draft, Planner
from nightshift.plans.plan import Step
from nightshift.plans.stage_steps import steps_of

NOTHING = facts.OwnChanges(frozenset(), frozenset(), frozenset(), frozenset())


def test_seconds_grow_with_partitions_along_the_medians():
    samples = Samples(np.array([1.0, 1, 1, 5, 5]), np.array([3.0, 3, 90, 11, 11]), "loads")
    assert samples.seconds_of(3) == pytest.approx(7)
    assert max(samples.ratios()) == pytest.approx(30)


def test_half_is_fixed_when_all_loads_were_equally_long():
    samples = Samples(np.array([1.0, 1]), np.array([4.0, 4]), "loads")
    assert samples.seconds_of(1) == pytest.approx(4)
    assert samples.seconds_of(3) == pytest.approx(8)


def test_the_first_timed_steps_say_by_how_much_the_loads_are_too_short():
    # A monitor measures for seconds before its load begins.
    loads = Samples(np.array([1.0, 1, 3, 3]), np.array([0.5, 0.5, 1.5, 1.5]), "loads")
    timed = Samples(np.array([1.0, 3]), np.array([4.5, 5.5]), "plans")
    assert cost.corrected(loads, timed).seconds_of(2) == pytest.approx(5)


def test_a_step_that_was_never_timed_takes_longer_than_its_load():
    loads = cost.ledger_samples("monitor", [(1, 0.4), (1, 0.4)])
    assert loads.seconds_of(1) == pytest.approx(0.4 + cost.AROUND_LOAD["monitor"])
    assert loads.startup == cost.STARTUP["monitor"]


def test_the_first_step_of_a_plan_is_timed_apart():
    later = [(1, 1.0, False), (3, 2.0, False), (3, 2.0, False)]
    timed = cost.timed_samples("score", [*later, (1, 6.0, True), (3, 7.0, True)])
    assert timed.startup == pytest.approx(5)
    assert timed.seconds_of(2) == pytest.approx(1.5)
    # Of first steps alone, what a start takes is not known yet.
    alone = cost.timed_samples("score", [(1, 6.0, True)])
    assert alone.startup == cost.STARTUP["score"]
    assert alone.seconds_of(1) + alone.startup == pytest.approx(6)


def test_the_band_holds_the_prediction(monkeypatch: pytest.MonkeyPatch):
    # A falling line is taken as flat, and lies above most loads.
    samples = Samples(np.array([1.0, 2, 3]), np.array([30.0, 3, 1]), "loads")
    monkeypatch.setattr(cost, "read_samples", lambda *_: samples)
    monkeypatch.setattr(cost, "expected_rows", lambda *_: 0)
    monkeypatch.setattr(cost, "row_bytes", lambda *_: 0.0)
    day = dt.date(2013, 1, 9)
    nothing: Any = None
    expected = cost.predict(nothing, [Step("transform", "features/*", day, day, "late data")])
    assert expected.low <= expected.seconds <= expected.high


def test_what_the_plan_itself_did_is_no_change_and_all_else_is(monkeypatch: pytest.MonkeyPatch):
    planned = {"pointers": {"features/a 2013-01-01": "1"}, "landed drops": {"landing/x": "d"}}
    now = {"pointers": {"features/a 2013-01-01": "9"}, "landed drops": {}}
    own = facts.OwnChanges(frozenset({"9"}), frozenset(), frozenset({"landing/x"}), frozenset())
    monkeypatch.setattr(facts, "own_changes", lambda conn, run_id: NOTHING)
    assert changes(None, planned, now, "plan/t") == [  # type: ignore[arg-type]
        "pointers: features/a 2013-01-01: 1 then, 9 now",
        "landed drops: landing/x: d then, not there now",
    ]
    monkeypatch.setattr(facts, "own_changes", lambda conn, run_id: own)
    assert changes(None, planned, now, "plan/t") == []  # type: ignore[arg-type]


def test_consecutive_days_are_one_step_with_the_reason_of_the_first():
    days = [dt.date(2013, 1, day) for day in (1, 2, 5)]
    steps = steps_of("score", "predictions/late", dict.fromkeys(days, "late data"))
    assert [(step.first.day, step.last.day) for step in steps] == [(1, 2), (5, 5)]
    assert (steps[0].name, len(steps[0].partitions)) == ("late", 2)


def test_a_verdict_rests_on_the_predictions_of_its_day_and_of_the_matured_one(
    monkeypatch: pytest.MonkeyPatch,
):
    spec = SimpleNamespace(
        features_dataset="features/f",
        predictions_dataset="predictions/m",
        label=SimpleNamespace(maturity_days=2),
    )
    monkeypatch.setattr(facts, "load_specs", lambda _: {"m": spec})
    day = dt.date(2013, 1, 9)
    settings: Any = SimpleNamespace(models_dir=None)
    scope = scope_of(settings, [Step("monitor", "monitoring/m", day, day, "late data")])
    matured = dt.date(2013, 1, 6)
    assert scope.pointers == {
        ("features/f", day, day),
        ("predictions/m", day, day),
        ("monitoring/m", day, day),
        ("features/f", matured, matured),
        ("predictions/m", matured, matured),
    }


def test_a_plan_keeps_facts_that_were_read_before_its_steps(monkeypatch: pytest.MonkeyPatch):
    """A drop lands while the first facts are read: they do not belong to the steps shown."""
    day = dt.date(2013, 1, 9)
    world = {"days": 1}

    def draft() -> Draft:
        last = day + dt.timedelta(days=world["days"] - 1)
        return Draft({}, [Step("transform", "features/*", day, last, "late data")])

    def read(*_: Any) -> Any:
        known = {"days": str(world["days"])}
        world["days"] = 2
        return {"drops": known}

    monkeypatch.setattr(making, "read_facts", read)
    monkeypatch.setattr(making, "notice", lambda *_: [])
    monkeypatch.setattr(making, "predict", lambda *_: None)
    nothing: Any = None
    plan = Planner(nothing, nothing).finish("redo", draft)
    assert len(plan.steps[0].partitions) == 2
    assert plan.facts == {"drops": {"days": "2"}}
