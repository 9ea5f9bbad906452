"""Trees on bags and the line have the rows of the split: a fit on the days that judge is seen."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from tests.unit.backtest.test_nightly_models import SPEC, world
from tests.unit.training.test_recipe import SPLIT, WINDOW, fit, spec_with
from tests.unit.training.test_target_encoding import spec_of, with_depots

from nightshift.registry.leaks import fitted_trees
from nightshift.registry.leaks.fitted_line import line_difference
from nightshift.registry.sanity_checks import fitted_rows
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.checks import Criterion
    from nightshift.registry.promotion_context import PromotionContext
    from nightshift.training.holdout import TrainingResult

BAGS = {**SPEC.training.params, "bagging_fraction": 0.8, "bagging_freq": 1}


@pytest.fixture(scope="module")
def training() -> TrainingResult:
    return fit(spec_with(params=BAGS), world())


def check(
    trained: TrainedModel | None,
    served: TrainedModel,
    params: dict[str, object],
    part: str = "fitted_rows",
    spec: ModelSpec | None = None,
    rows: pa.Table | None = None,
) -> Criterion:
    context = SimpleNamespace(
        spec=spec or spec_with(params=params),
        split=SPLIT,
        all_rows=rows_of(world() if rows is None else rows, WINDOW),
        trained=trained,
        served=served,
        challenger=SimpleNamespace(evaluated="files of the evaluated model"),
    )
    criteria = {one.name: one for one in fitted_rows(cast("PromotionContext", context))}
    return criteria[part]


def test_honest_bags_pass(training: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = check(training.evaluated, training.served, BAGS)
    assert honest.verdict.value == "passed", honest.reason
    # Slices of the rows give the same counts.
    monkeypatch.setattr(fitted_trees, "LEAF_ROWS", 7)
    assert check(training.evaluated, training.served, BAGS).reason == honest.reason


def test_bags_of_more_days_than_declared_are_refused(training: TrainingResult) -> None:
    seen = check(training.served, training.served, BAGS)
    assert seen.verdict.value == "failed", seen.reason


def test_bags_of_another_fraction_than_declared_are_refused(training: TrainingResult) -> None:
    for fraction in (0.5, 1.0):
        other = check(training.evaluated, training.served, BAGS | {"bagging_fraction": fraction})
        assert other.verdict.value == "failed", other.reason


def test_a_model_that_saw_its_holdout_is_refused_whatever_chooses_its_rows(
    training: TrainingResult,
) -> None:
    chosen = BAGS | {"pos_bagging_fraction": 0.5}
    assert check(training.evaluated, training.served, chosen).verdict.value == "passed"
    assert check(training.served, training.served, chosen).verdict.value == "failed"


def test_a_line_that_saw_its_holdout_is_refused_next_to_honest_trees(
    training: TrainingResult,
) -> None:
    evaluated, served = training.evaluated, training.served
    assert evaluated is not None
    honest = check(evaluated, served, BAGS, "fitted_rows[line]")
    assert honest.verdict.value == "passed", honest.reason

    seen = replace(evaluated, linear=served.linear)
    assert check(seen, served, BAGS).verdict.value == "passed"
    refused = check(seen, served, BAGS, "fitted_rows[line]")
    assert refused.verdict.value == "failed", refused.reason
    # Nor may the line that serves be one of fewer days.
    stale = replace(served, linear=evaluated.linear)
    assert check(evaluated, stale, BAGS, "fitted_rows[line]").verdict.value == "failed"
    # Names and levels of other rows are no line of these.
    other = replace(served.signature, numeric=(*served.signature.numeric[1:], "other"))
    assert line_difference(
        spec_with(), replace(served, signature=other), rows_of(world(), WINDOW)
    ) == float("inf")


def test_a_line_alone_is_checked_and_a_model_without_one_is_not(training: TrainingResult) -> None:
    alone = fit(spec_with(params=BAGS, recipe={"linear": {"shares": [1.0]}}), world())
    assert alone.evaluated is not None
    cheat = replace(alone.evaluated, linear=alone.served.linear)
    assert check(cheat, alone.served, BAGS, "fitted_rows[line]").verdict.value == "failed"

    assert training.evaluated is not None
    trees = [replace(model, linear=None) for model in (training.evaluated, training.served)]
    none = check(trees[0], trees[1], BAGS, "fitted_rows[line]")
    assert none.verdict.value == "not_applicable"


@pytest.mark.parametrize("params", [SPEC.training.params, BAGS])
def test_trees_of_averaged_nights_have_the_rows_of_a_window(params: dict[str, object]) -> None:
    spec = spec_with(params=params, recipe={"averaged_nights": 3})
    nights = fit(spec, world())
    honest = check(nights.evaluated, nights.served, params, spec=spec)
    assert honest.verdict.value == "passed", honest.reason
    assert "3 windows" in honest.reason
    # Days that judge are in no window of the evaluated model.
    seen = check(nights.served, nights.served, params, spec=spec)
    assert seen.verdict.value == "failed", seen.reason


def test_a_tree_of_no_window_is_refused_next_to_trees_of_the_declared_ones() -> None:
    spec = spec_with(recipe={"averaged_nights": 3})
    nights, alone = fit(spec, world()), fit(spec_with(), world())
    assert nights.evaluated is not None
    assert alone.evaluated is not None
    # All days before the hold-out: a window of its own, longer than the three.
    longer = check(alone.evaluated, nights.served, {}, spec=spec)
    assert longer.verdict.value == "failed", longer.reason
    # Nor has a model of one night trees of three.
    other = check(nights.evaluated, alone.served, {}, spec=spec_with())
    assert other.verdict.value == "failed", other.reason


def test_encodings_of_other_rows_are_refused_next_to_honest_trees() -> None:
    rows = with_depots(has_effect=True)
    document = spec_of(["depot"], ["depot"]).model_dump(mode="json")
    document["training"]["recipe"]["linear"]["shares"] = [0.0]
    spec = type(SPEC).model_validate_json(json.dumps(document))
    encoded = fit(spec, rows)
    evaluated, served = encoded.evaluated, encoded.served
    assert evaluated is not None
    name = "fitted_rows[encoding]"
    for part in ("fitted_rows", name):
        honest = check(evaluated, served, {}, part, spec, rows)
        assert honest.verdict.value == "passed", honest.reason

    # What the days that judge say of a depot, in a model whose trees never saw them.
    seen = replace(evaluated, signature=served.signature)
    assert check(seen, served, {}, "fitted_rows", spec, rows).verdict.value == "passed"
    refused = check(seen, served, {}, name, spec, rows)
    assert refused.verdict.value == "failed", refused.reason
    # Trees that saw the days that judge are found with encodings too.
    assert check(served, served, {}, "fitted_rows", spec, rows).verdict.value == "failed"
