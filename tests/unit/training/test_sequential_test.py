"""The running e-value of a stream: what it may be asked, how often it errs, what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.sequential_test import draw, n_promotions, nights_until_proved

from nightshift.training.statistics.sequential_test import (
    MINIMUM_NIGHTS,
    running_e_values,
    sequential_result,
)

THRESHOLD = 20.0


def test_value_of_a_night_does_not_depend_on_later_nights() -> None:
    gains = np.random.default_rng(1).normal(0.005, 0.014, 60)
    whole = running_e_values(gains)
    for n in (1, 5, MINIMUM_NIGHTS, 40):
        assert running_e_values(gains[:n])[-1] == pytest.approx(whole[n - 1], rel=1e-9)


def test_value_does_not_depend_on_the_unit() -> None:
    gains = np.random.default_rng(2).normal(0.01, 0.014, 40)
    assert running_e_values(3600 * gains) == pytest.approx(running_e_values(gains), rel=1e-6)


def test_few_nights_and_equal_streams_prove_nothing() -> None:
    surely_better = np.full(MINIMUM_NIGHTS - 1, 0.1) + np.arange(MINIMUM_NIGHTS - 1) * 1e-6
    assert running_e_values(surely_better).max() <= 1.0
    assert running_e_values(np.zeros(200)).max() <= 1.0
    assert sequential_result(np.zeros(0), 0.95).e_value == 1.0
    worse = np.random.default_rng(3).normal(-0.02, 0.014, 200)
    assert running_e_values(worse).max() <= 1.0


def test_value_is_the_half_normal_mixture_when_nights_are_many_and_independent() -> None:
    """Computed by hand for z = 4 of 1,000 alternating nights, whose correlation is negative."""
    n = 1_000
    gains = np.where(np.arange(n) % 2, 1.0, -1.0)
    gains += 4 / np.sqrt(n)
    # Variance 1 by construction, inflated by 2/n; correlation 0 + allowance 1 / sqrt(n) - 1 → 0.
    z2 = 16 / ((n / (n - 1)) * (1 + 2 / n))
    weight = n / (n + 10)
    by_hand = 2 * np.sqrt(10 / (n + 10)) * np.exp(z2 * weight / 2)
    assert running_e_values(gains)[-1] == pytest.approx(by_hand, rel=1e-3)


def test_lower_bound_is_positive_exactly_when_the_gain_is_proved() -> None:
    gains = draw(np.random.default_rng(4), (1, 200), 0.0, "normal")[0] + 0.006
    e_values = running_e_values(gains)
    for n in range(MINIMUM_NIGHTS, 200, 7):
        result = sequential_result(gains[:n], 0.95)
        # Skewness moves the e-value and not the bound, so the two may differ near the limit.
        if result.low is not None and not 10 < e_values[n - 1] < 40:
            assert (result.low > 0) == (e_values[n - 1] >= THRESHOLD)


@pytest.mark.parametrize(
    ("correlation", "tails"),
    [(0.0, "normal"), (0.2, "normal"), (0.6, "normal"), (0.3, "t3"), (0.0, "bad nights")],
)
def test_equal_streams_are_promoted_at_most_once_in_twenty_years(
    correlation: float, tails: str, record_figure
) -> None:
    years = draw(np.random.default_rng(5), (400, 365), correlation, tails)
    rate = float(np.mean([n_promotions(year) for year in years]))
    record_figure(f"streams, {tails}, correlation {correlation}: false promotions a year", rate)
    # 400 years measure a rate of 0.05 with a standard error of 0.011.
    assert rate <= 0.05 + 2 * 0.011


@pytest.mark.parametrize(("gain", "limit"), [(0.0076, 40), (0.016, 22)])
def test_a_true_gain_is_proved_within_weeks(gain: float, limit: int, record_figure) -> None:
    better = draw(np.random.default_rng(6), (400, 200), 0.0, "normal") + gain
    nights = float(np.median(nights_until_proved(better)))
    record_figure(f"streams: nights until a gain of {gain} log loss is proved, median", nights)
    assert nights <= limit
