"""Which partitions train, and whose model serves, under each policy; expected by hand."""

from __future__ import annotations

import datetime as dt

import pytest

from nightshift.backtest.policies import POLICIES, Policy, PolicyRun, Schedule, run_policy
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.training_spec import Weekday

NIGHTS = PartitionRange.of("2013-07-01", "2013-07-10")
"""A Monday to the Wednesday of the week after; July 7 is a Sunday."""
FIRST_MODEL = dt.date(2013, 6, 30)


def july(*days: int) -> list[dt.date]:
    return [dt.date(2013, 7, day) for day in days]


def simulate(
    schedule: Schedule,
    *,
    is_gated: bool = False,
    triggers: tuple[int, ...] = (),
    passes: tuple[int, ...] = (),
) -> PolicyRun:
    """Follow a policy; the monitor triggers and the gate passes on the given days of July."""
    return run_policy(
        Policy(schedule, is_gated),
        NIGHTS,
        Weekday.SUNDAY,
        lambda night, run: night in july(*triggers),
        lambda challenger, champion: challenger in july(*passes),
    )


def served_by(run: PolicyRun) -> list[dt.date]:
    return [run.served[night] for night in NIGHTS.days]


def test_first_model_serves_every_night_when_the_policy_is_never():
    run = simulate(Schedule.NEVER, triggers=(2, 3))
    assert (run.trained, run.promoted, run.triggered) == ([], [], [])
    assert served_by(run) == [FIRST_MODEL] * 10


def test_model_of_the_evening_before_serves_when_the_policy_is_nightly():
    run = simulate(Schedule.NIGHTLY)
    assert run.trained == run.promoted == july(*range(1, 11))
    assert served_by(run) == [FIRST_MODEL, *july(*range(1, 10))]


def test_sunday_trains_and_monday_is_served_by_it_when_the_policy_is_weekly():
    run = simulate(Schedule.WEEKLY)
    assert run.trained == july(7)
    assert served_by(run) == [FIRST_MODEL] * 7 + july(7, 7, 7)


def test_night_that_triggers_trains_and_the_next_is_served_by_it_when_the_policy_listens():
    run = simulate(Schedule.TRIGGERED, triggers=(2, 9))
    assert run.trained == run.triggered == july(2, 9)
    assert served_by(run) == [FIRST_MODEL] * 2 + july(2, 2, 2, 2, 2, 2, 2, 9)


def test_monitor_is_not_asked_when_the_policy_has_a_schedule():
    def refuse(night: dt.date, run: PolicyRun) -> bool:
        raise AssertionError("asked")

    for schedule in (Schedule.NEVER, Schedule.WEEKLY, Schedule.NIGHTLY):
        run_policy(
            Policy(schedule), NIGHTS, Weekday.SUNDAY, refuse, lambda challenger, champion: True
        )


def test_champion_stays_and_the_training_is_paid_when_the_gate_refuses():
    run = simulate(Schedule.NIGHTLY, is_gated=True, passes=(3, 8))
    assert run.trained == july(*range(1, 11))
    assert run.promoted == july(3, 8)
    assert served_by(run) == [FIRST_MODEL] * 3 + july(3, 3, 3, 3, 3, 8, 8)


def test_request_counts_for_the_cooldown_also_when_the_gate_refuses_its_model():
    seen: list[tuple[dt.date, list[dt.date]]] = []

    def trigger(night: dt.date, run: PolicyRun) -> bool:
        seen.append((night, list(run.triggered)))
        return night in july(2, 5)

    run_policy(
        Policy(Schedule.TRIGGERED, is_gated=True),
        NIGHTS,
        Weekday.SUNDAY,
        trigger,
        lambda challenger, champion: False,
    )
    assert dict(seen)[july(5)[0]] == july(2)
    assert dict(seen)[july(6)[0]] == july(2, 5)


def test_gate_compares_with_the_model_that_serves_that_night():
    requested: list[tuple[dt.date, dt.date]] = []

    def gate(challenger: dt.date, champion: dt.date) -> bool:
        requested.append((challenger, champion))
        return challenger in july(2)

    run_policy(
        Policy(Schedule.NIGHTLY, is_gated=True),
        PartitionRange.of("2013-07-01", "2013-07-03"),
        Weekday.SUNDAY,
        lambda *_: False,
        gate,
    )
    assert requested == [
        (july(1)[0], FIRST_MODEL),
        (july(2)[0], FIRST_MODEL),
        (july(3)[0], july(2)[0]),
    ]


def test_never_comes_first_and_all_schedules_are_compared():
    assert POLICIES[0] == Policy(Schedule.NEVER)
    assert {policy.schedule for policy in POLICIES} == set(Schedule)


@pytest.mark.parametrize(
    ("policy", "name"),
    [(Policy(Schedule.NEVER), "never"), (Policy(Schedule.WEEKLY, is_gated=True), "weekly, gated")],
)
def test_name_says_schedule_and_gate(policy: Policy, name: str):
    assert str(policy) == name
