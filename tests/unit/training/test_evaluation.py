from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift.contracts.metrics import METRICS, Task
from nightshift.contracts.promotion_spec import Slice
from nightshift.contracts.scoring_spec import FallbackRule
from nightshift.models.predictions import Groups, Predictions
from nightshift.training.evaluation import (
    EvaluationError,
    best_threshold,
    calibration_error,
    measure,
    reliability,
    rule_predictions,
    slice_masks,
)

LABEL = np.array([0.0, 0.0, 1.0, 1.0])
PROBABILITY = np.array([0.1, 0.6, 0.4, 0.9])
THREE_CLASSES = Predictions.of_classes(
    np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]])
)


def test_metrics_of_classes_are_those_computed_by_hand():
    label = np.array([0.0, 1.0, 1.0, 1.0])
    values = measure(Task.MULTICLASS, label, THREE_CLASSES)
    assert values["log_loss"] == pytest.approx(-np.mean(np.log([0.7, 0.25, 0.8, 0.3])))
    # Predicted are classes 0, 0, 1 and 2.
    assert values["accuracy"] == 2 / 4
    assert values["recall"] == pytest.approx((1 + 1 / 3) / 2)
    assert values["macro_f1"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    squares = [0.3**2 + 0.2**2 + 0.1**2, 0.5**2 + 0.75**2 + 0.25**2]
    squares += [0.1**2 + 0.2**2 + 0.1**2, 0.2**2 + 0.7**2 + 0.5**2]
    assert values["brier"] == pytest.approx(np.mean(squares))
    # Bins of one row each: the probability of the predicted class against being right.
    assert values["calibration_error"] == pytest.approx((0.3 + 0.2 + 0.5 + 0.5) / 4)


def test_the_rule_of_classes_gives_every_row_the_declared_shares():
    rule = FallbackRule(shares=(0.2, 0.5, 0.3))
    predictions = rule_predictions(Task.MULTICLASS, rule, pa.table({"any": [1, 2]}))
    assert predictions.classes is not None
    assert predictions.classes == pytest.approx(np.array([[0.2, 0.5, 0.3]] * 2))
    assert predictions.predicted_class.tolist() == [1, 1]


def test_binary_metrics_are_those_computed_by_hand():
    values = measure(Task.BINARY, LABEL, Predictions(PROBABILITY, PROBABILITY, threshold=0.5))
    assert values["roc_auc"] == pytest.approx(3 / 4)
    assert values["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert values["log_loss"] == pytest.approx(-np.mean(np.log([0.9, 0.4, 0.4, 0.9])))
    assert values["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert (values["precision"], values["recall"], values["f1"], values["positive_rate"]) == (
        0.5,
        0.5,
        0.5,
        0.5,
    )


def test_every_declared_metric_is_measured_and_no_other():
    binary = measure(Task.BINARY, LABEL, Predictions(PROBABILITY, PROBABILITY))
    regression = measure(Task.REGRESSION, LABEL, Predictions(PROBABILITY))
    classes = measure(Task.MULTICLASS, np.array([0.0, 2.0]), THREE_CLASSES.at(np.arange(2)))
    ranked = Predictions(np.zeros(2), groups=Groups(np.zeros(2, dtype=np.int64), 1))
    ranking = measure(Task.RANKING, np.array([0.0, 1.0]), ranked)
    assert {*binary, *regression, *classes, *ranking} == set(METRICS)


def test_regression_metrics_are_those_computed_by_hand():
    values = measure(
        Task.REGRESSION, np.array([1.0, 2.0, 6.0]), Predictions(np.array([1.0, 4.0, 5.0]))
    )
    assert values["rmse"] == pytest.approx((5 / 3) ** 0.5)
    assert values["mae"] == pytest.approx(1.0)
    assert values["r2"] == pytest.approx(1 - 5 / 14)
    assert values["bias"] == pytest.approx(1 / 3)


def test_undefined_metrics_are_none_when_labels_have_one_class():
    values = measure(Task.BINARY, np.zeros(3), Predictions(PROBABILITY[:3], PROBABILITY[:3]))
    assert (values["roc_auc"], values["average_precision"], values["calibration_slope"]) == (
        None,
        None,
        None,
    )
    assert values["log_loss"] > 0


def test_no_rows_are_refused():
    with pytest.raises(EvaluationError):
        measure(Task.BINARY, np.zeros(0), Predictions(np.zeros(0), np.zeros(0)))


def test_calibration_error_is_zero_when_rates_match():
    assert calibration_error(np.array([0.0, 1.0] * 50), np.full(100, 0.5)) == 0.0
    assert calibration_error(np.array([0.0] * 75 + [1.0] * 25), np.full(100, 0.5)) == pytest.approx(
        0.25
    )


def test_reliability_does_not_depend_on_the_order_of_rows():
    random = np.random.default_rng(2)
    label, probability = (
        random.integers(0, 2, 500).astype(float),
        random.choice([0.1, 0.2, 0.7], 500),
    )
    order = random.permutation(500)
    bins = reliability(label, probability)
    assert [n for _, _, n in bins] == [
        n for _, _, n in reliability(label[order], probability[order])
    ]
    assert sum(n for _, _, n in bins) == 500


def test_calibration_slope_tells_overconfidence():
    random = np.random.default_rng(4)
    log_odds = random.normal(size=20_000)
    label = (random.random(20_000) < 1 / (1 + np.exp(-log_odds))).astype(float)
    for factor, slope in ((1.0, 1.0), (2.0, 0.5)):
        probability = 1 / (1 + np.exp(-factor * log_odds))
        assert measure(Task.BINARY, label, Predictions(probability, probability))[
            "calibration_slope"
        ] == pytest.approx(slope, abs=0.05)


def test_threshold_has_the_best_f1():
    assert best_threshold(LABEL, PROBABILITY) == 0.4


def test_rule_takes_the_column_or_its_default_and_stays_a_probability():
    rows = pa.table({"rate": [0.2, None, 1.7]})
    predictions = rule_predictions(Task.BINARY, FallbackRule(feature="rate", default=0.5), rows)
    assert predictions.score.tolist() == [0.2, 0.5, 1.7]
    assert predictions.probability.tolist() == [0.2, 0.5, 1 - 1e-6]


def test_slices_cover_every_row_once():
    rows = pa.table({"carrier": ["B", None, "A", "B"]})
    masks = {level: mask.tolist() for level, mask in slice_masks(Slice(column="carrier"), rows)}
    assert masks == {
        "(missing)": [False, True, False, False],
        "A": [False, False, True, False],
        "B": [True, False, False, True],
    }


@pytest.mark.parametrize(
    ("metric", "value", "reference", "gain"),
    [("roc_auc", 0.7, 0.6, 0.1), ("rmse", 3, 5, 2), ("calibration_slope", 1.1, 0.7, 0.2)],
)
def test_gain_is_positive_when_better(metric, value, reference, gain):
    assert METRICS[metric].gain(value, reference) == pytest.approx(gain)
    assert METRICS[metric].gain(reference, value) == pytest.approx(-gain)
