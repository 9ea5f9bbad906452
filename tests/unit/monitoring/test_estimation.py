"""What predictions are worth before their labels: expectations by hand, and bands that hold."""

from __future__ import annotations

import datetime as dt
import math

import numpy as np
import pytest

from nightshift.monitoring.estimation import (
    MIN_NIGHTS,
    EstimationHistory,
    MaturedEstimate,
    binary_estimates,
    class_estimates,
    error_band,
    regression_estimates,
    with_bands,
)

FIRST = dt.date(2020, 1, 1)


def test_expected_losses_of_probabilities_are_those_by_hand() -> None:
    found = binary_estimates(np.array([0.25, 0.5]), np.array([3.0, 1.0]))
    loss = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found == pytest.approx(
        {
            "positive_rate": 1.25 / 4,
            "log_loss": (3 * loss + math.log(2)) / 4,
            "brier": (3 * 0.1875 + 0.25) / 4,
        }
    )
    assert binary_estimates(np.empty(0), np.empty(0)) == {}


def test_expected_losses_of_classes_are_those_by_hand() -> None:
    rows = np.array([[0.5, 0.3, 0.2], [0.5, 0.1, 0.4], [0.2, 0.2, 0.6]])
    columns = [np.unique(column, return_counts=True) for column in rows.T]
    counted = [(values, counts.astype(float)) for values, counts in columns]
    found = class_estimates(counted, (np.array([0.5, 0.6]), np.array([2.0, 1.0])))
    assert found == pytest.approx(
        {
            "log_loss": -(rows * np.log(rows)).sum() / 3,
            "brier": (rows * (1 - rows)).sum() / 3,
            "accuracy": (0.5 + 0.5 + 0.6) / 3,
        }
    )
    assert class_estimates([(np.empty(0), np.empty(0))] * 3, (np.empty(0), np.empty(0))) == {}


def test_another_history_has_another_digest() -> None:
    def digest(realised: float | None, loss: float) -> str:
        estimates = {"mae": [MaturedEstimate(FIRST, 0.5, realised)]}
        return EstimationHistory(estimates, {"mae": {1: loss}}).digest

    assert digest(0.4, 0.1) == digest(0.4, 0.1)
    assert len({digest(0.4, 0.1), digest(None, 0.1), digest(0.4, 0.2)}) == 3


def test_expected_error_of_a_regression_is_that_of_its_deciles() -> None:
    losses = {"mae": {1: 4.0, 10: 20.0}}
    found = regression_estimates(np.array([1.0, 10.0]), np.array([3.0, 1.0]), losses)
    assert found == {"mae": 8.0}
    # A decile without matured rows counts as the mean of the known ones.
    assert regression_estimates(np.array([5.0]), np.array([2.0]), losses) == {"mae": 12.0}


def test_band_is_empty_until_enough_nights_have_matured() -> None:
    errors = np.arange(MIN_NIGHTS, dtype=float)
    assert error_band(errors[:-1]) is None
    low, high = error_band(errors)
    # Nearly the whole range: of so few nights no twentieth can be left out on each side.
    assert 0 <= low < 0.2
    assert MIN_NIGHTS - 1.2 < high <= MIN_NIGHTS - 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_band_covers_nine_nights_in_ten_also_when_errors_grow_with_the_season(seed: int) -> None:
    random = np.random.default_rng(seed)
    spread = 0.1 * (1 + 0.8 * np.sin(np.arange(300) / 40))
    errors = spread * random.standard_t(5, 300) + 0.03
    covered = []
    for night in range(60, 300):
        low, high = error_band(errors[max(night - 120, 0) : night - 2]) or (0.0, 0.0)
        covered.append(low <= errors[night] <= high)
    assert 0.86 <= np.mean(covered) <= 0.94


def test_a_week_has_a_narrower_band_than_its_night() -> None:
    random = np.random.default_rng(4)
    history = [
        MaturedEstimate(FIRST + dt.timedelta(days=n), 0.5, 0.5 + 0.1 * random.normal())
        for n in range(80)
    ]
    night, week = with_bands("log_loss", 0.5, FIRST + dt.timedelta(days=80), history)
    assert (night.span, week.span, night.n_calibration) == ("night", "week", 80)
    assert week.high - week.low < 0.7 * (night.high - night.low)
    # What has not matured yet tells nothing.
    unknown = [*history[:-3], *(past._replace(realised=None) for past in history[-3:])]
    assert (
        with_bands("log_loss", 0.5, FIRST + dt.timedelta(days=80), unknown)[0].n_calibration == 77
    )
