from __future__ import annotations

import re

import numpy as np
import pytest

from nightshift.training.booster import FitPlan, fit_trees, load_booster
from nightshift.training.model_text import ModelTextError, check_model_text


@pytest.fixture(scope="module")
def text():
    matrix = np.random.default_rng(1).normal(size=(400, 3))
    matrix[:, 2] = np.random.default_rng(2).integers(0, 4, 400)
    label = (matrix[:, 0] + (matrix[:, 2] == 1) > 0.5).astype(float)
    plan = FitPlan("binary", {"num_leaves": 5}, 1, 6, 6, [2], ["a", "b", "kind"])
    return fit_trees((matrix[:300], label[:300]), (matrix[300:], label[300:]), plan).text


def test_whole_model_passes(text):
    check_model_text(text, ["a", "b", "kind"])
    assert load_booster(text).num_trees() > 0


@pytest.mark.parametrize("names", [["b", "a", "kind"], ["a", "b"], ["a", "b", "kind", "more"]])
def test_other_features_are_refused(text, names):
    with pytest.raises(ModelTextError, match="not those of the signature"):
        check_model_text(text, names)


def test_truncated_model_is_refused_at_every_length(text):
    ends = range(0, text.index("end of parameters"), 97)
    assert len(ends) > 20
    for end in ends:
        with pytest.raises(ModelTextError):
            check_model_text(text[:end])


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"left_child=(\S+)", "left_child=9"),
        (r"right_child=(\S+)", "right_child=0"),
        (r"split_feature=\d", "split_feature=7"),
        (r"num_leaves=5\n", "num_leaves=4\n"),
        (r"leaf_value=\S+ ", "leaf_value="),
    ],
)
def test_damaged_tree_is_refused(text, pattern, replacement):
    damaged, n = re.subn(pattern, replacement, text, count=1)
    assert n == 1
    grown = len(damaged) - len(text)
    sizes = re.search(r"tree_sizes=(\d+)", damaged)
    damaged = damaged.replace(sizes[0], f"tree_sizes={int(sizes[1]) + grown}", 1)
    with pytest.raises(ModelTextError):
        check_model_text(damaged)


@pytest.mark.parametrize("name", ["max_feature_idx", "num_tree_per_iteration", "objective", "feature_infos", "tree_sizes", "feature_names"])
def test_missing_header_line_is_refused(text, name):
    damaged, n = re.subn(rf"\n{name}=[^\n]*", "", text, count=1)
    assert n == 1
    with pytest.raises(ModelTextError):
        load_booster(damaged, ["a", "b", "kind"])
