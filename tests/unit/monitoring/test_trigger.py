from __future__ import annotations

import datetime as dt

import pytest

from nightshift.contracts.model_spec import ModelSpec, load_spec
from nightshift.monitoring.trigger import (
    PartitionStatus,
    RetrainHistory,
    apply_trigger_rule,
    condition_status,
)
from nightshift.settings import PROJECT_ROOT

SPEC = load_spec(PROJECT_ROOT / "dags" / "models", "arrival_delay_minutes")
ALONE = {"may_act_on_drift_alone": True}


def spec_with(**changes: object) -> ModelSpec:
    monitoring = {
        "metric": "mae",
        "maximum_metric_loss": 5.0,
        "windows": {"n": 2, "m": 3},
        "cooldown_days": 7,
    } | changes
    return ModelSpec.model_validate(SPEC.model_dump() | {"monitoring": monitoring})


def night(
    day: int,
    drift: str = "ok",
    score_drift: str = "ok",
    performance: str = "unknown",
    severe_loss: str = "unknown",
    broken_input: str = "ok",
) -> PartitionStatus:
    return PartitionStatus(
        dt.date(2013, 9, day), drift, score_drift, performance, severe_loss, broken_input
    )


def lossy(*numbers: int, **more: str) -> list[PartitionStatus]:
    return [night(number, performance="breached", **more) for number in numbers]


def days(*numbers: int) -> list[dt.date]:
    return [dt.date(2013, 9, number) for number in numbers]


def judge(
    spec: ModelSpec, today: PartitionStatus, earlier=(), others=(), *, own: bool = False, red=()
):
    return apply_trigger_rule(spec, today, earlier, RetrainHistory(own, others), red)


@pytest.mark.mlts("mon-7")
def test_triggers_when_matured_loss_lasts_longer_than_a_shock() -> None:
    ruling = judge(spec_with(), *reversed_last(lossy(3, 4, 5, 6)))
    assert (ruling.has_triggered, ruling.cause) == (True, "loss")
    assert ruling.reasons == [
        "performance held on 3 of the last 3 nights: 2013-09-04, 2013-09-05, 2013-09-06"
    ]


def reversed_last(statuses: list[PartitionStatus]):
    """Return tonight and the nights before it."""
    return statuses[-1], statuses[:-1]


@pytest.mark.parametrize("n_nights", [1, 2, 3])
@pytest.mark.parametrize("severe", [{}, {"severe_loss": "breached"}])
def test_nothing_is_learnt_from_a_shock_alone(n_nights: int, severe) -> None:
    statuses = lossy(*range(10, 10 + n_nights), **severe)
    ruling = judge(spec_with(), *reversed_last(statuses))
    assert (ruling.has_triggered, ruling.cause, ruling.reasons) == (False, "shock", [])
    # The quiet night after it asks for nothing either, and is no loss.
    after = judge(spec_with(), night(10 + n_nights, performance="ok"), statuses)
    assert (after.has_triggered, after.cause) == (False, "none")


def test_two_shocks_far_apart_do_not_add_up() -> None:
    statuses = lossy(2, 3, 12, 13)
    assert judge(spec_with(), *reversed_last(statuses)).cause == "shock"


def test_spec_says_how_long_a_shock_lasts() -> None:
    spec = spec_with(triggers={"shock_nights": 0})
    assert judge(spec, *reversed_last(lossy(5, 6))).has_triggered


def test_drift_is_told_with_the_loss_that_it_explains() -> None:
    earlier = [*lossy(3, 4), night(5, "breached", performance="breached")]
    ruling = judge(spec_with(), night(6, "breached", performance="breached"), earlier)
    assert ruling.reasons[-1] == "drift held on 2 nights: 2013-09-05, 2013-09-06"


def test_broken_input_blocks_and_is_the_cause_whatever_else_holds() -> None:
    statuses = lossy(3, 4, 5)
    today = night(6, "breached", performance="breached", broken_input="breached")
    ruling = judge(spec_with(), today, statuses, red=["distance is frozen since 2013-09-06"])
    assert (ruling.has_triggered, ruling.cause) == (False, "broken input")
    assert ruling.reasons[-1] == "blocked, data quality is red: distance is frozen since 2013-09-06"


def test_covariate_shift_alone_is_looked_at() -> None:
    ruling = judge(spec_with(), night(6, "breached"), [night(5, "breached"), night(4, "breached")])
    assert (ruling.has_triggered, ruling.cause) == (False, "covariate shift")


def test_drift_alone_waits_when_spec_does_not_allow_it() -> None:
    ruling = judge(spec_with(), night(6, "breached"), [night(5, "breached")])
    assert (ruling.has_triggered, ruling.reasons) == (False, [])


def test_drift_alone_acts_and_says_so_when_spec_allows_it() -> None:
    ruling = judge(
        spec_with(triggers=ALONE), night(6, "breached"), [night(4, "breached"), night(5)]
    )
    assert ruling.has_triggered
    assert ruling.reasons == [
        "drift held on 2 of the last 3 nights: 2013-09-04, 2013-09-06",
        "acts on drift alone: no matured loss confirms or contradicts it tonight",
    ]


def test_drift_alone_waits_when_matured_loss_contradicts_it() -> None:
    assert not judge(
        spec_with(triggers=ALONE), night(6, "breached", performance="ok"), [night(5, "breached")]
    ).has_triggered


@pytest.mark.parametrize(
    "earlier",
    [[night(4), night(5)], [night(3, "breached")], [night(4, "unknown"), night(5, "unknown")]],
)
def test_waits_when_condition_held_on_too_few_nights_of_the_window(earlier) -> None:
    assert not judge(spec_with(triggers=ALONE), night(6, "breached"), earlier).has_triggered


def test_waits_when_tonight_itself_is_quiet() -> None:
    assert not judge(
        spec_with(triggers=ALONE), night(6), [night(4, "breached"), night(5, "breached")]
    ).has_triggered


def test_condition_is_ignored_when_spec_does_not_list_it() -> None:
    earlier = [night(5, score_drift="breached")]
    assert not judge(
        spec_with(triggers=ALONE | {"drift": ["drift"]}), night(6, score_drift="breached"), earlier
    ).has_triggered
    assert judge(
        spec_with(triggers=ALONE | {"drift": ["score_drift"]}),
        night(6, score_drift="breached"),
        earlier,
    ).has_triggered


@pytest.mark.parametrize(
    ("decided", "has_triggered"), [(8, True), (9, False), (15, False), (23, False), (24, True)]
)
def test_cooldown_reaches_as_many_days_as_declared_both_ways(
    decided: int, has_triggered: bool
) -> None:
    ruling = judge(
        spec_with(triggers=ALONE), night(16, "breached"), [night(15, "breached")], days(decided)
    )
    assert ruling.has_triggered is has_triggered
    assert ruling.in_cooldown is (decided in (9, 15))
    assert (
        has_triggered
        or ruling.reasons[-1] == f"in cooldown: 7 days around the decision of 2013-09-{decided:02d}"
    )


@pytest.mark.parametrize(("n", "has_triggered"), [(3, True), (2, False)])
def test_budget_blocks_when_it_is_used_up(n: int, has_triggered: bool) -> None:
    spec = spec_with(triggers=ALONE, retrain_budget={"retrainings": n, "days": 20})
    ruling = judge(spec, night(28, "breached"), [night(27, "breached")], days(8, 9, 20))
    assert (ruling.has_triggered, ruling.is_over_budget) == (has_triggered, not has_triggered)
    assert (
        has_triggered
        or ruling.reasons[-1] == "over budget: 2 decisions within 20 days, 2013-09-09, 2013-09-20"
    )


def test_red_data_blocks_and_the_next_night_triggers_when_it_is_repaired() -> None:
    spec, drifted = (
        spec_with(triggers=ALONE),
        [night(4, "breached"), night(5, "breached"), night(6, "breached")],
    )
    blocked = judge(spec, drifted[1], drifted[:1], red=["raw/weather of 2013-09-05 is missing"])
    assert not blocked.has_triggered
    assert (
        blocked.reasons[-1] == "blocked, data quality is red: raw/weather of 2013-09-05 is missing"
    )
    assert judge(spec, drifted[2], drifted[:2]).has_triggered


@pytest.mark.promise("R6")
def test_rerun_rules_the_same_when_later_nights_have_decided_meanwhile() -> None:
    spec, earlier = spec_with(triggers=ALONE), [night(15, "breached")]
    assert judge(spec, night(16, "breached"), earlier) == judge(
        spec, night(16, "breached"), earlier, days(24, 27, 29), own=True
    )
    red = ["features/flight of 2013-09-16 was refused by its gate"]
    assert judge(spec, night(16, "breached"), earlier, red=red) == judge(
        spec, night(16, "breached"), earlier, days(17), red=red
    )
    assert judge(spec, night(16, "breached"), earlier, days(12)) == judge(
        spec, night(16, "breached"), earlier, days(12, 20)
    )


def test_status_is_unknown_when_it_cannot_be_said() -> None:
    assert [condition_status(None), condition_status(True), condition_status(False)] == [
        "unknown",
        "breached",
        "ok",
    ]
