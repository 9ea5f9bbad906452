"""Power of the decision rule on simulated weeks.

How often equal models pass, how small a gain is detected, and whether intervals hold.
"""

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


def share(found):
    return float(np.mean([part.probability_above(0) >= NEEDED for part in found]))


@pytest.mark.mlts("infra-4")
def test_equal_challenger_is_promoted_rarely_and_a_better_one_mostly(record_figure):
    equal, better = judged(300, 0.0), judged(100, 0.2)
    gain = float(np.mean([part.value for part in better]))
    visible = float(np.median([part.smallest_visible(NEEDED) for part in equal]))
    record_figure(
        "evidence gate, 7 days of 400 rows: promotions of an equal challenger, %",
        round(100 * share(equal), 1),
    )
    record_figure(
        "evidence gate, 7 days of 400 rows: gain in AUC found 4 times in 5", round(visible, 4)
    )
    record_figure(
        f"evidence gate, 7 days of 400 rows: promotions at a gain of {gain:.4f} in AUC, %",
        round(100 * share(better), 1),
    )
    assert share(equal) <= 0.08
    assert share(better) >= 0.9


def test_worse_challenger_is_never_promoted_when_clearly_worse():
    assert share(judged(100, -0.2)) == 0.0


@pytest.mark.parametrize("n_days", [7, 14])
def test_lower_bound_holds_as_often_as_it_says_when_days_are_few(n_days, record_figure):
    found = judged(300, 0.0, n_days)
    held = float(np.mean([part.low <= 0.0 for part in found]))
    record_figure(
        f"evidence gate, {n_days} days: lower bounds that hold, % (95 said)", round(100 * held, 1)
    )
    assert 0.92 <= held <= 0.99


@pytest.mark.long
def test_power_by_gain_and_days(record_figure):
    for n_days in (7, 14, 28):
        for gain in (0.05, 0.1, 0.2):
            found = judged(200, gain, n_days)
            size = float(np.mean([part.value for part in found]))
            record_figure(
                f"evidence gate, {n_days} days: promotions at a gain of {size:.4f} in AUC, %",
                round(100 * share(found), 1),
            )
            assert share(found) >= share(judged(50, 0.0, n_days)) - 0.1
