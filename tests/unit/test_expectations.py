"""What the suites must say about what the models read."""

from __future__ import annotations

import json

import pytest

from nightshift.contracts.datasets import Delivery, load_contracts
from nightshift.contracts.model_spec import ModelSpec, load_specs
from nightshift.settings import PROJECT_ROOT

SPECS = load_specs(PROJECT_ROOT / "dags" / "models")


def columns_with_an_expectation(dataset: str) -> set[str]:
    """Return the columns that a suite says something about."""
    suite = json.loads((PROJECT_ROOT / "expectations" / f"{dataset}.json").read_text())
    return {expectation["kwargs"].get("column") for expectation in suite["expectations"]}


@pytest.mark.mlts("data-1")
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_feature_that_a_model_reads_has_an_expectation(spec: ModelSpec) -> None:
    features = {*spec.features.numeric, *(feature.name for feature in spec.features.categorical)}
    assert len(features) > 70
    assert features - columns_with_an_expectation(spec.features_dataset) == set()


def test_every_daily_dataset_has_a_suite() -> None:
    daily = [
        contract
        for contract in load_contracts(PROJECT_ROOT / "dags" / "datasets").values()
        if contract.delivery is Delivery.DAILY
    ]
    assert len(daily) == 3
    assert all(columns_with_an_expectation(contract.dataset) for contract in daily)
