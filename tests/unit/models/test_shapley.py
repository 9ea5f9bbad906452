"""Exact contributions: LightGBM's numbers, the same bits in any batch and number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.models.models import N_LEVELS, SHAPES, make_booster, make_matrix, trees_of

from nightshift.kernels import TASK_ROWS
from nightshift.models.model_format.trees import UnsuitableTreesError
from nightshift.models.shapley import tree_arrays
from nightshift.models.shapley.kernel import LANES
from nightshift.models.shapley.shap_values import shapley_kernel
from nightshift.models.shapley.tree_arrays import build_tree_arrays

RELATIVE = 1e-9
ALMOST_ZERO = 1.0000000180025095e-35


def _ours(booster, matrix):
    return shapley_kernel(trees_of(booster))(matrix)


def _assert_equal(booster, matrix):
    expected = booster.predict(matrix, pred_contrib=True, num_threads=1)[:, :-1]
    scale = max(np.abs(booster.predict(matrix, raw_score=True)).max(), 1e-300)
    assert np.abs(_ours(booster, matrix) - expected).max() <= RELATIVE * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_contributions_are_those_of_lightgbm_when_trees_have_this_shape(shape):
    matrix = make_matrix(300, seed=99)
    # What training never saw: tiny numbers, levels beyond the known, negative and broken codes.
    matrix[0, :5], matrix[1, :5], matrix[2, :5] = 1e-36, -1e-36, 1e300
    matrix[0, 5:], matrix[1, 5:], matrix[2, 5:], matrix[3, 5:] = N_LEVELS + 500, -1.0, -0.5, 2.5
    matrix[4] = np.nan
    # LightGBM's own thresholds around zero: it asks 0 for them, also at nodes that the row does not
    # reach.
    matrix[5:105, :5] = np.random.default_rng(5).choice(
        [ALMOST_ZERO, -ALMOST_ZERO, 0.0, 0.4, -0.4], (100, 5)
    )
    booster = make_booster(7, **dict(SHAPES[shape]))

    _assert_equal(booster, matrix)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 10**6),
            "num_leaves": st.integers(2, 80),
            "max_depth": st.sampled_from([-1, 1, 3, 12]),
            "zero_as_missing": st.booleans(),
            "use_missing": st.booleans(),
            "max_cat_to_onehot": st.sampled_from([1, 4, 32]),
            "max_bin": st.sampled_from([4, 63, 255]),
        }
    )
)
def test_contributions_are_those_of_lightgbm_when_models_are_random(drawn):
    booster = make_booster(n=400, rounds=4, min_data_per_group=5, **drawn)

    _assert_equal(booster, make_matrix(80, drawn["seed"] + 1))


def test_contributions_are_those_of_lightgbm_when_a_path_asks_thirty_features():
    import lightgbm as lgb

    dice = np.random.default_rng(3)
    matrix = dice.random((4000, 30))
    # A chain: each next feature matters only where all before it were high.
    label = np.zeros(len(matrix))
    alive = np.ones(len(matrix), bool)
    for column in range(30):
        alive &= matrix[:, column] > 0.12
        label += alive
    params = {
        "objective": "regression",
        "num_leaves": 60,
        "min_data_in_leaf": 1,
        "verbosity": -1,
        "num_threads": 1,
    }
    booster = lgb.train(params, lgb.Dataset(matrix, label), 5)
    deepest = max(build_tree_arrays(trees_of(booster))["n_points"])

    assert deepest >= 10
    _assert_equal(booster, matrix[:200])


def test_a_feature_counts_once_when_a_path_asks_it_many_times():
    import lightgbm as lgb

    values = np.linspace(-3, 3, 2000)[:, None]
    booster = lgb.train(
        {"verbosity": -1, "num_leaves": 40, "min_data_in_leaf": 5},
        lgb.Dataset(values, np.sin(4 * values[:, 0])),
        5,
    )

    assert set(build_tree_arrays(trees_of(booster))["n_points"].tolist()) == {1}
    _assert_equal(booster, values[::7])


def test_contributions_are_the_same_bits_in_any_batch_and_with_any_number_of_threads(monkeypatch):
    booster, matrix = make_booster(1, num_leaves=31), make_matrix(2 * TASK_ROWS + 77, seed=5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole = _ours(booster, matrix)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    in_threads = _ours(booster, matrix)
    pieces = np.concatenate(
        [
            _ours(booster, part)
            for part in np.array_split(matrix[:500], [1, LANES - 1, 2 * LANES + 3, 400])
        ]
    )
    shuffled = np.random.default_rng(0).permutation(500)

    assert in_threads.tobytes() == whole.tobytes()
    assert pieces.tobytes() == whole[:500].tobytes()
    assert _ours(booster, matrix[:500][shuffled]).tobytes() == whole[:500][shuffled].tobytes()


def test_trees_are_refused_when_their_constants_would_fill_the_memory(monkeypatch):
    monkeypatch.setattr(tree_arrays, "MAX_CONSTANTS_BYTES", 10_000)

    with pytest.raises(UnsuitableTreesError):
        build_tree_arrays(trees_of(make_booster(1, num_leaves=31)))
