"""An average of text models is a text model of its own, for every reader of ours."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.models.models import SHAPES, make_booster, make_matrix

from nightshift.models.booster import importance, load_booster, predict_raw
from nightshift.models.engines.quickscorer import QuickScorer
from nightshift.models.model_format.blend import blend_models
from nightshift.models.model_format.reader import read_model
from nightshift.models.shapley.shap_values import shapley_kernel

# A constant model has no Shapley values to compare; "dart" rescales its own trees.
KINDS = [name for name in SHAPES if name != "constant"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_blend_scores_the_share_of_the_mean_in_every_engine(kind):
    boosters = [make_booster(seed, **SHAPES[kind]) for seed in (1, 2, 3)]
    matrix = make_matrix(700, 9)

    text = blend_models([booster.model_to_string() for booster in boosters], 0.6)

    trees, blend = read_model(text), load_booster(text)
    expected = 0.2 * sum(predict_raw(booster, matrix) for booster in boosters)
    raw = predict_raw(blend, matrix)
    assert np.abs(raw - expected).max() < 1e-12
    assert blend.num_trees() == sum(booster.num_trees() for booster in boosters)
    assert QuickScorer(trees).raw(matrix).tobytes() == raw.tobytes()
    base = raw - shapley_kernel(trees)(matrix).sum(axis=1)
    assert np.ptp(base) < 1e-12


def test_splits_of_all_members_count_as_importance():
    boosters = [make_booster(seed, num_leaves=31) for seed in (1, 2)]

    blend = load_booster(blend_models([booster.model_to_string() for booster in boosters]))

    n_splits = sum(booster.feature_importance("split") for booster in boosters)
    assert (blend.feature_importance("split") == n_splits).all()
    assert sum(importance(blend).values()) == pytest.approx(1)


def test_one_text_alone_keeps_its_bytes_and_a_share_of_nothing_scores_nothing():
    booster = make_booster(1)
    text = booster.model_to_string()

    assert blend_models([text]) == text
    silent = load_booster(blend_models([text], 0.0))
    assert (predict_raw(silent, make_matrix(50, 3)) == 0).all()
