from __future__ import annotations

import math
import re

import lightgbm as lgb
import numpy as np
import pytest
from tests.chaos.poisoned_models.mutators import with_true_sizes

from nightshift.models.booster import load_booster, predict_raw
from nightshift.models.golden import golden_rows
from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.signature import Signature
from nightshift.training.trees.boosting import FitPlan, fit_trees

pytestmark = [pytest.mark.promise("R8"), pytest.mark.mlts("infra-4")]


@pytest.fixture(scope="module")
def text():
    matrix = np.random.default_rng(1).normal(size=(400, 3))
    matrix[:, 2] = np.random.default_rng(2).integers(0, 4, 400)
    label = (matrix[:, 0] + 3 * (matrix[:, 2] == 1) > 0.5).astype(float)
    plan = FitPlan(
        "binary", {"num_leaves": 5, "min_data_per_group": 10}, 1, 6, 6, [2], ["a", "b", "kind"]
    )
    return fit_trees((matrix[:300], label[:300]), (matrix[300:], label[300:]), plan).text


def test_whole_model_passes(text):
    trees = read_model(text, ["a", "b", "kind"])
    assert len(trees) == text.count("Tree=")
    assert {len(tree.leaf_values) - len(tree.thresholds) for tree in trees} == {1}
    assert load_booster(text).num_trees() > 0


@pytest.fixture(scope="module")
def missing():
    """Return a model with an infinite threshold, and rows to score.

    LightGBM writes one where a column is informative only by being missing.
    """
    dice = np.random.default_rng(3)
    matrix = dice.normal(size=(900, 2))
    matrix[:, 0] = np.where(dice.random(900) < 0.4, np.nan, dice.integers(0, 3, 900))
    label = np.where(np.isnan(matrix[:, 0]), dice.random(900) < 0.8, dice.random(900) < 0.2).astype(
        float
    )
    plan = FitPlan("binary", {"num_leaves": 4, "min_data_in_leaf": 5}, 1, 20, 20, [], ["a", "b"])
    return fit_trees((matrix[:600], label[:600]), (matrix[600:], label[600:]), plan).text, matrix


def test_model_passes_when_a_node_asks_only_whether_a_value_is_missing(missing):
    text, matrix = missing
    assert re.search(r"threshold=.*\binf\b", text)
    trees = read_model(text, ["a", "b"])
    assert math.inf in [threshold for tree in trees for threshold in tree.thresholds]
    raw = predict_raw(load_booster(text), matrix)
    assert raw[np.isnan(matrix[:, 0])].mean() > raw[~np.isnan(matrix[:, 0])].mean() + 1
    again = lgb.Booster(model_str=text).predict(matrix, raw_score=True)
    assert raw.tobytes() == again.tobytes()


def test_golden_rows_are_finite_or_missing_when_a_threshold_is_infinite(missing):
    rows = golden_rows(read_model(missing[0]), Signature(("a", "b"), ()))
    assert not np.isinf(rows).any()
    assert np.isnan(rows[:, 0]).any()


@pytest.mark.parametrize(
    "damage", [("=inf", "=-inf"), ("=inf", "=nan"), ("=inf", "=infinity"), ("=8 ", "=0 ")]
)
def test_infinite_threshold_is_refused_when_it_is_not_lightgbms_own(missing, damage):
    first = missing[0].partition("\nTree=1")[0]
    assert "threshold=inf " in first
    with pytest.raises(ModelTextError):
        read_model(with_true_sizes(missing[0].replace(first, first.replace(*damage))))


@pytest.mark.parametrize("names", [["b", "a", "kind"], ["a", "b"], ["a", "b", "kind", "more"]])
def test_other_features_are_refused(text, names):
    with pytest.raises(ModelTextError, match="not those of the signature"):
        read_model(text, names)


def test_truncated_model_is_refused_at_every_length(text):
    ends = range(0, text.index("end of parameters"), 97)
    assert len(ends) > 20
    for end in ends:
        with pytest.raises(ModelTextError):
            read_model(text[:end])


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
    with pytest.raises(ModelTextError):
        read_model(with_true_sizes(damaged))


@pytest.mark.parametrize(
    ("pattern", "replacement", "what"),
    [
        (
            r"leaf_value=\S+",
            "leaf_value=nan",
            "leaf_value holds something other than finite numbers",
        ),
        (r"leaf_value=\S+", "leaf_value=1e+999", "too large for a double"),
        (r"leaf_value=\S+", "leaf_value=1e+300", "impossible score"),
        (r"leaf_value=", "leaf_value= ", "leaf_value holds something other"),
        (r"threshold=\S+", "threshold=inf", "infinite threshold at a node without missing values"),
        (r"threshold=\S+", "threshold=1_0", "threshold holds something other than finite numbers"),
        (r"decision_type=\d+", "decision_type=12", "unknown decision type"),
        (r"decision_type=\d+", "decision_type=3", "unknown decision type"),
        (r"leaf_count=\d+", "leaf_count=0", "a node without rows"),
        (r"leaf_count=\d+", "leaf_count=-5", "a node without rows"),
        (r"leaf_count=\d+", "leaf_count=4294967296", "beyond 32 bits"),
        (r"num_leaves=5\n", "num_leaves=2000000000\n", "num_leaves is out of range"),
        (
            r"num_leaves=5\n",
            "num_leaves=5\nnum_leaves=5\n",
            "does not have the lines that LightGBM writes",
        ),
        (r"num_cat=1", "num_cat=2", "level sets that do not match its nodes"),
        (r"cat_boundaries=0 1", "cat_boundaries=0 9", "level sets of the wrong length"),
        (r"cat_boundaries=0 1", "cat_boundaries=1 1", "an empty level set"),
        (r"cat_threshold=\d+", "cat_threshold=4294967296", "level sets of the wrong length"),
        (r"is_linear=0", "is_linear=1", "linear leaves"),
        (r"shrinkage=\S+", "shrinkage=inf", "shrinkage holds something other"),
        (r"Tree=1\n", "Tree=2\n", "does not begin and end"),
        (r"num_class=1", "num_class=2", "another number of scores per row"),
        (r"max_feature_idx=2", "max_feature_idx=999999999", "counts other features"),
        (r"objective=binary sigmoid:1", "objective=rank_xendcg", "unknown objective"),
        (r"feature_infos=\S+", "feature_infos=[0:nan]", "describes features in an unknown form"),
        (r"feature_names=a b", "feature_names=a a", "not those of the signature"),
        (r"\n\[boosting: gbdt\]", "\nboosting gbdt", "parameters are not written"),
        (r"\n\[boosting: gbdt\]", "\n[seed: 1]", "parameters are not written"),
        (r"pandas_categorical:null", 'pandas_categorical:[["Ann"]]', "its end"),
        (r"tree\nversion=v4", "\ufefftree\nversion=v4", "not a text model"),
        (r"tree\nversion=v4", "tree\r\nversion=v4", "not a text model"),
        (r"tree\nversion=v4", "tree\nversion=v3", "not a text model"),
    ],
)
def test_damage_is_named_when_a_text_is_refused(text, pattern, replacement, what):
    damaged, n = re.subn(pattern, lambda _: replacement, text, count=1)
    assert n == 1
    with pytest.raises(ModelTextError, match=what):
        read_model(with_true_sizes(damaged), ["a", "b", "kind"])


def test_tree_is_refused_when_its_nodes_hang_on_each_other(text):
    """Nodes 1 and 2 are each reached once, but only from each other."""
    damaged = re.sub(r"left_child=.*", "left_child=-1 2 1", text, count=1)
    damaged = re.sub(r"right_child=.*", "right_child=-2 -3 -4", damaged, count=1)
    with pytest.raises(ModelTextError, match="nodes that its root does not reach"):
        read_model(with_true_sizes(damaged))


def test_model_without_trees_is_refused(text):
    begin, end = text.index("\n\nTree=0"), text.index("end of trees")
    with pytest.raises(ModelTextError, match="no trees"):
        read_model(re.sub(r"tree_sizes=.*", "tree_sizes=", text[: begin + 2] + text[end:]))


def test_constant_model_passes():
    """A label that never changes gives one tree of one leaf, whose lists are empty."""
    matrix = np.zeros((60, 2))
    plan = FitPlan("regression", {}, 1, 3, 3, [], ["a", "b"])
    rows = (matrix, np.full(60, 3.0))
    [tree] = read_model(fit_trees(rows, rows, plan).text)
    assert (tree.features, tree.leaf_values) == ([], [3.0])


@pytest.mark.parametrize(
    ("objective", "params"),
    [
        ("regression", {"monotone_constraints": "1,0,-1", "interaction_constraints": "[0,1],[2]"}),
        ("regression", {"reg_sqrt": True, "extra_trees": True, "path_smooth": 0.1}),
        ("regression_l1", {}),
        ("huber", {"alpha": 0.5, "boosting": "dart"}),
        ("quantile", {"alpha": 0.5}),
        ("poisson", {"data_sample_strategy": "goss"}),
        ("cross_entropy", {"max_bin": 15}),
    ],
    ids=str,
)
def test_what_lightgbm_writes_passes_when_objective_and_parameters_are_others(objective, params):
    dice = np.random.default_rng(4)
    matrix, label = dice.normal(size=(300, 3)), dice.uniform(0, 1, 300)
    plan = FitPlan(
        objective, {"num_leaves": 6, "min_data_in_leaf": 5, **params}, 1, 4, 4, [], ["a", "b", "c"]
    )
    text = fit_trees((matrix[:200], label[:200]), (matrix[200:], label[200:]), plan).text
    assert len(read_model(text, ["a", "b", "c"])) == text.count("Tree=")


@pytest.mark.parametrize(
    "name",
    [
        "max_feature_idx",
        "num_tree_per_iteration",
        "objective",
        "feature_infos",
        "tree_sizes",
        "feature_names",
    ],
)
def test_missing_header_line_is_refused(text, name):
    damaged, n = re.subn(rf"\n{name}=[^\n]*", "", text, count=1)
    assert n == 1
    with pytest.raises(ModelTextError):
        load_booster(damaged, ["a", "b", "kind"])
