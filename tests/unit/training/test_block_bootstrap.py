from __future__ import annotations

import numpy as np
import pytest

from nightshift.models.predictions import Predictions
from nightshift.training.evaluation import best_threshold, measure
from nightshift.training.statistics.block_bootstrap import (
    Days,
    NoStatisticError,
    draw_days,
    statistic,
)
from nightshift.training.statistics.calibration_slope import slope_estimate
from nightshift.training.statistics.confidence_intervals import (
    BoundedEstimate,
    NoEstimateError,
    difference,
    estimate,
    holm,
)

BINARY = [
    "roc_auc",
    "average_precision",
    "log_loss",
    "brier",
    "calibration_error",
    "precision",
    "recall",
    "f1",
]


def binary(n=600, seed=1):
    dice = np.random.default_rng(seed)
    probability = np.round(dice.random(n), 2).clip(0.01, 0.99)
    label = (dice.random(n) < probability).astype(float)
    return (
        label,
        Predictions(probability, probability, best_threshold(label, probability)),
        Days(dice.integers(0, 7, n), 7),
    )


@pytest.mark.parametrize("metric", BINARY)
def test_value_is_that_of_the_rows_when_each_day_counts_once(metric):
    label, predictions, days = binary()
    value = statistic(metric, label, predictions, days)(np.ones((1, 7)))[0]
    assert value == pytest.approx(measure("binary", label, predictions)[metric], abs=1e-12)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "log_loss", "recall"])
def test_value_is_that_of_repeated_rows_when_days_are_drawn(metric):
    label, predictions, days = binary()
    weights = np.array([[2.0, 0, 1, 1, 0, 3, 0]])
    rows = np.concatenate(
        [np.flatnonzero(days.codes == day).repeat(int(n)) for day, n in enumerate(weights[0])]
    )
    again = Predictions(
        predictions.score[rows], predictions.probability[rows], predictions.threshold
    )
    expected = measure("binary", label[rows], again)[metric]
    assert statistic(metric, label, predictions, days)(weights)[0] == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize(
    "metric", ["log_loss", "brier", "accuracy", "macro_f1", "recall", "calibration_error"]
)
def test_value_is_that_of_repeated_rows_when_the_rows_have_classes(metric):
    dice = np.random.default_rng(6)
    predictions = Predictions.of_classes(dice.dirichlet([2.0, 1.0, 0.4], 400))
    label = dice.integers(0, 3, 400).astype(float)
    days = Days(dice.integers(0, 5, 400), 5)
    drawn = statistic(metric, label, predictions, days)
    assert drawn(np.ones((1, 5)))[0] == pytest.approx(
        measure("multiclass", label, predictions)[metric]
    )
    # A calibration error keeps the bins of all rows.
    if metric == "calibration_error":
        return
    weights = np.array([[2.0, 0, 1, 3, 0]])
    rows = np.concatenate(
        [np.flatnonzero(days.codes == day).repeat(int(n)) for day, n in enumerate(weights[0])]
    )
    expected = measure("multiclass", label[rows], predictions.at(rows))[metric]
    assert drawn(weights)[0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2", "bias"])
def test_value_is_that_of_the_rows_when_the_task_is_regression(metric):
    dice = np.random.default_rng(2)
    label, predicted = dice.normal(size=300), Predictions(dice.normal(size=300))
    days = Days(dice.integers(0, 5, 300), 5)
    assert statistic(metric, label, predicted, days)(np.ones((1, 5)))[0] == pytest.approx(
        measure("regression", label, predicted)[metric]
    )


def test_metric_without_a_form_by_day_is_refused():
    label, predictions, days = binary()
    with pytest.raises(NoStatisticError, match="median_error cannot be computed by day"):
        statistic("median_error", label, predictions, days)


def test_interval_is_a_point_when_models_are_equal():
    label, predictions, days = binary()
    value = statistic("roc_auc", label, predictions, days)
    found = estimate(difference(value, value), draw_days(7, 200, 1), 0.95)
    assert (found.value, found.low, found.high, found.probability_above(0)) == (0, 0, 0, 0.5)


def test_same_interval_when_drawn_again_with_the_same_seed():
    label, predictions, days = binary()
    value = statistic("roc_auc", label, predictions, days)
    assert estimate(value, draw_days(7, 200, 5), 0.95) == estimate(
        value, draw_days(7, 200, 5), 0.95
    )


def test_no_estimate_when_there_is_one_day_or_one_class():
    label, predictions, _ = binary()
    one = Days(np.zeros(label.size, dtype=np.int64), 1)
    with pytest.raises(NoEstimateError, match="One day has no interval"):
        estimate(statistic("roc_auc", label, predictions, one), draw_days(1, 10, 1), 0.95)
    days = Days(np.arange(label.size) % 7, 7)
    with pytest.raises(NoEstimateError, match="do not define"):
        estimate(
            statistic("roc_auc", np.zeros(label.size), predictions, days), draw_days(7, 10, 1), 0.95
        )


def test_probability_follows_students_t():
    # t with 6 degrees of freedom: 1.943 has 95 % below it.
    assert BoundedEstimate(1.943, 0, 0, 1.0, 7).probability_above(0) == pytest.approx(
        0.95, abs=1e-4
    )


def test_holm_is_the_published_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_slope_is_found_with_an_interval_that_holds_the_truth():
    dice = np.random.default_rng(4)
    log_odds = dice.normal(size=7000)
    label = (dice.random(7000) < 1 / (1 + np.exp(-0.5 * log_odds))).astype(float)
    found = slope_estimate(label, log_odds, Days(np.arange(7000) % 7, 7), 0.95, is_logistic=True)
    assert found.low < 0.5 < found.high < 0.7
    line = slope_estimate(
        2 * log_odds + dice.normal(size=7000),
        log_odds,
        Days(np.arange(7000) % 7, 7),
        0.95,
        is_logistic=False,
    )
    assert line.low < 2.0 < line.high < 2.1
