"""Random LightGBM models of many shapes, and rows and specs of three classes and of a ranking."""

from __future__ import annotations

import datetime as dt

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightshift.contracts.model_spec import ModelSpec
from nightshift.models.model_format.reader import read_model
from nightshift.models.model_format.trees import Tree

Matrix = npt.NDArray[np.float64]
N_NUMERIC, N_LEVELS = 5, 40


def make_matrix(n: int, seed: int) -> Matrix:
    """Return numbers with NaN, zeros and ties, then two columns of level codes; shape (n, 7)."""
    dice = np.random.default_rng(seed)
    matrix = np.empty((n, N_NUMERIC + 2))
    matrix[:, :N_NUMERIC] = dice.normal(size=(n, N_NUMERIC)).round(1)
    matrix[:, 1] = np.where(dice.random(n) < 0.5, 0.0, matrix[:, 1])
    matrix[:, N_NUMERIC] = dice.integers(0, 4, n)
    matrix[:, N_NUMERIC + 1] = dice.integers(0, N_LEVELS, n)
    matrix[dice.random(matrix.shape) < 0.1] = np.nan
    return matrix


def make_booster(seed: int, n: int = 1500, **params: object) -> lgb.Booster:
    """Fit trees that ask every column, also the same one many times on a path."""
    matrix = make_matrix(n, seed)
    known = np.nan_to_num(matrix)
    codes = known[:, N_NUMERIC + 1]
    label = (
        known[:, 0] * known[:, 1]
        + np.sin(3 * known[:, 2])
        + (codes % 3)
        + np.isnan(matrix[:, 3])
        + 0.3 * (known[:, N_NUMERIC] == 2)
    )
    if params.get("objective", "regression") == "binary":
        label = (label > np.median(label)).astype(float)
    rounds = params.pop("rounds", 12)
    assert isinstance(rounds, int)
    settings = {
        "objective": "regression",
        "verbosity": -1,
        "num_threads": 1,
        "min_data_in_leaf": 5,
        "seed": seed,
        **params,
    }
    data = lgb.Dataset(
        matrix, label, categorical_feature=[N_NUMERIC, N_NUMERIC + 1], params=settings
    )
    return lgb.train(settings, data, rounds)


def trees_of(booster: lgb.Booster) -> list[Tree]:
    return read_model(booster.model_to_string())


SHAPES: dict[str, dict[str, object]] = {
    "usual": {"num_leaves": 31},
    "binary": {"objective": "binary", "num_leaves": 15},
    "wide": {"num_leaves": 200, "min_data_in_leaf": 2},
    "stumps": {"num_leaves": 2, "rounds": 30},
    "levels one by one": {"num_leaves": 31, "max_cat_to_onehot": 64},
    "levels in sets": {
        "num_leaves": 31,
        "max_cat_to_onehot": 1,
        "cat_smooth": 0,
        "cat_l2": 0,
        "min_data_per_group": 1,
    },
    "zero is missing": {"num_leaves": 31, "zero_as_missing": True},
    "nothing is missing": {"num_leaves": 31, "use_missing": False},
    "extra random": {"num_leaves": 31, "extra_trees": True},
    "one bin a value": {"num_leaves": 60, "max_bin": 4},
    "constant": {"num_leaves": 31, "min_data_in_leaf": 10_000, "rounds": 3},
    "some rows and columns": {
        "num_leaves": 31,
        "bagging_fraction": 0.5,
        "bagging_freq": 1,
        "feature_fraction": 0.5,
    },
    "dart": {"boosting": "dart", "num_leaves": 15},
}


def class_spec(**changes: object) -> ModelSpec:
    """Return the spec of a model of three classes."""
    document = {
        "name": "basket",
        "description": "d",
        "task": "multiclass",
        "classes": ["Small", "big one", 3],
        "owner": "o",
        "runbook": "r",
        "deadline": "04:00",
        "entity": {"name": "basket", "key": "basket_id"},
        "event_timestamp": "happens_at",
        "feature_view": "basket",
        "features": {"numeric": ["x", "y"], "categorical": [{"name": "c"}]},
        "label": {"relation": "fct_baskets", "column": "kind"},
        "training": {
            "schedule": "nightly",
            "num_boost_round": 60,
            "params": {"num_leaves": 7, "min_data_in_leaf": 20},
        },
        "promotion": {"metric": "log_loss"},
        "scoring": {"fallback": {"shares": [0.5, 0.3, 0.2]}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.3,
            "windows": {"n": 2, "m": 3},
        },
    }
    return ModelSpec.model_validate(document | changes)


def class_rows(n: int, first: dt.date, absent: int | None = None, seed: int = 1) -> pa.Table:
    """Return labelled rows of ten days, in order; without a class."""
    dice = np.random.default_rng(seed)
    x, y = dice.normal(size=(2, n))
    c = dice.choice(["a", "b", "z"], n)
    scores = np.column_stack([x, y * 2 * (c == "a"), -x + (c == "b") * 2])
    kind = (scores + dice.gumbel(size=scores.shape)).argmax(axis=1)
    if absent is not None:
        kind = np.where(kind == absent, 0, kind)
    days = [first + dt.timedelta(days=int(i * 10 / n)) for i in range(n)]
    columns = {"partition_date": days, "x": x, "y": y, "c": c, "kind": kind.astype(float)}
    return pa.table(columns)


def ranking_spec(**changes: object) -> ModelSpec:
    """Return the spec of a model that orders the items of a shop."""
    document = {
        "name": "item",
        "description": "d",
        "task": "ranking",
        "group": "shop",
        "top_k": 3,
        "owner": "o",
        "runbook": "r",
        "deadline": "04:00",
        "entity": {"name": "item", "key": "item_id"},
        "event_timestamp": "happens_at",
        "feature_view": "item",
        "features": {"numeric": ["x", "y"], "categorical": [{"name": "c"}]},
        "label": {"relation": "fct_items", "column": "relevance"},
        "training": {
            "schedule": "nightly",
            "num_boost_round": 60,
            "params": {"num_leaves": 7, "min_data_in_leaf": 20},
        },
        "promotion": {"metric": "ndcg"},
        "scoring": {"fallback": {"feature": "y", "default": 0}},
        "monitoring": {"metric": "ndcg", "maximum_metric_loss": 0.3, "windows": {"n": 2, "m": 3}},
    }
    return ModelSpec.model_validate(document | changes)


def ranking_rows(n: int, first: dt.date, seed: int = 1) -> pa.Table:
    """Return labelled rows of ten days and four shops, in order; relevance is 0, 1 or 2."""
    dice = np.random.default_rng(seed)
    x, y = dice.normal(size=(2, n))
    c = dice.choice(["a", "b", "z"], n)
    shop = dice.choice(["north", "south", "east", "west"], n)
    worth = np.abs(x) + (c == "b") + 0.5 * dice.normal(size=n)
    relevance = np.digitize(worth, [1.0, 2.0]).astype(float)
    days = [first + dt.timedelta(days=int(i * 10 / n)) for i in range(n)]
    return pa.table(
        {"partition_date": days, "x": x, "y": y, "c": c, "shop": shop, "relevance": relevance}
    )
