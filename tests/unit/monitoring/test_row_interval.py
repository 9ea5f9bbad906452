"""The interval of a night's quality: as wide as theory says, and right as often as it promises."""

from __future__ import annotations

import numpy as np
import pytest

from nightshift.models.group_ranks import measure_groups
from nightshift.models.predictions import Groups, Predictions
from nightshift.monitoring.performance import row_interval

N_ROWS = 2_000


def regression(seed: int, n_rows: int = N_ROWS) -> tuple[np.ndarray, Predictions]:
    """Return labels and predictions whose error is a standard normal number."""
    random = np.random.default_rng(seed)
    label = random.normal(size=n_rows)
    return label, Predictions(label + random.normal(size=n_rows))


def test_the_interval_of_a_mean_has_the_width_of_the_normal_law():
    label, predictions = regression(0)
    low, high = row_interval("bias", label, predictions)
    error = predictions.score - label
    expected = 2 * 1.96 * error.std() / N_ROWS**0.5
    assert low < error.mean() < high
    assert high - low == pytest.approx(expected, rel=0.25)


def test_it_has_the_truth_in_about_95_of_100_nights():
    truth = (2 / np.pi) ** 0.5
    n_right = 0
    for seed in range(200):
        low, high = row_interval("mae", *regression(seed, 400))
        n_right += low <= truth <= high
    assert 180 <= n_right <= 199


def test_it_is_the_same_in_a_rerun_and_narrower_with_more_rows():
    label, predictions = regression(3)
    low, high = row_interval("rmse", label, predictions)
    assert row_interval("rmse", label, predictions) == (low, high)
    few = row_interval("rmse", label[:200], Predictions(predictions.score[:200]))
    assert few[1] - few[0] > 2 * (high - low)


def test_there_is_none_where_the_rows_do_not_define_it():
    probability = np.full(50, 0.3)
    one_class = Predictions(probability, probability, 0.5)
    assert row_interval("roc_auc", np.zeros(50), one_class) is None
    assert row_interval("positive_rate", np.ones(50), one_class) is None
    assert row_interval("mae", np.zeros(1), Predictions(np.zeros(1))) is None
    assert row_interval("log_loss", np.zeros(50), one_class) is not None


def ranking(n_groups: int, n_rows: int = 20) -> tuple[np.ndarray, Predictions]:
    """Return relevances and scores of groups; luck has a part in the order of each."""
    random = np.random.default_rng(5)
    label = random.integers(0, 2, n_groups * n_rows).astype(float)
    score = label + 2 * random.normal(size=label.size)
    codes = np.repeat(np.arange(n_groups), n_rows)
    return label, Predictions(score, groups=Groups(codes, 5))


def test_groups_of_a_ranking_are_drawn_whole():
    label, predictions = ranking(400)
    low, high = row_interval("ndcg", label, predictions)
    values = measure_groups(label, predictions).values["ndcg"]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 400**0.5, rel=0.25)
    # The order of the rows of a group decides nothing.
    order = np.random.default_rng(1).permutation(label.size)
    mixed = row_interval("ndcg", label[order], predictions.at(order))
    assert mixed == pytest.approx((low, high), abs=1e-12)


def test_few_groups_of_a_ranking_have_no_interval():
    assert row_interval("ndcg", *ranking(4)) is None
    assert row_interval("ndcg", *ranking(5)) is not None
