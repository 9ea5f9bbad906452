"""Intervals of the gate's gains on simulated weeks: whether they hold as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from nightshift.models.predictions import Predictions
from nightshift.training.statistics.block_bootstrap import Days, draw_days, statistic
from nightshift.training.statistics.confidence_intervals import difference, estimate

N_ROWS_A_DAY = 400
NEEDED = 0.95


def week(dice, gain, n_days):
    """Return labels and two scores of one hold-out.

    ``gain`` is how much more of the truth the challenger knows.

    Days differ in their rate of positives, and each model errs on each day in a way of its own.
    """
    day = np.repeat(np.arange(n_days), N_ROWS_A_DAY)
    known, hidden, noise, other = dice.normal(size=(4, day.size))
    label = (
        dice.random(day.size)
        < 1 / (1 + np.exp(1.2 - known - hidden - 0.5 * dice.normal(size=n_days)[day]))
    ).astype(float)
    drift = 0.1 * dice.normal(size=(2, n_days))
    champion = known * (1 + drift[0][day]) + 0.15 * noise
    return (
        label,
        Days(day, n_days),
        Predictions(known * (1 + drift[1][day]) + gain * hidden + 0.15 * other),
        Predictions(champion),
    )


def judged(n_weeks, gain, n_days=7, seed=1):
    dice, draws = np.random.default_rng(seed), draw_days(n_days, 500, 1)
    found = []
    for _ in range(n_weeks):
        label, days, challenger, champion = week(dice, gain, n_days)
        sources = [statistic("roc_auc", label, part, days) for part in (challenger, champion)]
        found.append(estimate(difference(*sources), draws, NEEDED))
    return found


@pytest.mark.parametrize("n_days", [7, 14])
def test_lower_bound_holds_as_often_as_it_says_when_days_are_few(n_days, record_figure):
    found = judged(300, 0.0, n_days)
    held = float(np.mean([part.low <= 0.0 for part in found]))
    record_figure(
        f"evidence gate, {n_days} days: lower bounds that hold, % (95 said)", round(100 * held, 1)
    )
    assert 0.92 <= held <= 0.99
