"""A spec of classes: what it declares, what is off, and what is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.models.models import class_spec

from nightshift.contracts.model_spec import ModelSpec
from nightshift.scoring.level.night_level import switched_off
from nightshift.warehouse.relations.view_contracts import prediction_views


def test_what_classes_do_not_have_is_off_unless_it_is_declared():
    spec = class_spec()
    assert spec.classes == ("Small", "big one", "3")
    assert spec.class_columns == {
        "Small": "probability_small",
        "big one": "probability_big_one",
        "3": "probability_3",
    }
    recipe = spec.training.recipe
    assert (recipe.linear.shares, recipe.level.days, recipe.level.mature_nights) == ((0.0,), 0, 0)
    assert (spec.training.calibration, spec.scoring.interval) == ("auto", None)
    assert spec.scoring.carry_over.maximum_age_days == 0
    assert switched_off(spec)
    # What is declared beside them stays.
    training = {"schedule": "weekly", "recipe": {"seeds": 3, "level": {"prior_days": 5}}}
    recipe = class_spec(training=training).training.recipe
    assert (recipe.seeds, recipe.level.prior_days, recipe.level.days) == (3, 5, 0)


TRAINING = {"schedule": "nightly"}
FALLBACK = {"shares": [0.5, 0.3, 0.2]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["a", "b"]}, "3 to 100 classes, not 2; two classes are task binary"),
        ({"classes": ["a", "b", "a"]}, "classes differ"),
        ({"classes": ["a b", "a-b", "c"]}, "each gets a column, here probability_a_b"),
        ({"classes": ["a", "b", True]}, "write others in quotes"),
        ({"classes": ["a", "b", ""]}, "printable characters"),
        ({"classes": []}, "3 to 100 classes, not 0"),
        ({"scoring": {"fallback": {"shares": [0.5, 0.5]}}}, "one of each class"),
        ({"scoring": {"fallback": {"shares": [0.5, 0.3, 0.3]}}}, "add up to 1, not to 1.1"),
        ({"scoring": {"fallback": {"feature": "x", "default": 0}}}, "one of each class"),
        ({"scoring": {"fallback": {"feature": "x"}}}, "feature and default, or the shares"),
        ({"scoring": {"fallback": FALLBACK | {"feature": "x"}}}, "either shares, or feature"),
        ({"scoring": {"fallback": FALLBACK, "interval": {}}}, "scoring.interval: null"),
        (
            {"scoring": {"fallback": FALLBACK, "carry_over": {"maximum_age_days": 3}}},
            "maximum_age_days: 0",
        ),
        ({"training": TRAINING | {"calibration": "platt"}}, "auto, temperature, vector or none"),
        ({"training": TRAINING | {"cold_start_days": 28}}, "no training.cold_start_days"),
        ({"training": TRAINING | {"engine": "dask"}}, "training.engine: local"),
        ({"training": TRAINING | {"recipe": {"increasing": ["x"]}}}, "increasing or decreasing"),
        ({"training": TRAINING | {"recipe": {"linear": {"shares": [0.5]}}}}, "no line"),
        ({"training": TRAINING | {"recipe": {"level": {"days": 5}}}}, "no common level"),
        ({"positive_threshold": 0.4}, "likeliest class is predicted"),
        ({"promotion": {"metric": "roc_auc"}}, "a metric of task multiclass: log_loss"),
        ({"promotion": {"metric": "log_loss", "canary": {"share": 0.1}}}, "canary.share: 0"),
        ({"analytics": {"attributes": ["probability_3"]}}, "another name for probability_3"),
        ({"task": "regression"}, "are of task multiclass"),
    ],
)
def test_what_means_nothing_for_classes_is_refused_in_words(changes: dict[str, Any], words: str):
    if changes.get("task") == "regression":
        changes |= {"promotion": {"metric": "mae"}, "monitoring": monitoring("mae")}
    with pytest.raises(ValidationError) as refusal:
        class_spec(**changes)
    assert words in str(refusal.value)


def monitoring(metric: str) -> dict[str, Any]:
    return {"metric": metric, "maximum_metric_loss": 1.0, "windows": {"n": 2, "m": 3}}


def test_calibrations_of_classes_are_refused_for_other_tasks():
    document = class_spec().model_dump(exclude={"classes"})
    document |= {
        "task": "regression",
        "promotion": {"metric": "mae"},
        "monitoring": monitoring("mae"),
        "scoring": {"fallback": {"feature": "x", "default": 0}},
        "training": TRAINING | {"calibration": "vector"},
    }
    with pytest.raises(ValidationError, match=r"task regression has training\.calibration: platt"):
        ModelSpec.model_validate(document)


def test_views_of_classes_name_each_and_leave_out_what_cannot_be_compared():
    views = prediction_views(class_spec(classes=["a {b}", "50 %", "c'd"]))
    columns = views["current"].columns
    assert list(columns)[2:7] == [
        "predicted_class",
        "probability",
        "probability_a_b",
        "probability_50",
        "probability_c_d",
    ]
    assert "kind is 'a {b}'" in columns["probability_a_b"].description
    assert "changes" not in views
    assert not [suffix for suffix in views if suffix.endswith("_v1")]
