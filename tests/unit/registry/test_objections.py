from __future__ import annotations

import pytest

from nightshift.contracts.model_spec import load_spec
from nightshift.registry.promotion import SAMPLE, _objections
from nightshift.settings import PROJECT_ROOT
from nightshift.training.evaluation import Measured

SPEC = load_spec(PROJECT_ROOT / "dags" / "models", "flight_delayed")


def measured(n_rows=1000, column="", level="", metric="roc_auc", **values):
    return [Measured(SAMPLE, source, column, level, metric, value, n_rows) for source, value in values.items()]


def spec_with(**changes):
    return SPEC.model_copy(update={"promotion": SPEC.promotion.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("values", "n_objections"),
    [
        ({"challenger": 0.66, "champion": 0.65, "baseline": 0.60}, 0),
        ({"challenger": 0.65, "champion": 0.65, "baseline": 0.60}, 1),
        ({"challenger": 0.64, "champion": 0.65, "baseline": 0.60}, 1),
        ({"challenger": 0.59, "champion": 0.58, "baseline": 0.60}, 1),
        ({"challenger": 0.57, "champion": 0.58, "baseline": 0.60}, 2),
        ({"challenger": 0.60, "baseline": 0.60}, 0),
        ({"challenger": 0.59, "baseline": 0.60}, 1),
        ({"challenger": None, "baseline": None}, 1),
    ],
)
def test_challenger_must_beat_champion_and_not_fall_below_the_rule(values, n_objections):
    assert len(_objections(SPEC, measured(**values))) == n_objections


@pytest.mark.parametrize(("challenger", "n_objections"), [(0.645, 0), (0.639, 1)])
def test_margin_lets_a_slightly_worse_challenger_pass(challenger, n_objections):
    spec = spec_with(non_inferiority_margin=0.01)
    assert len(_objections(spec, measured(challenger=challenger, champion=0.65, baseline=0.6))) == n_objections


def test_gain_over_the_rule_can_be_demanded():
    spec = spec_with(minimum_gain_over_baseline=0.05)
    assert _objections(spec, measured(challenger=0.64, baseline=0.6)) == [
        "roc_auc 0.6400 gains 0.0400 on the rule baseline's 0.6000, not 0.05."
    ]


@pytest.mark.parametrize(("n_rows", "challenger", "n_objections"), [(300, 0.56, 0), (300, 0.54, 1), (299, 0.54, 0)])
def test_slice_counts_when_large_enough_and_worse_by_more_than_its_margin(n_rows, challenger, n_objections):
    everything = measured(challenger=0.7, champion=0.65, baseline=0.6)
    part = measured(n_rows, "carrier", "UA", challenger=challenger, champion=0.6, baseline=0.9)
    objections = _objections(SPEC, everything + part)
    assert len(objections) == n_objections
    assert all("carrier = UA" in objection for objection in objections)


@pytest.mark.parametrize(("error", "n_objections"), [(0.05, 0), (0.06, 1)])
def test_calibration_error_is_limited_when_declared(error, n_objections):
    numbers = measured(challenger=0.7, baseline=0.6) + measured(metric="calibration_error", challenger=error, baseline=0.0)
    assert len(_objections(spec_with(maximum_calibration_error=0.05), numbers)) == n_objections
    assert _objections(SPEC, numbers) == []
