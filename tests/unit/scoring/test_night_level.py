"""The level of a night: estimated from mature nights alone, shrunk, bounded, and 0 for a reason."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.integration.scoring.conftest import make_spec, tiny_model

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition
from nightshift.models.calibration import move_log_odds, shift_of_log_odds
from nightshift.models.trained_model import TrainedModel
from nightshift.scoring.level.night_level import (
    MatureNight,
    estimate_level,
    level_nights,
    switched_off,
)
from nightshift.scoring.scorer import Scorer, score_rows

FIRST = dt.date(2013, 6, 1)


def spec_with(task: str = "binary", objective: str | None = None, **level: object) -> ModelSpec:
    spec = make_spec()
    recipe = spec.training.recipe
    changed = recipe.model_copy(update={"level": recipe.level.model_copy(update=level)})
    training = spec.training.model_copy(update={"recipe": changed, "objective": objective})
    return spec.model_copy(update={"task": type(spec.task)(task), "training": training})


@pytest.fixture(scope="module")
def binary() -> TrainedModel:
    return replace(tiny_model(make_spec(), 1), calibration={"method": "none"})


@pytest.fixture(scope="module")
def regression(binary: TrainedModel) -> TrainedModel:
    return replace(binary, task=spec_with("regression").task)


def nights(n: int, late: int, rows: int = 100) -> list[MatureNight]:
    """Return nights of which each has so many late rows, where the model says a half."""
    label = np.r_[np.ones(late), np.zeros(rows - late)]
    days = [FIRST + dt.timedelta(days=i) for i in range(n)]
    return [MatureNight(day, label, np.zeros(rows), f"{day}") for day in days]


def test_estimate_is_the_missing_log_odds_and_is_shrunk_by_nights(binary) -> None:
    level = estimate_level(spec_with(), binary, nights(14, late=75))
    # Three of four were late where the model says a half: log-odds of 3 to 1.
    assert level.estimate == pytest.approx(np.log(3), abs=1e-8)
    assert level.shift == pytest.approx(np.log(3) / 2, abs=1e-8)
    assert (level.n_nights, level.n_rows, level.reason) == (14, 1400, None)
    assert (level.first_night, level.last_night) == (FIRST, FIRST + dt.timedelta(days=13))
    few = estimate_level(spec_with(), binary, nights(2, late=75))
    assert few.shift == pytest.approx(np.log(3) * 2 / 16, abs=1e-8)


def test_estimate_of_a_regression_is_the_mean_error_in_the_labels_unit(regression) -> None:
    night = MatureNight(FIRST, np.array([10.0, 20.0] * 50), np.array([8.0, 14.0] * 50))
    level = estimate_level(spec_with("regression", prior_nights=1), regression, [night])
    assert (level.estimate, level.shift) == (4.0, 2.0)


def test_newer_nights_count_more_by_the_half_life(binary, regression) -> None:
    # Two nights, one day apart: the older one counts half.
    old, new = np.full(100, 3.0), np.full(100, 9.0)
    pair = [
        MatureNight(FIRST, old, np.zeros(100), "old"),
        MatureNight(FIRST + dt.timedelta(days=1), new, np.zeros(100), "new"),
    ]
    spec = spec_with("regression", half_life_nights=1, prior_nights=1, maximum=9.0)
    level = estimate_level(spec, regression, pair)
    assert level.estimate == pytest.approx((3 * 0.5 + 9) / 1.5)
    # One and a half nights of evidence against one of doubt.
    assert level.shift == pytest.approx(7 * 1.5 / 2.5)
    assert (level.n_nights, level.n_rows) == (2, 200)
    # A night without rows is no evidence, and makes those before it no younger.
    apart = [pair[0], replace(pair[1], day=FIRST + dt.timedelta(days=2))]
    assert estimate_level(spec, regression, apart).estimate == pytest.approx((3 * 0.25 + 9) / 1.25)

    half, most = nights(1, late=50)[0], nights(2, late=80)[1]
    level = estimate_level(spec_with(half_life_nights=1), binary, [half, most])
    rate = (0.5 * 0.5 + 0.8) / 1.5
    assert level.estimate == pytest.approx(np.log(rate / (1 - rate)), abs=1e-8)


def test_without_a_half_life_the_last_bits_stay_as_they_were(binary) -> None:
    # What was published is published again: the plain mean must not become a weighted one.
    dice = np.random.default_rng(1)
    label = (dice.uniform(size=997) < 0.23) * 1.0
    raw = dice.normal(-1.2, 0.7, 997)
    probability = binary.from_raw(raw).probability
    level = estimate_level(spec_with(), binary, [MatureNight(FIRST, label, raw)])
    assert level.estimate == float(f"{shift_of_log_odds(label, probability):.9g}")
    mean = label.mean()
    moved = move_log_odds(probability, shift_of_log_odds(label, probability))
    assert moved.mean() == pytest.approx(mean, abs=1e-12)
    weighted = shift_of_log_odds(label, probability, np.full(997, 3.0))
    assert weighted == pytest.approx(shift_of_log_odds(label, probability), abs=1e-12)


def test_shift_ends_at_the_bound_and_says_so(binary, regression) -> None:
    level = estimate_level(spec_with(maximum=0.25), binary, nights(14, late=75))
    assert level.shift == 0.25
    assert level.reason == "bounded: 0.5493 is beyond 0.25"
    # Of a regression in standard deviations of the label: 5 here.
    night = MatureNight(FIRST, np.array([10.0, 20.0] * 50), np.zeros(100))
    level = estimate_level(spec_with("regression", prior_nights=1), regression, [night])
    assert (level.estimate, level.shift) == (15.0, 5.0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], r"0 mature night\(s\)"),
        (nights(1, late=9, rows=99), r"99 labelled row\(s\), 100 needed"),
        ([MatureNight(FIRST, np.ones(100), np.full(100, np.nan))], "no finite level"),
    ],
)
def test_too_little_gives_no_level_and_a_reason(binary, given, reason) -> None:
    level = estimate_level(spec_with(), binary, given)
    assert (level.shift, level.input) == (0.0, "")
    assert level.reason is not None
    assert re.search(reason, level.reason)


def test_evidence_names_the_nights_and_what_they_hold(binary) -> None:
    first = estimate_level(spec_with(), binary, nights(14, late=75))
    again = estimate_level(spec_with(), binary, nights(14, late=75))
    other = [replace(night, evidence="other labels") for night in nights(14, late=75)]
    assert first == again
    assert first.input != estimate_level(spec_with(), binary, other).input


@pytest.mark.parametrize(
    ("spec", "is_off"),
    [
        (spec_with(), False),
        (spec_with(mature_nights=0), True),
        (spec_with("regression"), False),
        (spec_with("regression", "regression"), False),
        (spec_with("regression", "regression_l1"), True),
        (spec_with("regression", "quantile"), True),
        (spec_with("regression", "huber"), True),
    ],
)
def test_objectives_that_are_no_mean_have_no_level(spec, is_off) -> None:
    assert (switched_off(spec) is not None) == is_off


def test_nights_are_mature_and_after_the_fit() -> None:
    night = Partition.parse("2013-07-01")
    whole = level_nights(spec_with(), night, dt.date(2013, 5, 31))
    assert str(whole) == "2013-06-16..2013-06-29"
    some = level_nights(spec_with(), night, dt.date(2013, 6, 25))
    assert str(some) == "2013-06-26..2013-06-29"
    assert level_nights(spec_with(), night, dt.date(2013, 6, 29)) is None
    # A version that a person named may have learned from later nights.
    assert level_nights(spec_with(), night, dt.date(2013, 8, 1)) is None


def rows(n: int) -> pa.Table:
    dice = np.random.default_rng(3)
    columns = {"weight_kg": dice.uniform(0, 15, n), "late_rate_7d": dice.uniform(0, 0.7, n)}
    return pa.table({**columns, "depot": ["north", "south"] * (n // 2)})


def test_level_moves_the_probability_and_neither_score_nor_reasons(binary) -> None:
    plain = score_rows(binary, rows(100), 3)
    moved = score_rows(binary, rows(100), 3, shift=np.full(100, 0.7))
    for name in ("score", "decile", "reasons"):
        assert moved.column(name).equals(plain.column(name))
    before = plain.column("probability").to_numpy()
    expected = 1 / (1 + np.exp(-(np.log(before / (1 - before)) + 0.7)))
    assert np.abs(moved.column("probability").to_numpy() - expected).max() < 1e-15
    is_called = expected >= binary.threshold
    assert moved.column("is_positive").to_pylist() == is_called.tolist()


def test_level_of_a_regression_moves_the_value_and_not_its_decile(regression) -> None:
    plain = score_rows(regression, rows(100), 3)
    moved = score_rows(regression, rows(100), 3, shift=np.full(100, 2.5))
    assert moved.column("score").to_numpy().tolist() == (
        (plain.column("score").to_numpy() + 2.5).tolist()
    )
    assert moved.column("decile").equals(plain.column("decile"))
    assert moved.column("reasons").equals(plain.column("reasons"))


def test_rows_keep_their_bits_whichever_nights_share_their_batch(binary) -> None:
    scorer = Scorer(binary, 0)
    shift = np.repeat([0.0, -0.4], 50)
    together = scorer.score(rows(100), shift).column("probability").to_numpy()
    first = scorer.score(rows(100).slice(0, 50)).column("probability").to_numpy()
    second = scorer.score(rows(100).slice(50), -0.4).column("probability").to_numpy()
    assert together.tobytes() == np.r_[first, second].tobytes()
