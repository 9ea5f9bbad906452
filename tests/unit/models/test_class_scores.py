"""Several classes: probabilities, calibration, engines, reasons and files of one model."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pytest
from tests.unit.models.models import class_rows, class_spec

from nightshift.models.calibration import EDGE, apply_calibration, fit_calibration
from nightshift.models.class_scores import softmax
from nightshift.models.engines.engine import LightGbmEngine
from nightshift.models.engines.equivalence import prove_engines
from nightshift.models.engines.quickscorer import QuickScorer
from nightshift.models.explanation import explanation_of
from nightshift.models.model_document import seal
from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.tokens import ModelTextError
from nightshift.models.shapley import shap_values
from nightshift.models.shapley.shap_values import Contributions
from nightshift.models.trained_model import TrainedModel
from nightshift.scoring.scorer import ChampionBrokenError, Scorer, score_rows, try_model
from nightshift.training.evaluation import measure
from nightshift.training.model_fit import fit_recipe
from nightshift.training.recipe.out_of_fold import log_loss
from nightshift.training.trees import boosting

START = dt.date(2020, 1, 1)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Return a model of three classes, as it is read from its files."""
    spec = class_spec()
    train = class_rows(3000, START)
    validation = class_rows(1500, START + dt.timedelta(days=11))
    files = fit_recipe(spec, train, validation).model.files
    return TrainedModel.from_files(files["model.lgb"], files["model.json"])


@pytest.fixture(scope="module")
def later() -> pa.Table:
    """Return rows that the model never saw."""
    return class_rows(2500, START + dt.timedelta(days=30), seed=9)


def test_every_engine_gives_the_bits_of_lightgbm(model, later):
    matrix = model.encode(later)
    expected = lgb.Booster(model_str=model.text).predict(matrix, raw_score=True)
    assert expected.shape == (2500, 3)
    for raw in (LightGbmEngine(model).raw(matrix), QuickScorer(model.trees, 3).raw(matrix)):
        assert raw.tobytes() == expected.tobytes()
    proof = prove_engines(model, later)
    assert proof["engines"]["quickscorer"]["objection"] is None
    proved = replace(model, engine_proof=proof)
    assert Scorer(proved, 0).engine.name == "quickscorer"


def test_reasons_and_base_are_the_raw_score_of_the_predicted_class(model, later, monkeypatch):
    matrix = model.encode(later)
    raw = LightGbmEngine(model).raw(matrix)
    which = model.from_raw(raw).predicted_class
    assert set(which) == {0, 1, 2}
    own = raw[np.arange(len(raw)), which]
    bases = explanation_of(model.files["model.json"])["base_by_class"]
    assert list(bases) == ["Small", "big one", "3"]
    base = np.array(list(bases.values()))[which]

    contributions = Contributions(model)
    assert contributions.is_accelerated
    added = contributions.of(matrix, which)
    assert added.sum(axis=1) + base == pytest.approx(own, abs=1e-9)
    # LightGBM's own, which serve where nothing can be compiled.
    monkeypatch.setattr(shap_values, "shapley_kernel", None)
    slow = Contributions(model)
    assert not slow.is_accelerated
    assert slow.of(matrix, which) == pytest.approx(added, abs=1e-9)


def test_a_row_is_scored_with_its_class_and_all_probabilities(model, later):
    scored = score_rows(model, later, 2)
    columns = ["probability_small", "probability_big_one", "probability_3"]
    classes = np.column_stack([scored.column(name).to_numpy() for name in columns])
    assert classes.sum(axis=1) == pytest.approx(np.ones(2500), abs=1e-12)
    assert scored.column("probability").to_numpy().tolist() == classes.max(axis=1).tolist()
    predicted = [model.classes[number] for number in classes.argmax(axis=1)]
    assert scored.column("predicted_class").to_pylist() == predicted
    assert scored.column("is_positive").null_count == 2500
    try_model(model, later, 2)


def test_a_model_whose_reasons_do_not_add_up_is_refused(model, later, monkeypatch):
    right = Contributions.of
    monkeypatch.setattr(
        Contributions, "of", lambda self, matrix, which: right(self, matrix, 2 - which)
    )
    with pytest.raises(ChampionBrokenError, match="do not add up"):
        try_model(model, later, 2)


def test_the_file_is_read_back_and_damage_is_refused(model):
    files = model.files
    again = TrainedModel.from_files(files["model.lgb"], files["model.json"])
    assert again.booster.num_model_per_iteration() == 3
    assert again.digest == model.digest

    document = json.loads(files["model.json"])
    assert (document["format"], document["classes"]) == (5, ["Small", "big one", "3"])
    del document["document_sha256"]
    for change in (
        {"classes": ["Small", "big one"]},
        {"classes": ["Small", "Small", "3"]},
        {"classes": None},
        {"format": 4},
        {"task": "binary"},
        {"calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0}},
        {"calibration": {"method": "vector", "slope": [1.0], "shift": [0.0]}},
        {"calibration": {"method": "temperature", "slope": 9.0}},
    ):
        changed = json.dumps(seal(document | change)).encode()
        with pytest.raises(ModelTextError):
            TrainedModel.from_files(files["model.lgb"], changed)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("num_class=3", "num_class=2", "another number of scores"),
        ("num_tree_per_iteration=3", "num_tree_per_iteration=1", "another number of scores"),
        ("objective=multiclass num_class:3", "objective=multiclass num_class:4", "unknown object"),
        ("objective=multiclass num_class:3", "objective=binary sigmoid:1", "unknown objective"),
    ],
)
def test_a_text_that_contradicts_itself_is_refused(model, old, new, problem):
    assert old in model.text
    with pytest.raises(ModelTextError, match=problem):
        read_model(model.text.replace(old, new, 1))


def test_a_text_of_another_number_of_classes_is_refused(model):
    assert len(read_model(model.text, n_scores=3)) % 3 == 0
    with pytest.raises(ModelTextError, match="another number of scores"):
        read_model(model.text, n_scores=1)


@pytest.mark.parametrize("method", ["temperature", "vector"])
def test_a_calibration_heals_scores_that_are_too_sure_and_adds_up_to_1(method):
    dice = np.random.default_rng(3)
    truth = dice.normal(size=(4000, 3)) * [1.5, 1.0, 0.5] + [0.5, 0.0, -0.5]
    label = (truth + dice.gumbel(size=truth.shape)).argmax(axis=1).astype(float)
    sure = truth * 3
    first, second = slice(0, 3000), slice(3000, 4000)
    calibration = fit_calibration(method, sure[first], label[first])
    slopes = np.atleast_1d(calibration["slope"])
    assert slopes == pytest.approx(np.full(slopes.size, 1 / 3), rel=0.2)
    probability = apply_calibration(calibration, sure[second])
    assert probability.sum(axis=1) == pytest.approx(np.ones(1000), abs=1e-12)
    best = log_loss(label[second], softmax(truth[second]))
    assert log_loss(label[second], probability) < best + 0.01
    assert log_loss(label[second], apply_calibration({"method": "none"}, sure[second])) > best + 0.1


def test_days_that_lack_a_class_shift_none_and_one_class_tells_nothing():
    raw = np.random.default_rng(4).normal(size=(200, 3))
    label = (raw[:, 0] > raw[:, 1]).astype(float)
    assert fit_calibration("vector", raw, label)["method"] == "temperature"
    assert fit_calibration("vector", raw, np.zeros(200)) == {"method": "none"}


def test_a_class_that_training_lacks_is_hardly_possible_and_costs_a_finite_loss():
    spec = class_spec()
    train = class_rows(2000, START, absent=2)
    validation = class_rows(1000, START + dt.timedelta(days=11), absent=2)
    model = fit_recipe(spec, train, validation).model
    rows = class_rows(1000, START + dt.timedelta(days=30))
    predicted = model.predictions(rows)
    assert predicted.classes is not None
    assert predicted.classes[:, 2].max() <= 2 * EDGE
    values = measure(spec.task, rows.column("kind").to_numpy(), predicted)
    assert 1 < values["log_loss"] < np.inf
    assert values["recall"] < 2 / 3


def test_a_fit_of_classes_resumes_to_the_same_trees(tmp_path):
    rows = class_rows(800, START)
    matrix = np.column_stack([rows.column(name).to_numpy() for name in ("x", "y")])
    label = rows.column("kind").to_numpy()
    plan = boosting.FitPlan(
        "multiclass", {}, 1, 7, 7, [], ["x", "y"], segment_rounds=3, n_classes=3
    )
    straight = boosting.grow_trees((matrix, label), None, plan)
    checkpoint = tmp_path / "fit.json"
    boosting.grow_trees((matrix, label), None, replace(plan, n_rounds=3), checkpoint)
    resumed = boosting.grow_trees((matrix, label), None, plan, checkpoint)
    assert resumed.text == straight.text
    assert len(read_model(straight.text, n_scores=3)) == 21
