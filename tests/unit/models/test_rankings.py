"""A ranking from its fit to its files: groups, engines, reasons, a resumed fit."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.unit.models.models import ranking_rows, ranking_spec

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.models.engines.engine import LightGbmEngine
from nightshift.models.engines.equivalence import prove_engines
from nightshift.models.engines.quickscorer import QuickScorer
from nightshift.models.explanation import explanation_of
from nightshift.models.group_ranks import measure_groups
from nightshift.models.predictions import Predictions, labels_of, with_groups
from nightshift.models.shapley.shap_values import Contributions
from nightshift.models.trained_model import TrainedModel
from nightshift.scoring.scorer import Scorer, score_rows, try_model
from nightshift.training.evaluation import evidence, measure, overall
from nightshift.training.holdout import fit_and_evaluate
from nightshift.training.model_fit import fit_recipe
from nightshift.training.recipe import members
from nightshift.training.recipe.members import FitRows, group_sizes, in_group_order
from nightshift.training.single_feature_leakage import best_separation
from nightshift.training.splits import split_window
from nightshift.training.statistics.block_bootstrap import Days, NoStatisticError, statistic
from nightshift.training.trees import boosting

START = dt.date(2020, 1, 1)
SPEC = ranking_spec()


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """Return a ranking, as it is read from its files."""
    files = fit_files()
    return TrainedModel.from_files(files["model.lgb"], files["model.json"])


@pytest.fixture(scope="module")
def later() -> pa.Table:
    """Return rows that the model never saw."""
    return ranking_rows(2500, START + dt.timedelta(days=30), seed=9)


def fit_files() -> dict[str, bytes]:
    train = ranking_rows(3000, START)
    validation = ranking_rows(1500, START + dt.timedelta(days=11), seed=2)
    return fit_recipe(SPEC, train, validation).model.files


def test_a_ranking_orders_better_than_its_best_column_and_is_fitted_to_the_same_bytes(model, later):
    label = labels_of(SPEC, later)
    predicted = with_groups(SPEC, later, model.predictions(later))
    values = measure(SPEC.task, label, predicted)
    by_column = replace(predicted, score=np.abs(later.column("x").to_numpy()))
    assert values["ndcg"] > measure(SPEC.task, label, by_column)["ndcg"] + 0.02
    assert values["precision_at_k"] > 0.9
    assert fit_files() == model.files


def test_every_engine_gives_the_bits_of_lightgbm(model, later):
    assert "objective=lambdarank" in model.text
    matrix = model.encode(later)
    expected = lgb.Booster(model_str=model.text).predict(matrix, raw_score=True)
    for raw in (LightGbmEngine(model).raw(matrix), QuickScorer(model.trees).raw(matrix)):
        assert raw.tobytes() == expected.tobytes()
    proved = replace(model, engine_proof=prove_engines(model, later))
    assert Scorer(proved, 0).engine.name == "quickscorer"
    scored = score_rows(proved, later, 2)
    assert scored.column("score").to_numpy().tobytes() == expected.tobytes()
    assert scored.column("probability").null_count == scored.num_rows


def test_reasons_and_base_are_the_score(model, later):
    matrix = model.encode(later)
    added = Contributions(model).of(matrix)
    base = explanation_of(model.files["model.json"])["base_raw"]
    assert added.sum(axis=1) + base == pytest.approx(LightGbmEngine(model).raw(matrix), abs=1e-9)
    try_model(model, later, 2)


def test_trees_are_grown_within_groups(monkeypatch):
    grown = []
    grow = members.grow_trees
    monkeypatch.setattr(members, "grow_trees", lambda *args: grown.append(args[-1]) or grow(*args))
    train = ranking_rows(600, START)
    fit_recipe(SPEC, train, ranking_rows(300, START + dt.timedelta(days=11), seed=2))
    # Ten days of four shops each; then four more days, as one is left out as a gap; then all.
    assert [facts.groups.sum() for facts in grown] == [600, 720, 900]
    assert [facts.groups.size for facts in grown] == [40, 56, 80]
    assert [facts.watched_groups.size for facts in grown[:2]] == [20, 20]
    assert grown[2].watched_groups is None


def test_rows_come_together_by_group_in_their_order():
    rows = pa.table(
        {
            "partition_date": [START] * 3 + [START + dt.timedelta(days=1)] * 2,
            "shop": ["b", "a", "b", "b", "a"],
            "relevance": [1.0, 2, 3, 4, 5],
        }
    )
    ordered = in_group_order(SPEC, rows)
    assert ordered.column("relevance").to_pylist() == [2, 1, 3, 5, 4]
    assert group_sizes(SPEC, ordered).tolist() == [1, 2, 1, 1]
    assert FitRows(SPEC, rows).label.tolist() == [2, 1, 3, 5, 4]


def test_groups_that_lightgbm_refuses_are_compared_in_parts_of_even_size():
    rows = pa.table({"partition_date": [START] * 25_001 + [START + dt.timedelta(days=1)] * 2})
    sizes = group_sizes(ranking_spec(group=None), rows)
    assert sizes.tolist() == [8333, 8334, 8334, 2]
    data = np.arange(25_003.0).reshape(-1, 1)
    label = (np.arange(25_003) % 7 == 0) * 1.0
    plan = boosting.FitPlan("lambdarank", {}, 1, 2, 2, [], ["x"])
    fit = boosting.grow_trees((data, label), None, plan, facts=boosting.RowFacts(groups=sizes))
    assert "Tree=1" in fit.text


def test_a_fit_of_a_ranking_resumes_to_the_same_trees(tmp_path):
    rows = in_group_order(SPEC, ranking_rows(800, START))
    matrix = np.column_stack([rows.column(name).to_numpy() for name in ("x", "y")])
    data = (matrix, labels_of(SPEC, rows))
    sizes = group_sizes(SPEC, rows)
    facts = boosting.RowFacts(groups=sizes, watched_groups=sizes)
    plan = boosting.FitPlan("lambdarank", {}, 1, 7, 7, [], ["x", "y"], segment_rounds=3, top_k=3)
    straight = boosting.grow_trees(data, data, plan, facts=facts)
    checkpoint = tmp_path / "fit.json"
    boosting.grow_trees(data, data, replace(plan, n_rounds=3), checkpoint, facts=facts)
    resumed = boosting.grow_trees(data, data, plan, checkpoint, facts=facts)
    assert resumed == straight
    # The loss is 1 minus LightGBM's NDCG of the first top_k rows: it falls as trees grow.
    assert 0 < straight.losses[-1] < straight.losses[0] < 1
    booster = lgb.Booster(model_str=straight.text)
    score = booster.predict(matrix, raw_score=True)
    own = measure_groups(data[1], with_groups(SPEC, rows, Predictions(score)))
    assert own.first_row.size == own.n_groups == 40
    # LightGBM breaks ties by the order of rows.
    assert own.means()["ndcg"] == pytest.approx(1 - straight.losses[-1], abs=0.01)


def test_evidence_measures_a_slice_within_its_groups(later):
    spec = ranking_spec(promotion={"metric": "ndcg", "slices": [{"column": "c"}]})
    label = labels_of(spec, later)
    score = later.column("x").to_numpy()
    measured = evidence(spec, "holdout", later, label, {"challenger": Predictions(score)})
    values = {(part.slice_level, part.metric): part.value for part in measured}
    mask = np.array(later.column("c").to_pylist()) == "b"
    own = with_groups(spec, later, Predictions(score)).at(mask)
    assert values["b", "ndcg"] == measure_groups(label[mask], own).means()["ndcg"]
    assert overall(measured, "challenger").keys() == {"ndcg", "precision_at_k", "recall_at_k"}


@pytest.mark.parametrize("metric", ["ndcg", "precision_at_k", "recall_at_k"])
def test_a_metric_by_day_is_that_of_the_drawn_rows(later, metric):
    label = labels_of(SPEC, later)
    predicted = with_groups(SPEC, later, Predictions(later.column("x").to_numpy()))
    dates = later.column("partition_date").to_numpy().astype("datetime64[D]")
    days = Days.of(dates)
    drawn = statistic(metric, label, predicted, days)
    assert drawn(np.ones((1, days.n)))[0] == pytest.approx(
        measure(SPEC.task, label, predicted)[metric]
    )
    # Days 0 and 1 twice, as if their groups were there twice, and no other day.
    mask = days.codes < 2
    weights = np.array([[2.0, 2.0] + [0.0] * (days.n - 2)])
    assert drawn(weights)[0] == pytest.approx(
        measure(SPEC.task, label[mask], predicted.at(mask))[metric]
    )


def test_a_metric_of_another_task_has_no_statistic_of_groups(later):
    predicted = with_groups(SPEC, later, Predictions(later.column("x").to_numpy()))
    days = Days(np.zeros(later.num_rows, dtype=np.int64), 1)
    with pytest.raises(NoStatisticError):
        statistic("rmse", labels_of(SPEC, later), predicted, days)


def test_a_column_that_holds_the_relevance_separates_fully(model, later):
    leaked = later.set_column(
        later.column_names.index("x"), "x", pa.array(-later.column("relevance").to_numpy())
    )
    assert best_separation(model.signature, leaked, leaked, SPEC) == ("x", 1.0)
    name, separation = best_separation(model.signature, later, later, SPEC)
    assert separation < 0.9, name


def test_a_training_says_which_groups_its_rows_have_and_measures_those_that_can_be_judged():
    declared = {
        "window_days": 30,
        "minimum_days": 20,
        "validation_days": 5,
        "holdout_days": 5,
        "backtest_folds": 0,
        "num_boost_round": 20,
    }
    spec = ranking_spec(training=SPEC.training.model_dump() | declared)
    parts = [ranking_rows(900, START + dt.timedelta(days=10 * i), seed=i) for i in range(3)]
    rows = pa.concat_tables(parts)
    # In one shop of the last day nothing is relevant.
    last = START + dt.timedelta(days=29)
    is_lost = pc.and_(
        pc.equal(rows.column("partition_date"), last), pc.equal(rows.column("shop"), "north")
    )
    relevance = pc.if_else(is_lost, 0.0, rows.column("relevance"))
    rows = rows.set_column(rows.column_names.index("relevance"), "relevance", relevance)
    window = PartitionRange(Partition(START), Partition(last))
    training = fit_and_evaluate(spec, rows, split_window(window, spec.training), "set")
    counts = {"n_groups": 120, "n_judged": 119, "n_single": 0, "n_irrelevant": 1}
    assert training.served.training["groups"] == counts
    holdout = training.result
    judged = measure_groups(holdout.label, holdout.predictions["challenger"])
    assert (judged.n_groups, judged.first_row.size) == (20, 19)
    assert holdout.trained.calibration == {"method": "none"}
    # One tree of each round, and no line beside them.
    assert training.served.linear is None
    assert training.served.metrics["challenger"]["ndcg"] == judged.means()["ndcg"]
