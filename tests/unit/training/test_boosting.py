from __future__ import annotations

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest

from nightshift.models.booster import contributions, load_booster, predict_raw, trees_digest
from nightshift.training.trees import boosting
from nightshift.training.trees.boosting import FitPlan, fit_trees
from nightshift.training.trees.refusals import TreesRefusedError

NAMES = ["a", "b", "c", "kind"]
PLAN = FitPlan(
    objective="binary",
    params={
        "num_leaves": 7,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "feature_fraction": 0.7,
        "learning_rate": 0.1,
    },
    seed=7,
    n_rounds=45,
    patience_rounds=12,
    categorical_positions=[3],
    names=NAMES,
    segment_rounds=10,
)


def make_parts():
    """Return training and validation rows: three numbers, one with gaps, and a category."""
    random = np.random.default_rng(3)
    matrix = random.normal(size=(1500, 4))
    matrix[:, 3] = random.integers(0, 5, 1500)
    matrix[::7, 1] = np.nan
    label = (matrix[:, 0] + (matrix[:, 3] == 2) + random.normal(size=1500) > 0).astype(float)
    return (matrix[:1000], label[:1000]), (matrix[1000:], label[1000:])


@pytest.fixture(scope="module")
def parts():
    return make_parts()


@pytest.fixture(scope="module")
def fit(parts):
    return fit_trees(*parts, PLAN)


@pytest.mark.parametrize("n_threads", [1, 2, 4])
@pytest.mark.mlts("infra-1")
def test_same_text_when_threads_differ(parts, fit, n_threads):
    assert fit_trees(*parts, replace(PLAN, n_threads=n_threads)).text == fit.text


def test_other_trees_when_seed_differs(parts, fit):
    assert trees_digest(fit_trees(*parts, replace(PLAN, seed=8)).text) != trees_digest(fit.text)


def test_other_trees_when_rows_are_shuffled(parts, fit):
    (matrix, label), validation = parts
    order = np.random.default_rng(0).permutation(label.size)
    assert trees_digest(
        fit_trees((matrix[order], label[order]), validation, PLAN).text
    ) != trees_digest(fit.text)


SAMPLED = {"bagging_fraction": 0.8, "bagging_freq": 1, "feature_fraction": 0.5}
STRONG = {
    "lambda_l1": 1.0,
    "max_depth": 3,
    "min_data_in_leaf": 40,
    "max_bin": 31,
    "cat_smooth": 2.0,
    "path_smooth": 1.0,
}
EVERY_OTHER = {
    "learning_rate": 0.07,
    "num_leaves": 6,
    "min_sum_hessian_in_leaf": 0.5,
    "min_gain_to_split": 0.01,
    "lambda_l2": 3.0,
    "cat_l2": 4.0,
    "max_cat_to_onehot": 2,
    "min_data_per_group": 30,
    "min_data_in_bin": 5,
}


@pytest.mark.parametrize("objective", ["binary", "regression_l1", "huber", "quantile", "poisson"])
@pytest.mark.parametrize(
    ("grows_on", "params"),
    [
        (True, {}),
        (True, SAMPLED),
        (True, SAMPLED | {"bagging_freq": 5, "feature_fraction_bynode": 0.5}),
        (False, SAMPLED | {"extra_trees": True}),
        (True, SAMPLED | STRONG),
        (True, {"bagging_fraction": 0.5, "bagging_freq": 0, "alpha": 0.7}),
        (True, {"bagging_fraction": 1.0, "bagging_freq": 1}),
        (True, EVERY_OTHER),
        (False, SAMPLED | {"bagging_freq": 3}),
        (False, {"data_sample_strategy": "goss"}),
    ],
)
def test_same_text_when_each_segment_starts_from_the_text(
    parts, monkeypatch, tmp_path, objective, grows_on, params
):
    plan = replace(PLAN, objective=objective, params=params, patience_rounds=45)
    starts, train = [], lgb.train
    monkeypatch.setattr(lgb, "train", lambda *args, **how: starts.append(1) or train(*args, **how))
    grown = fit_trees(*parts, plan)
    assert len(starts) == (1 if grows_on else 5)
    assert fit_and_die_after_each_segment(parts, plan, monkeypatch, tmp_path) == grown
    # The last one finds a finished fit.
    assert len(starts) == (1 if grows_on else 5) + 5


def fit_and_die_after_each_segment(parts, plan, monkeypatch, tmp_path):
    """Return a fit of which every segment starts from the text of the one before."""
    save = boosting.save_checkpoint

    def save_then_die(path, state):
        save(path, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(boosting, "save_checkpoint", save_then_die)
        while True:
            try:
                return fit_trees(*parts, plan, tmp_path / "fit.json")
            except KeyboardInterrupt:
                continue


def test_every_parameter_with_which_a_booster_grows_on_is_fitted_both_ways():
    tried = (
        SAMPLED.keys() | STRONG.keys() | EVERY_OTHER.keys() | {"alpha", "feature_fraction_bynode"}
    )
    assert tried == boosting.CONTINUABLE_PARAMS


@pytest.mark.parametrize("n_finished", [1, 2, 3])
def test_same_text_when_killed_after_a_segment(parts, fit, tmp_path, monkeypatch, n_finished):
    checkpoint = tmp_path / "deep" / "fit.json"
    save, saved = boosting.save_checkpoint, []

    def save_then_die(path, state):
        save(path, state)
        saved.append(len(state.losses))
        if len(saved) == n_finished:
            raise KeyboardInterrupt

    monkeypatch.setattr(boosting, "save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        fit_trees(*parts, PLAN, checkpoint)
    resumed = fit_trees(*parts, PLAN, checkpoint)
    assert resumed == fit
    assert saved[n_finished] > 10 * n_finished


def test_same_text_when_killed_within_a_segment(parts, fit, tmp_path, monkeypatch):
    checkpoint = tmp_path / "fit.json"
    n_rounds, update = [], lgb.Booster.update

    def die_in_round_15(*args, **how):
        n_rounds.append(1)
        if len(n_rounds) == 15:
            raise KeyboardInterrupt
        return update(*args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(lgb.Booster, "update", die_in_round_15)
        with pytest.raises(KeyboardInterrupt):
            fit_trees(*parts, PLAN, checkpoint)
    assert fit_trees(*parts, PLAN, checkpoint).text == fit.text


def damaged(content: bytes) -> dict[str, bytes]:
    """Return what a power cut, a full disk or a flipped bit leave of a checkpoint.

    Older checkpoints have no digest.
    """
    digest, _, document = content.partition(b"\n")
    leaf = document.index(b"leaf_value=") + len(b"leaf_value=") + 3
    other = b"1" if document[leaf : leaf + 1] != b"1" else b"2"
    losses = document.index(b'"losses": [') + len(b'"losses": [')
    return {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "zeroed": bytes(len(content)),
        "no digest": document,
        "half a digest": content[10:],
        "a digit of a leaf": digest + b"\n" + document[:leaf] + other + document[leaf + 1 :],
        "losses shortened": digest
        + b"\n"
        + document[:losses]
        + document[document.index(b",", losses) + 1 :],
        "no document": b"\xff\x00[",
    }


def test_a_damaged_checkpoint_is_none_and_the_fit_starts_again(
    parts, fit, tmp_path, monkeypatch, caplog
):
    checkpoint = tmp_path / "fit.json"
    boosting.save_checkpoint(checkpoint, boosting.Fit(fit.text, fit.losses[:20]))
    whole = checkpoint.read_bytes()
    assert boosting.load_checkpoint(checkpoint).losses == fit.losses[:20]
    for kind, content in damaged(whole).items():
        assert content != whole, kind
        checkpoint.write_bytes(content)
        caplog.clear()
        assert boosting.load_checkpoint(checkpoint) == boosting.Fit("", ()), kind
        assert "is damaged and not used" in caplog.text, kind
    assert fit_trees(*parts, PLAN, checkpoint) == fit
    assert boosting.load_checkpoint(checkpoint).losses == fit.losses


def test_a_checkpoint_of_another_fit_is_none(fit, tmp_path):
    boosting.save_checkpoint(tmp_path / "one.json", boosting.Fit(fit.text, fit.losses))
    (tmp_path / "other.json").write_bytes((tmp_path / "one.json").read_bytes())
    assert boosting.load_checkpoint(tmp_path / "other.json") == boosting.Fit("", ())


def test_fit_stops_at_the_best_round(parts, fit):
    assert len(fit.losses) - fit.best_round in range(PLAN.patience_rounds + 1)
    assert load_booster(fit.text).num_trees() == fit.best_round
    assert min(fit.losses) == fit.losses[fit.best_round - 1]


def test_fit_ends_at_the_limit_of_rounds(parts):
    assert len(fit_trees(*parts, replace(PLAN, n_rounds=13, patience_rounds=100)).losses) == 13


def test_contributions_add_up_to_the_raw_score(parts, fit):
    matrix = parts[1][0][:20]
    model = load_booster(fit.text, NAMES)
    parts_of_score = contributions(model, matrix)
    assert parts_of_score.shape == (20, 5)
    np.testing.assert_allclose(parts_of_score.sum(axis=1), predict_raw(model, matrix), rtol=1e-9)


def test_trees_digest_ignores_parameters(fit):
    assert trees_digest(
        fit.text.replace("[learning_rate: 0.1]", "[learning_rate: 0.2]")
    ) == trees_digest(fit.text)
    assert trees_digest(fit.text.replace("leaf_value=", "leaf_value=1", 1)) != trees_digest(
        fit.text
    )


@pytest.mark.mlts("infra-2")
def test_few_rows_are_learnt_by_heart():
    matrix = np.arange(50, dtype=float).reshape(-1, 1)
    label = (np.arange(50) % 2).astype(float)
    plan = FitPlan(
        "binary",
        {"min_data_in_leaf": 1, "num_leaves": 60, "learning_rate": 0.5, "min_data_in_bin": 1},
        1,
        60,
        60,
        [],
        ["x"],
    )
    losses = fit_trees((matrix, label), (matrix, label), plan).losses
    assert losses[-1] < 0.02 < losses[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_leaves", "many"), ("learning_rate", -1.0), ("bagging_fraction", 7.0), ("max_bin", 0)],
)
def test_a_parameter_that_lightgbm_refuses_has_a_code_and_is_not_tried_again(parts, name, value):
    with pytest.raises(TreesRefusedError, match=name) as caught:
        fit_trees(*parts, replace(PLAN, params={**PLAN.params, name: value}))
    assert (caught.value.code, caught.value.is_retryable) == ("NS-TRAIN-017", False)
