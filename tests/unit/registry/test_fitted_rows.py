"""Trees that are grown on bags count their rows too: a fit on the days that judge is seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from tests.unit.backtest.test_nightly_models import SPEC, world
from tests.unit.training.test_recipe import SPLIT, WINDOW, fit, spec_with

from nightshift.registry import sanity_checks
from nightshift.registry.sanity_checks import fitted_rows
from nightshift.training.splits import rows_of

if TYPE_CHECKING:
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.checks import Criterion
    from nightshift.registry.promotion_context import PromotionContext
    from nightshift.training.holdout import TrainingResult

BAGS = {**SPEC.training.params, "bagging_fraction": 0.8, "bagging_freq": 1}


@pytest.fixture(scope="module")
def training() -> TrainingResult:
    return fit(spec_with(params=BAGS), world())


def check(
    trained: TrainedModel | None, served: TrainedModel, params: dict[str, object]
) -> Criterion:
    context = SimpleNamespace(
        spec=spec_with(params=params),
        split=SPLIT,
        all_rows=rows_of(world(), WINDOW),
        trained=trained,
        served=served,
        challenger=SimpleNamespace(evaluated="files of the evaluated model"),
    )
    return fitted_rows(cast("PromotionContext", context))


def test_honest_bags_pass(training: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = check(training.evaluated, training.served, BAGS)
    assert honest.verdict.value == "passed", honest.reason
    # Slices of the rows give the same counts.
    monkeypatch.setattr(sanity_checks, "LEAF_ROWS", 7)
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
