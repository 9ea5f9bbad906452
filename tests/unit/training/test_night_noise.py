"""What nobody can avoid in a month's error: found from predictions, as large as it really is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from nightshift.contracts.metrics import Task
from nightshift.models.calibration import sigmoid
from nightshift.models.predictions import Predictions
from nightshift.training.evaluation import calibration_error
from nightshift.training.statistics.block_bootstrap import Days
from nightshift.training.statistics.night_noise import effect_deviation, night_noise

NIGHTS, ROWS = 30, 200
DAYS = Days(np.repeat(np.arange(NIGHTS), ROWS), NIGHTS)


def month(seed: int, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and probabilities that know all but what each night has in common."""
    dice = np.random.default_rng(seed)
    log_odds = dice.normal(-1.3, 0.6, NIGHTS * ROWS)
    effects = dice.normal(0, deviation, NIGHTS)
    label = (dice.uniform(size=log_odds.size) < sigmoid(log_odds + effects[DAYS.codes])) * 1.0
    # Nights as the forecast knows them: forty equally likely effects.
    effects = deviation * norm.ppf((np.arange(40) + 0.5) / 40)
    perfect = np.mean([sigmoid(log_odds + effect) for effect in effects], axis=0)
    return label, perfect


@pytest.mark.parametrize("deviation", [0.0, 0.7])
def test_drawn_months_are_as_wrong_as_perfect_forecasts_are(deviation: float) -> None:
    errors, noises = [], []
    for seed in range(1, 61):
        label, perfect = month(seed, deviation)
        errors.append(calibration_error(label, perfect))
        if seed <= 6:
            noises.append(night_noise(Task.BINARY, label, Predictions(perfect, perfect), DAYS, 7))
    assert np.mean([noise.deviation for noise in noises]) == pytest.approx(deviation, abs=0.1)
    drawn = np.concatenate([noise.errors for noise in noises])
    assert np.median(drawn) == pytest.approx(np.median(errors), rel=0.15)
    assert np.quantile(drawn, 0.9) == pytest.approx(np.quantile(errors, 0.9), rel=0.15)
    # A forecast that is wrong besides is found out, and a perfect one is not.
    label, perfect = month(1, deviation)
    wrong = sigmoid(np.log(perfect / (1 - perfect)) + 0.8)
    found = night_noise(Task.BINARY, label, Predictions(wrong, wrong), DAYS, 7)
    assert found.share_as_large < 0.02
    assert 0.02 < noises[0].share_as_large < 0.98


def test_bias_of_a_perfect_month_is_that_of_its_nights() -> None:
    dice = np.random.default_rng(4)
    value = dice.normal(5, 10, NIGHTS * ROWS)
    label = value + dice.normal(0, 12, NIGHTS)[DAYS.codes] + dice.normal(0, 30, value.size)
    noise = night_noise(Task.REGRESSION, label, Predictions(value), DAYS, 7)
    assert noise.measured == pytest.approx(abs((label - value).mean()))
    assert noise.deviation == pytest.approx(12, rel=0.25)
    # The half of the months of a normal error is within 0.674 standard deviations.
    expected = 0.674 * np.hypot(noise.deviation / NIGHTS**0.5, 30 / value.size**0.5)
    assert np.median(noise.errors) == pytest.approx(expected, rel=0.05)
    assert noise.share_within(1000) == 1
    assert noise.share_within(-1) == 0


def test_season_that_turns_is_no_chance() -> None:
    drift = np.linspace(-5, 5, NIGHTS)
    assert effect_deviation(drift, np.zeros(NIGHTS)) < 0.3
    dice = np.random.default_rng(2)
    nights = dice.normal(0, 2, 400)
    assert effect_deviation(nights, np.zeros(400)) == pytest.approx(2, rel=0.1)
    # What chance gives the rows of a night is none of its weather.
    assert effect_deviation(nights, np.full(400, 4.0)) < 0.7


def test_too_few_nights_say_nothing() -> None:
    few = Days(np.array([0, 0, 1, 1]), 2)
    values = Predictions(np.array([1.0, 2.0, 3.0, 4.0]))
    assert night_noise(Task.REGRESSION, np.arange(4.0), values, few, 7) is None
