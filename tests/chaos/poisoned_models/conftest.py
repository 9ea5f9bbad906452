"""Two real models, numeric and categorical features both: a binary one and a regression."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift.contracts.model_spec import ModelSpec
from nightshift.models.trained_model import TrainedModel
from nightshift.training.model_fit import fit_model


def spec_of(task: str) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": f"parcel_{task}",
            "description": "How late will it be?",
            "task": task,
            "owner": "post",
            "runbook": "r",
            "deadline": "04:00",
            "entity": {"name": "parcel", "key": "parcel_id"},
            "event_timestamp": "event_timestamp",
            "feature_view": "parcel",
            "features": {
                "numeric": ["weight_kg", "late_rate_7d", "hour"],
                "categorical": [{"name": "depot", "minimum_rows": 1}],
            },
            "label": {"relation": "labels", "column": "label"},
            "training": {
                "schedule": "nightly",
                "num_boost_round": 12,
                "params": {"num_leaves": 12, "min_data_in_leaf": 10},
            },
            "promotion": {"metric": "roc_auc" if task == "binary" else "mae"},
            "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.2}},
            "monitoring": {
                "metric": "log_loss" if task == "binary" else "mae",
                "maximum_metric_loss": 0.1,
                "windows": {"n": 1, "m": 1},
            },
        }
    )


def make_rows(n: int, seed: int) -> pa.Table:
    """Return made-up parcels with missing values and forty depots."""
    dice = np.random.default_rng(seed)
    weight, hour, depot = (
        dice.uniform(0, 15, n),
        dice.integers(0, 24, n).astype(float),
        dice.integers(0, 40, n),
    )
    rate = np.where(dice.random(n) < 0.1, np.nan, dice.uniform(0, 0.7, n))
    minutes = (
        40 * np.nan_to_num(rate)
        + weight
        + 20 * (depot % 3 == 0)
        + np.where(hour == 0, 15, 0)
        + dice.normal(0, 5, n)
    )
    depots = [None if code == 7 else f"depot {code:02d}" for code in depot]
    return pa.table(
        {
            "weight_kg": weight,
            "late_rate_7d": rate,
            "hour": hour,
            "depot": depots,
            "minutes": minutes,
        }
    )


def make_models() -> dict[str, TrainedModel]:
    """Return a stored model of each task."""
    rows = make_rows(1500, 1)
    minutes = rows["minutes"].to_numpy()
    models = {}
    for task, label in (("binary", (minutes > 30).astype(float)), ("regression", minutes)):
        labelled = rows.append_column("label", pa.array(label))
        models[task] = stored(
            fit_model(spec_of(task), labelled.slice(0, 1000), labelled.slice(1000))
        )
    return models


def stored(model: TrainedModel) -> TrainedModel:
    """Return the model as it comes back from its files."""
    return TrainedModel.from_files(model.files["model.lgb"], model.files["model.json"])


@pytest.fixture(scope="module")
def models() -> dict[str, TrainedModel]:
    return make_models()
