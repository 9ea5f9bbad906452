"""Groups that are ordered by score: ranks, metrics, ties, and groups that tell nothing."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import ndcg_score
from tests.unit.models.models import ranking_spec

from nightshift.models.group_ranks import (
    count_groups,
    measure_groups,
    ranks_of,
    relative_positions,
)
from nightshift.models.predictions import Groups, Predictions, group_codes, with_groups

MONDAY, TUESDAY = dt.date(2020, 1, 6), dt.date(2020, 1, 7)


def ranked(score: list[float], codes: list[int], top_k: int = 2) -> Predictions:
    return Predictions(np.array(score), groups=Groups(np.array(codes), top_k))


def test_metrics_are_those_of_hand_for_one_group():
    # In the order of scores the relevance is 1, 0, 2, 0; the first two rows count.
    measured = measure_groups(np.array([2.0, 1, 0, 0]), ranked([0.1, 0.9, 0.5, 0.0], [0] * 4))
    best = 3 + 1 / np.log2(3)
    assert measured.values["ndcg"] == pytest.approx([1 / best])
    assert measured.values["precision_at_k"] == pytest.approx([1 / 2])
    assert measured.values["recall_at_k"] == pytest.approx([1 / 2])


@pytest.mark.parametrize("has_ties", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("top_k", [1, 3, 10, 100])
def test_ndcg_is_that_of_scikit_learn_in_each_group(top_k: int, has_ties: bool):
    dice = np.random.default_rng(7)
    codes = dice.integers(0, 12, 400)
    label = dice.choice([0.0, 1, 2, 4], 400, p=[0.6, 0.2, 0.1, 0.1])
    score = dice.normal(size=400)
    if has_ties:
        score = score.round(0)
    measured = measure_groups(label, Predictions(score, groups=Groups(codes, top_k)))
    expected = [
        ndcg_score([2 ** label[codes == code] - 1], [score[codes == code]], k=top_k)
        for code in range(12)
    ]
    assert measured.values["ndcg"] == pytest.approx(expected, abs=1e-12)


def test_a_constant_score_is_worth_a_random_order_whatever_the_order_of_rows():
    label = np.array([3.0, 0, 0, 1, 0])
    dice = np.random.default_rng(3)
    drawn = [
        measure_groups(label, ranked(dice.permutation(5).tolist(), [0] * 5)).values
        for _ in range(4000)
    ]
    for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1]):
        constant = measure_groups(label[order], ranked([0.5] * 5, [0] * 5)).values
        for name, (value,) in constant.items():
            assert value == pytest.approx(np.mean([one[name] for one in drawn]), abs=0.02)


def test_groups_without_an_order_are_left_out_and_counted():
    # Group 0 can be ordered; 1 has one row, 2 no relevant row, 3 rows that are all alike.
    codes = [0, 0, 1, 2, 2, 3, 3]
    label = np.array([0.0, 1, 1, 0, 0, 2, 2])
    predictions = ranked([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], codes)
    measured = measure_groups(label, predictions)
    assert measured.first_row.tolist() == [0]
    assert measured.means()["ndcg"] == 1.0
    counts = count_groups(label, np.array(codes))
    assert counts == {"n_groups": 4, "n_judged": 1, "n_single": 1, "n_irrelevant": 1}


def test_rows_of_which_no_group_has_an_order_have_no_value():
    for rows in (np.array([0, 2]), np.empty(0, dtype=int)):
        label, predictions = np.array([1.0, 0, 1]), ranked([0.1, 0.2, 0.3], [0, 0, 1]).at(rows)
        assert np.isnan(measure_groups(label[rows], predictions).means()["ndcg"])


def test_ranks_begin_anew_in_each_group_and_equal_scores_keep_the_order_of_rows():
    predictions = ranked([0.2, 0.9, 0.9, 0.5, 0.9], [0, 1, 0, 1, 0])
    assert ranks_of(predictions).tolist() == [3, 1, 1, 2, 2]
    assert relative_positions(predictions).tolist() == [0, 1, 1, 0, 0.5]
    assert relative_positions(ranked([0.3], [0])).tolist() == [1]


@pytest.mark.parametrize(
    ("shop", "expected"),
    [
        (["b", "a", None, "b"], [2, 1, 0, 3]),
        ([7, 1, None, 7], [2, 1, 0, 3]),
    ],
    ids=["text", "number"],
)
def test_a_group_is_a_value_of_a_night_and_no_value_is_one_too(shop, expected):
    rows = pa.table({"partition_date": [MONDAY] * 3 + [TUESDAY], "shop": shop})
    assert group_codes(ranking_spec(), rows).tolist() == expected
    # Without a declared group each night is one.
    assert group_codes(ranking_spec(group=None), rows).tolist() == [0, 0, 0, 1]
    assert group_codes(ranking_spec(), rows.slice(0, 0)).tolist() == []


def test_rows_of_an_empty_text_and_rows_without_a_value_are_two_groups():
    shops = ["", None, "a", None, ""]
    rows = pa.table({"partition_date": [MONDAY] * 5, "shop": shops})
    assert group_codes(ranking_spec(), rows).tolist() == [1, 0, 2, 0, 1]


def test_only_predictions_of_a_ranking_get_groups():
    rows = pa.table({"partition_date": [MONDAY], "shop": ["a"]})
    predictions = with_groups(ranking_spec(), rows, Predictions(np.zeros(1)))
    assert predictions.groups is not None
    assert predictions.groups.top_k == 3
    document = ranking_spec().model_dump()
    del document["group"], document["top_k"]
    for part in ("promotion", "monitoring"):
        document[part] |= {"metric": "mae"}
    other = type(ranking_spec()).model_validate(document | {"task": "regression"})
    assert with_groups(other, rows, Predictions(np.zeros(1))).groups is None
