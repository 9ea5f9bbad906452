"""What a model loses with its age, by real trainings: where the world turns, and where not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.unit.backtest.test_nightly_models import SPEC as OTHER_SPEC

from nightshift.backtest.model_age import AgeComparison, compare_ages
from nightshift.backtest.nightly_models import NightlyModels
from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import PartitionRange

pytestmark = pytest.mark.mlts("model-4")

FIRST_DAY, N_DAYS, ROWS_A_DAY = dt.date(2020, 1, 1), 60, 60
NIGHTS = PartitionRange.of("2020-02-06", "2020-02-26")
SHORT = {"window_days": 21, "minimum_days": 15, "validation_days": 4, "holdout_days": 3}
SPEC = ModelSpec.model_validate(
    OTHER_SPEC.model_dump(mode="json", exclude_none=True)
    | {"training": OTHER_SPEC.training.model_dump(mode="json", exclude_none=True) | SHORT}
)


def parcels(turns: float) -> pa.Table:
    """Return parcels that are late by wind on the first day, and by weight after so many turns."""
    random = np.random.default_rng(11)
    n = N_DAYS * ROWS_A_DAY
    number = np.arange(n) // ROWS_A_DAY
    angle = turns * np.pi / 2 * number / N_DAYS
    wind, weight = random.normal(size=n), random.normal(size=n)
    cause = np.cos(angle) * wind + np.sin(angle) * weight + 0.3 * random.normal(size=n)
    days = [FIRST_DAY + dt.timedelta(days=day) for day in number.tolist()]
    return pa.table(
        {
            "partition_date": days,
            "parcel_id": [f"{day}-{i:05d}" for i, day in enumerate(days)],
            "wind": wind,
            "weight": weight,
            "late_rate_7d": np.full(n, 0.3),
            "is_late": cause > 0.5,
        }
    )


def by_age(folder: Path, turns: float) -> AgeComparison:
    models = NightlyModels(SPEC, parcels(turns), folder)
    days = [NIGHTS.first.shift(-1).day, *NIGHTS.days]
    assert sorted(models.train(days, 2)) == days
    comparison = compare_ages(models, NIGHTS, ("log_loss",), ("log_loss",))
    assert comparison is not None
    return comparison


def test_older_models_lose_more_when_the_world_turns(tmp_path: Path) -> None:
    comparison = by_age(tmp_path, turns=2.0)
    losses = [age.values["log_loss"] for age in comparison.ages]
    assert [age.days for age in comparison.ages] == [1, 3, 7, 14]
    assert losses == sorted(losses)
    # Proved on the same rows, not only seen.
    assert [age.gains["log_loss"].high < 0 for age in comparison.ages[2:]] == [True, True]


def test_nothing_is_lost_when_the_world_stands_still(tmp_path: Path) -> None:
    comparison = by_age(tmp_path, turns=0.0)
    for age in comparison.ages[1:]:
        assert age.gains["log_loss"].low < 0.01
        assert age.gains["log_loss"].high > -0.01
