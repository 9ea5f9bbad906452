"""What a plan expects of earlier loads, and what counts as a change."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from nightshift.plans import facts
from nightshift.plans.cost import Samples
from nightshift.plans.facts import changes
from nightshift.plans.stage_steps import steps_of

NOTHING = facts._OwnChanges(frozenset(), frozenset(), frozenset(), frozenset())


def test_seconds_grow_with_partitions_along_the_medians():
    samples = Samples(np.array([1.0, 1, 1, 5, 5]), np.array([3.0, 3, 90, 11, 11]), "loads")
    assert samples.seconds_of(3) == pytest.approx(7)
    assert max(samples.ratios()) == pytest.approx(30)


def test_half_is_fixed_when_all_loads_were_equally_long():
    samples = Samples(np.array([1.0, 1]), np.array([4.0, 4]), "loads")
    assert samples.seconds_of(1) == pytest.approx(4)
    assert samples.seconds_of(3) == pytest.approx(8)


def test_what_the_plan_itself_did_is_no_change_and_all_else_is(monkeypatch: pytest.MonkeyPatch):
    planned = {"pointers": {"features/a 2013-01-01": "1"}, "landed drops": {"landing/x": "d"}}
    now = {"pointers": {"features/a 2013-01-01": "9"}, "landed drops": {}}
    own = facts._OwnChanges(frozenset({"9"}), frozenset(), frozenset({"landing/x"}), frozenset())
    monkeypatch.setattr(facts, "_own_changes", lambda conn, run_id: NOTHING)
    assert changes(None, planned, now, "plan/t") == [  # type: ignore[arg-type]
        "pointers: features/a 2013-01-01: 1 then, 9 now",
        "landed drops: landing/x: d then, not there now",
    ]
    monkeypatch.setattr(facts, "_own_changes", lambda conn, run_id: own)
    assert changes(None, planned, now, "plan/t") == []  # type: ignore[arg-type]


def test_consecutive_days_are_one_step_with_the_reason_of_the_first():
    days = [dt.date(2013, 1, day) for day in (1, 2, 5)]
    steps = steps_of("score", "predictions/late", dict.fromkeys(days, "late data"))
    assert [(step.first.day, step.last.day) for step in steps] == [(1, 2), (5, 5)]
    assert (steps[0].name, len(steps[0].partitions)) == ("late", 2)
