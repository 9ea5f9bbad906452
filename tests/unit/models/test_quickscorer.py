"""QuickScorer: LightGBM's bits for trees of every size and values at every edge, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.models.models import N_NUMERIC, make_booster, make_matrix, trees_of

from nightshift.models.engines import leaf_masks
from nightshift.models.engines.leaf_masks import MAX_LEAVES, build_leaf_masks
from nightshift.models.engines.quickscorer import QuickScorer
from nightshift.models.engines.quickscorer_kernel import LANES, add_leaves
from nightshift.models.model_format.trees import UnsuitableTreesError


def _edges(n: int) -> np.ndarray:
    """Return rows with almost zeros, negative zeros, thresholds and unknown levels."""
    matrix = make_matrix(n, seed=61)
    for place, number in enumerate((1e-36, -1e-36, -0.0, 1.1e-35, -1.1e-35, 1e300, -1e300)):
        matrix[place::31, place % N_NUMERIC] = number
    for place, level in enumerate((-0.5, -1.0, -3.0, 39.0, 40.0, 63.0, 64.0, 1e6, 2.5)):
        matrix[place::29, N_NUMERIC + place % 2] = level
    return matrix


@pytest.mark.parametrize("n_leaves", [2, 3, 63, 64, 65, 128, 129, MAX_LEAVES])
@pytest.mark.parametrize("shape", [{}, {"zero_as_missing": True}, {"use_missing": False}])
def test_every_bit_is_lightgbms_when_leaves_fill_words_or_just_not(n_leaves, shape):
    grown = {"num_leaves": n_leaves, "min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0, "n": 3000}
    booster, matrix = make_booster(5, **grown, **shape), _edges(2000)

    assert (
        QuickScorer(trees_of(booster)).raw(matrix).tobytes()
        == booster.predict(matrix, raw_score=True).tobytes()
    )


@pytest.mark.parametrize("n_rows", [0, 1, LANES - 1, LANES, LANES + 1, 5000])
def test_a_row_has_the_same_score_in_any_batch(n_rows):
    booster = make_booster(6, num_leaves=31)
    trees, matrix = QuickScorer(trees_of(booster)), _edges(5000)

    assert trees.raw(matrix[:n_rows]).tobytes() == trees.raw(matrix)[:n_rows].tobytes()


@pytest.mark.parametrize("order", ["C", "F", "every other row"])
def test_a_matrix_may_lie_in_memory_in_any_order(order):
    booster, matrix = make_booster(6, num_leaves=31), _edges(800)
    given = matrix[::2] if order == "every other row" else np.array(matrix, order=order)

    assert (
        QuickScorer(trees_of(booster)).raw(given).tobytes()
        == booster.predict(given, raw_score=True).tobytes()
    )


def test_rows_are_the_same_bits_as_a_python_loop_gives():
    booster, matrix = make_booster(7, num_leaves=70, rounds=2, min_data_in_leaf=2), _edges(150)
    tables = build_leaf_masks(trees_of(booster))
    total = np.empty(len(matrix))
    with np.errstate(over="ignore"):
        add_leaves(matrix, total, **tables)

    assert total.tobytes() == booster.predict(matrix, raw_score=True).tobytes()


def test_trees_of_more_leaves_are_refused():
    booster = make_booster(
        8, num_leaves=MAX_LEAVES + 1, min_data_in_leaf=1, min_sum_hessian_in_leaf=0, n=3000
    )

    with pytest.raises(
        UnsuitableTreesError, match=f"{MAX_LEAVES + 1} leaves, more than {MAX_LEAVES}"
    ):
        QuickScorer(trees_of(booster))


def test_sets_of_too_many_levels_are_refused(monkeypatch):
    monkeypatch.setattr(leaf_masks, "MAX_SET_BYTES", 1_000)

    with pytest.raises(UnsuitableTreesError, match="sets of levels"):
        QuickScorer(trees_of(make_booster(9, num_leaves=31)))
