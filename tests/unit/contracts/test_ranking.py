"""A spec of a ranking: what it declares, what is off, and what is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tests.unit.models.models import class_spec, ranking_spec

from nightshift.contracts.model_spec import ModelSpec
from nightshift.scoring.level.night_level import switched_off
from nightshift.warehouse.relations.view_contracts import prediction_views


def test_what_a_ranking_does_not_have_is_off_unless_it_is_declared():
    spec = ranking_spec()
    assert (spec.group, spec.group_columns, spec.top_k) == ("shop", ("shop",), 3)
    recipe = spec.training.recipe
    assert (recipe.linear.shares, recipe.level.days, recipe.level.mature_nights) == ((0.0,), 0, 0)
    assert (spec.training.calibration, spec.scoring.interval) == ("none", None)
    assert spec.scoring.carry_over.maximum_age_days == 0
    assert switched_off(spec)
    # A night is one group unless another one is declared, and ten rows of it are chosen.
    document = spec.model_dump(exclude={"group", "top_k"})
    spec = ModelSpec.model_validate(document)
    assert (spec.group, spec.group_columns, spec.top_k) == (None, (), 10)
    # What has a meaning for an order stays: monotone features, weights, several seeds.
    recipe = {"increasing": ["x"], "seeds": 2, "half_life_days": 30}
    training = {"schedule": "nightly", "weight_column": "w", "recipe": recipe}
    assert ranking_spec(training=training).training.recipe.directions == {"x": 1}


TRAINING = {"schedule": "nightly"}
FALLBACK = {"feature": "y", "default": 0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top_k": 0}, "greater than 0"),
        ({"group": "relevance"}, "a group that is neither label nor key: relevance"),
        ({"group": "item_id"}, "a group that is neither label nor key: item_id"),
        ({"group": "two words"}, "should match pattern"),
        ({"classes": ["a", "b", "c"]}, "they are of task multiclass"),
        ({"scoring": {"fallback": {"shares": [0.5, 0.5]}}}, "they are of task multiclass"),
        ({"scoring": {"fallback": FALLBACK, "interval": {}}}, "scoring.interval: null"),
        (
            {"scoring": {"fallback": FALLBACK, "carry_over": {"maximum_age_days": 3}}},
            "maximum_age_days: 0",
        ),
        ({"training": TRAINING | {"calibration": "platt"}}, "a score is no probability"),
        ({"training": TRAINING | {"calibration": "vector"}}, "a score is no probability"),
        ({"training": TRAINING | {"objective": "regression"}}, "it is lambdarank"),
        ({"training": TRAINING | {"cold_start_days": 28}}, "no training.cold_start_days"),
        ({"training": TRAINING | {"engine": "dask"}}, "Dask keeps no groups together"),
        ({"training": TRAINING | {"params": {"label_gain": "0,1"}}}, "label_gain"),
        ({"training": TRAINING | {"params": {"eval_at": 3}}}, "eval_at"),
        ({"training": TRAINING | {"recipe": {"linear": {"shares": [0.5]}}}}, "not to an order"),
        ({"training": TRAINING | {"recipe": {"level": {"days": 5}}}}, "an order has no level"),
        (
            {"training": TRAINING | {"recipe": {"costs": {"false_alarm": 1, "miss": 2}}}},
            "top_k says which rows are chosen",
        ),
        ({"positive_threshold": 0.4}, "top_k says which rows are chosen"),
        ({"promotion": {"metric": "mae"}}, "a metric of task ranking: ndcg"),
        ({"promotion": {"metric": "ndcg", "canary": {"share": 0.1}}}, "two versions"),
        (
            {"promotion": {"metric": "ndcg", "fairness": [{"column": "c"}]}},
            "no promotion.fairness",
        ),
        ({"analytics": {"attributes": ["is_top_k"]}}, "another name for is_top_k"),
        ({"task": "regression"}, "no group and top_k (they are of task ranking)"),
    ],
)
def test_what_means_nothing_for_a_ranking_is_refused_in_words(changes: dict[str, Any], words: str):
    if changes.get("task") == "regression":
        changes |= {"promotion": {"metric": "mae"}, "monitoring": monitoring("mae")}
    with pytest.raises(ValidationError) as refusal:
        ranking_spec(**changes)
    assert words in str(refusal.value)


def monitoring(metric: str) -> dict[str, Any]:
    return {"metric": metric, "maximum_metric_loss": 1.0, "windows": {"n": 2, "m": 3}}


def test_specs_of_other_tasks_keep_their_digest_and_a_ranking_s_depends_on_its_keys():
    digest = ranking_spec().digest
    assert ranking_spec(group="c").digest != digest
    assert ranking_spec(top_k=5).digest != digest
    # Written before there were rankings.
    assert class_spec().digest == CLASS_DIGEST


CLASS_DIGEST = "af4985d45b30cffdcc3ebf698ca37abdd94368feb464a15d80abfd6947bf1197"


def test_views_of_a_ranking_show_group_and_rank_and_leave_out_what_cannot_be_compared():
    views = prediction_views(ranking_spec())
    columns = views["current"].columns
    assert list(columns)[:7] == [
        "item_id",
        "predicted_day",
        "shop",
        "rank",
        "is_top_k",
        "score",
        "decile",
    ]
    assert columns["effect_1"].unit == "raw score"
    assert not {"probability", "is_positive", "value"} & columns.keys()
    assert "score" in views["reasons"].columns
    assert "absolute_error" not in views["outcomes"].columns
    assert "changes" not in views
    assert not [suffix for suffix in views if suffix.endswith("_v1")]
    # A group that the spec shows already is shown once, where the spec has it.
    analytics = {"attributes": ["c", "shop"]}
    columns = prediction_views(ranking_spec(analytics=analytics))["current"].columns
    assert list(columns)[2:5] == ["c", "shop", "rank"]
    columns = prediction_views(ranking_spec(group=None))["current"].columns
    assert list(columns)[2:4] == ["rank", "is_top_k"]


def test_examples_of_a_ranking_s_views_read_its_own_columns():
    views = prediction_views(ranking_spec())
    assert views["current"].example.endswith("order by rank limit 20")
    assert "select rank, count(*), avg(outcome) as outcome" in views["outcomes"].example
    by_class = prediction_views(class_spec())["current"].example
    assert by_class.endswith("order by decile desc, probability desc limit 20")
