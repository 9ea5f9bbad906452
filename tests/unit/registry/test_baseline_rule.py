"""What a gain over each baseline must be, as the spec's words say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from nightshift.contracts.promotion_spec import Promotion
from nightshift.registry.performance_checks import baselines
from nightshift.registry.promotion_context import PromotionContext
from nightshift.training.statistics.confidence_intervals import BoundedEstimate


def verdict(
    name: str,
    value: float,
    low: float,
    high: float,
    minimum: float = 0.0,
    *,
    champion: object = None,
    champion_model: object = None,
) -> str:
    """Return the verdict on a gain over one baseline, of a first champion by default."""
    declared = Promotion(metric="roc_auc", minimum_gain_over_baseline=minimum)
    gain = BoundedEstimate(value, low, high, (high - low) / 4, 7)
    context = SimpleNamespace(
        spec=SimpleNamespace(promotion=declared),
        gain=lambda _: gain,
        champion=champion,
        champion_model=champion_model,
    )
    criteria = baselines(cast("PromotionContext", context))
    by_name = {criterion.name: criterion.verdict.value for criterion in criteria}
    return by_name[f"baseline[{name}]"]


@pytest.mark.parametrize("name", ["linear", "tree"])
def test_one_that_is_proved_worse_than_a_simple_model_is_refused_by_default(name: str) -> None:
    assert verdict(name, -0.015, -0.0224, -0.0079) == "failed"
    assert verdict(name, -0.002, -0.010, 0.006) == "passed", "this may be chance"
    assert verdict(name, 0.01, 0.002, 0.018) == "passed"


@pytest.mark.parametrize("name", ["prior", "rule"])
def test_one_that_gains_nothing_on_what_needs_no_model_is_refused(name: str) -> None:
    assert verdict(name, -0.002, -0.010, 0.006) == "failed"
    assert verdict(name, 0.0, 0.0, 0.0) == "failed"
    assert verdict(name, 0.002, -0.006, 0.010) == "passed"


@pytest.mark.parametrize("name", ["prior", "rule"])
def test_one_with_a_champion_is_refused_only_when_it_is_proved_to_gain_nothing(name: str) -> None:
    compared = {"champion": "v1", "champion_model": "its model"}
    assert verdict(name, -0.002, -0.010, 0.006, **compared) == "passed", "this may be chance"
    assert verdict(name, -0.015, -0.0224, -0.0079, **compared) == "failed"


@pytest.mark.parametrize("name", ["prior", "rule"])
def test_one_whose_champion_cannot_be_compared_must_gain_like_a_first_one(name: str) -> None:
    assert verdict(name, -0.002, -0.010, 0.006, champion="outdated") == "failed"
    assert verdict(name, 0.002, -0.006, 0.010, champion="outdated") == "passed"


@pytest.mark.parametrize("name", ["prior", "rule", "linear", "tree"])
def test_a_minimum_holds_for_each_baseline(name: str) -> None:
    assert verdict(name, 0.01, 0.002, 0.018, minimum=0.02) == "failed"
    assert verdict(name, 0.03, 0.022, 0.038, minimum=0.02) == "passed"
