"""Intervals hold on streams whose nights differ, and only because the night is the unit."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.integration.scoring.conftest import make_spec, tiny_model

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.scoring_spec import Interval
from nightshift.models.predictions import Predictions
from nightshift.models.trained_model import TrainedModel
from nightshift.models.unseen_nights import (
    NightErrors,
    errors_of,
    summarise_nights,
    unseen_nights,
)
from nightshift.scoring.interval.estimate import IntervalEstimate, estimate_interval
from nightshift.scoring.interval.evidence import find_interval
from nightshift.scoring.interval.interval_metrics import measure_answers
from nightshift.scoring.interval.night_interval import NightInterval, interval_columns
from nightshift.scoring.level.night_level import MatureNight

FIRST = dt.date(2013, 1, 1)
LAG = dt.timedelta(days=2)
N_NIGHTS = 130
WARM = 40


def spec_with(task: str = "regression", **interval: object) -> ModelSpec:
    spec = make_spec()
    declared = Interval.model_validate(interval)
    scoring = spec.scoring.model_copy(update={"interval": declared})
    return spec.model_copy(update={"task": type(spec.task)(task), "scoring": scoring})


def last_known(day: dt.date) -> dt.date:
    return day - LAG


def stream(seed: int, night_sd: float = 8.0, turn: float = 1.0, n_rows: int = 60):
    """Return nights of a skewed label whose spread grows with the prediction.

    From the middle on everything spreads ``turn`` times as wide.
    """
    dice = np.random.default_rng(seed)
    nights = []
    for number in range(N_NIGHTS):
        value = dice.uniform(0, 30, n_rows)
        spread = 1.0 if number < N_NIGHTS // 2 else turn
        noise = (dice.exponential(1.0, n_rows) - 1) * (6 + 0.5 * value)
        error = spread * (noise + dice.normal(0, night_sd))
        nights.append(NightErrors(FIRST + dt.timedelta(days=number), value, error))
    return nights


def coverage(
    spec: ModelSpec, nights: Sequence[NightErrors], seen: Sequence[NightErrors] | None = None
) -> np.ndarray:
    """Return the share within the interval of each night, estimated from what it knew.

    Args:
        spec: The level.
        nights: What is measured.
        seen: What the intervals are estimated from; None takes the nights as they are.
    """
    shares = []
    for night in nights[WARM:]:
        known = [entry for entry in seen or nights if entry.day <= last_known(night.day)]
        interval = estimate_interval(spec, known[-60:], last_known).interval
        assert interval is not None
        _, low, high = interval.answers(Predictions(night.value)).T
        outcome = night.value + night.error
        shares.append(float(((low <= outcome) & (outcome <= high)).mean()))
    return np.array(shares)


@pytest.mark.parametrize("seed", [1, 2])
def test_four_of_five_outcomes_lie_within_though_nights_differ(seed: int) -> None:
    shares = coverage(spec_with(), stream(seed))
    assert 0.78 <= shares.mean() <= 0.82
    months = shares.reshape(-1, 30).mean(axis=1)
    assert np.abs(months - 0.8).max() <= 0.04
    # Single nights cannot be promised: that is the effect of the day.
    assert shares.std() > 0.08


def test_rows_alone_without_the_effect_of_the_night_are_not_enough() -> None:
    nights = stream(1)
    # The same rows around the mean of their night: all that a quantile of rows would know.
    centred = [replace(night, error=night.error - night.error.mean()) for night in nights]
    shares = coverage(spec_with(adaptation=0), nights, centred)
    assert shares.mean() < 0.78


def test_few_nights_are_widened_for_the_one_that_nobody_has_seen() -> None:
    spec = spec_with(mature_nights=10, adaptation=0)
    shares = np.concatenate([coverage(spec, stream(seed)) for seed in (1, 2)])
    # Ten nights promise at least the level: one in eleven may lie beyond all of them.
    assert 0.8 <= shares.mean() <= 0.88


def test_interval_follows_a_season_that_turns() -> None:
    nights = stream(3, turn=2.5)
    kept, followed = (coverage(spec_with(adaptation=rate), nights) for rate in (0.0, 0.2))
    after = slice(N_NIGHTS // 2 - WARM, N_NIGHTS // 2 - WARM + 30)
    assert kept[after].mean() < followed[after].mean()
    assert followed[30:].mean() == pytest.approx(0.8, abs=0.03)


def test_interval_is_wider_where_the_spread_is_and_ends_are_in_order() -> None:
    nights = stream(1, night_sd=1.0)[:60]
    interval = estimate_interval(spec_with(), nights, last_known).interval
    assert interval is not None
    median, low, high = interval.answers(Predictions(np.linspace(-50.0, 90.0, 200))).T
    assert ((low < median) & (median < high)).all()
    assert (high - low)[-1] > 1.5 * (high - low)[0]
    # The label is skewed: the median lies below the mean, the upper end farther away.
    assert (median < np.linspace(-50.0, 90.0, 200)).all()
    assert interval.quantiles[0] != 0.1, "the last nights have moved it"


def test_same_nights_give_the_same_numbers_and_json_keeps_every_bit() -> None:
    first, again = (estimate_interval(spec_with(), stream(1)[:60], last_known) for _ in range(2))
    assert first == again
    assert first.interval is not None
    assert NightInterval.model_validate_json(first.interval.model_dump_json()) == first.interval


def test_band_holds_the_rate_of_four_nights_in_five() -> None:
    dice = np.random.default_rng(5)
    shifts = dice.normal(0, 0.6, 300)
    nights = [
        NightErrors(FIRST + dt.timedelta(days=i), np.zeros(1), np.array([shift]))
        for i, shift in enumerate(shifts)
    ]
    within = []
    for number in range(30, 300):
        band = estimate_interval(spec_with("binary"), nights[: number - 1], last_known).interval
        assert band is not None
        within.append(band.low[0] <= shifts[number] <= band.high[0])
    assert 0.75 <= np.mean(within) <= 0.85

    probability = np.array([0.1, 0.5, 0.9])
    median, low, high = band.answers(Predictions(probability, probability)).T
    assert np.isnan(median).all()
    assert ((low < probability) & (probability < high)).all()
    assert np.log(high[1] / (1 - high[1])) == pytest.approx(band.high[0], abs=1e-9)


@pytest.mark.parametrize(
    ("nights", "reason"),
    [
        ([], "0 night(s) that no fit has seen, 10 needed"),
        (stream(1)[:9], "9 night(s) that no fit has seen, 10 needed"),
        (stream(1, n_rows=9)[:11], "99 labelled row(s), 100 needed"),
    ],
)
def test_too_little_evidence_gives_none_and_says_why(nights, reason) -> None:
    assert estimate_interval(spec_with(), nights, last_known) == IntervalEstimate(reason=reason)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Return a model whose training has summarised twenty out-of-fold nights."""
    dice = np.random.default_rng(1)
    days = np.repeat(np.arange(15_706, 15_726), 200)
    score = dice.uniform(0, 30, days.size)
    label = score + dice.normal(0, 5, days.size)
    summary = summarise_nights(days, label, Predictions(score))
    trained = replace(tiny_model(make_spec(), 1), task=spec_with().task)
    return replace(trained, training={**trained.training, "unseen_nights": summary})


def test_summary_of_a_training_keeps_the_quantiles_of_each_night(model: TrainedModel) -> None:
    nights = unseen_nights(model)
    assert [night.day for night in nights[:2]] == [dt.date(2013, 1, 1), dt.date(2013, 1, 2)]
    error = np.concatenate([night.error for night in nights])
    assert np.quantile(error, 0.875) == pytest.approx(5 * 1.1503, rel=0.06)
    assert error.size == 20 * 5 * 20
    assert len(model.files["model.json"]) < 100_000


def test_interval_takes_out_of_fold_nights_until_newer_ones_mature(model: TrainedModel) -> None:
    spec = spec_with(mature_nights=14)
    fit_end = dt.date(2013, 1, 20)
    first = find_interval(spec, model, fit_end, []).interval
    assert first is not None
    assert (first.n_nights, first.n_unseen, first.read_from) == (14, 14, None)
    assert (first.first_night, first.last_night) == (dt.date(2013, 1, 7), fit_end)

    dice = np.random.default_rng(2)
    mature = []
    for number in range(6):
        raw = dice.uniform(0, 30, 200)
        day = fit_end + dt.timedelta(days=1 + number)
        mature.append(MatureNight(day, raw + dice.normal(0, 50, 200), raw, f"{day}"))
    later = find_interval(spec, model, fit_end, mature).interval
    assert later is not None
    assert (later.n_nights, later.n_unseen, later.read_from) == (14, 8, mature[0].day)
    assert later.high[0] > 2 * first.high[0]
    assert later.evidence != first.evidence


def test_rows_without_an_interval_are_null_and_not_nan() -> None:
    band = NightInterval(
        level=0.8, value=(0.0,), low=(-1.0,), high=(1.0,), quantiles=(0.1, 0.9),
        n_nights=10, n_unseen=0, first_night=FIRST, last_night=FIRST,
    )  # fmt: skip
    scored = pa.table({"score": [0.5, 0.5], "probability": [0.5, 0.5]})
    columns = interval_columns([band, None], np.array([0, 1]), scored)
    assert [column.null_count for column in columns.values()] == [2, 1, 1]
    assert columns["interval_high"][0].as_py() == pytest.approx(1 / (1 + np.exp(-1.0)))


def test_each_answer_is_judged_by_its_own_loss_and_bias() -> None:
    label = np.array([0.0, 10.0, 20.0, 40.0])
    answers = np.array([[10.0, 0.0, 30.0]] * 4)
    measured = measure_answers(spec_with(), label, answers)
    assert measured["interval_coverage"] == 0.75
    assert measured["interval_width"] == 30.0
    assert measured["pinball_median"] == pytest.approx(0.5 * (10 + 0 + 10 + 30) / 4)
    assert measured["pinball_low"] == pytest.approx(0.1 * (0 + 10 + 20 + 40) / 4)
    assert measured["pinball_high"] == pytest.approx((0.1 * (30 + 20 + 10) + 0.9 * 10) / 4)
    assert measured["median_bias"] == -0.25

    rate = measure_answers(
        spec_with("binary"), np.array([1.0, 0.0]), np.array([[np.nan, 0.2, 0.4]] * 2)
    )
    assert rate == {"band_coverage": 0.0, "band_width": pytest.approx(0.2)}
    assert measure_answers(spec_with(), label, np.full((4, 3), np.nan)) == {}


def test_binary_night_lacks_one_number() -> None:
    label = np.r_[np.ones(75), np.zeros(25)]
    predicted = Predictions(np.full(100, 0.5), np.full(100, 0.5))
    assert errors_of(FIRST, label, predicted).error == pytest.approx([np.log(3)])
