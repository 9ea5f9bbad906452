"""Which partitions train, and whose model serves, under each policy; expected by hand."""

from __future__ import annotations

import datetime as dt

from nightshift.backtest.policies import Policy, PolicyRun, Schedule, run_policy
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
        lambda night, challenger, run: "promoted" if night in july(*passes) else "shadowed",
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
        run_policy(Policy(schedule), NIGHTS, Weekday.SUNDAY, refuse, lambda *_: "promoted")


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
        lambda *_: "refused",
    )
    assert dict(seen)[july(5)[0]] == july(2)
    assert dict(seen)[july(6)[0]] == july(2, 5)


def test_gate_decides_every_night_about_the_newest_model_that_does_not_serve():
    requested: list[tuple[dt.date, dt.date]] = []

    def gate(night: dt.date, challenger: dt.date, run: PolicyRun) -> str:
        requested.append((night, challenger))
        return "promoted" if night in july(9) else "shadowed"

    run = run_policy(
        Policy(Schedule.WEEKLY, is_gated=True), NIGHTS, Weekday.SUNDAY, lambda *_: False, gate
    )
    assert requested == [(night, july(7)[0]) for night in july(7, 8, 9)]
    assert (run.promoted, run.proved) == (july(7), july(9))
    assert served_by(run)[-2:] == [FIRST_MODEL, july(7)[0]]
