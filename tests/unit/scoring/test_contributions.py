"""Contributions: what a row met on its way through the trees."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift.contracts.model_spec import ModelSpec
from nightshift.scoring import engine
from nightshift.scoring.contributions import TreeContributions, _leaf_table
from nightshift.scoring.engine import score_rows, try_model
from nightshift.training.pipeline import fit_model
from nightshift.training.signature import SignatureError
from nightshift.training.trained_model import TrainedModel

SPEC = ModelSpec.model_validate(
    {
        "name": "parcel_late",
        "description": "Will it be late?",
        "task": "binary",
        "owner": "post",
        "runbook": "r",
        "deadline": "04:00",
        "entity": {"name": "parcel", "key": "parcel_id"},
        "event_timestamp": "event_timestamp",
        "feature_view": "parcel",
        "features": {"numeric": ["weight_kg", "late_rate_7d"], "categorical": [{"name": "depot", "minimum_rows": 1}]},
        "label": {"relation": "labels", "column": "is_late"},
        "training": {"schedule": "nightly", "num_boost_round": 20, "params": {"num_leaves": 6, "min_data_in_leaf": 20}},
        "promotion": {"metric": "roc_auc"},
        "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.2}},
        "monitoring": {"metric": "log_loss", "maximum_metric_loss": 0.1, "windows": {"n": 1, "m": 1}},
    }
)


def _rows(n: int, seed: int = 1) -> pa.Table:
    dice = np.random.default_rng(seed)
    weight, rate = dice.uniform(0, 15, n), np.where(dice.random(n) < 0.1, np.nan, dice.uniform(0, 0.7, n))
    depot = np.where(dice.random(n) < 0.3, "north", "south")
    late = dice.random(n) < 0.1 + 0.5 * np.nan_to_num(rate) + 0.02 * weight + 0.1 * (depot == "north")
    return pa.table({"weight_kg": weight, "late_rate_7d": rate, "depot": depot, "is_late": late.astype(float)})


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    rows = _rows(900)
    return fit_model(SPEC, rows.slice(0, 600), rows.slice(600))


def test_leaf_table_gives_each_split_what_it_changed():
    tree = {
        "split_feature": 1,
        "left_child": {"leaf_index": 0, "leaf_value": 1.0, "leaf_count": 30},
        "right_child": {
            "split_feature": 0,
            "left_child": {"leaf_index": 1, "leaf_value": 2.0, "leaf_count": 5},
            "right_child": {"leaf_index": 2, "leaf_value": 8.0, "leaf_count": 5},
        },
    }
    # The root expects (30 * 1 + 5 * 2 + 5 * 8) / 40 = 2, the right node (2 + 8) / 2 = 5.
    assert _leaf_table(tree, 3, 2).tolist() == [[0.0, -1.0], [-3.0, 3.0], [3.0, 3.0]]


def test_leaf_table_is_zero_when_a_tree_never_splits():
    assert _leaf_table({"leaf_value": 0.3}, 1, 2).tolist() == [[0.0, 0.0]]


def test_contributions_add_up_to_the_raw_score_less_a_constant(model):
    rows = _rows(3000, seed=2)
    base = model.raw(rows) - TreeContributions(model).of(rows).sum(axis=1)

    assert np.ptp(base) < 1e-12


def test_contributions_name_nearly_the_reasons_of_exact_shapley_values(model):
    rows = _rows(1000, seed=3)
    ours, exact = TreeContributions(model).of(rows), model.contributions(rows)

    assert np.corrcoef(ours.ravel(), exact.ravel())[0, 1] > 0.9


def test_scores_do_not_depend_on_the_order_of_columns_or_rows(model):
    rows = _rows(500, seed=4)
    order = np.random.default_rng(5).permutation(500)
    shuffled = rows.select(["depot", "is_late", "late_rate_7d", "weight_kg"]).take(pa.array(order))

    assert score_rows(model, shuffled, 2).equals(score_rows(model, rows, 2).take(pa.array(order)))


def test_scoring_nothing_gives_nothing(model):
    assert score_rows(model, _rows(10).slice(0, 0), 3).num_rows == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows.drop(["weight_kg"]),
        lambda rows: rows.set_column(0, "weight_kg", pa.repeat("heavy", rows.num_rows)),
        lambda rows: rows.set_column(0, "weight_kg", pa.repeat(float("inf"), rows.num_rows)),
        lambda rows: rows.set_column(2, "depot", pa.repeat(1.0, rows.num_rows)),
    ],
)
def test_scoring_refuses_when_rows_do_not_fit_the_signature(model, damage):
    with pytest.raises(SignatureError):
        score_rows(model, damage(_rows(10)), 2)


def test_an_unknown_level_counts_as_missing(model):
    rows = _rows(50)
    unknown = rows.set_column(2, "depot", pa.repeat("moon", 50))
    missing = rows.set_column(2, "depot", pa.nulls(50, pa.string()))

    assert score_rows(model, unknown, 0).equals(score_rows(model, missing, 0))


def test_a_whole_model_passes_its_trial_on_a_hundred_rows(model, monkeypatch):
    scored: list[int] = []
    monkeypatch.setattr(engine, "score_rows", lambda *args, **named: scored.append(score_rows(*args, **named).num_rows))
    try_model(model, _rows(100))

    assert scored == [100]
