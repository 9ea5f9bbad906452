from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightshift.models.predictions import Predictions
from nightshift.monitoring.drift_baseline import training_noise
from nightshift.training.reference_profile import profile_numbers


@dataclass
class Model:
    """A stand-in for a trained model: its score is the wind."""

    reference: dict[str, Any]

    def predictions(self, rows: pa.Table) -> Predictions:
        return Predictions(rows.column("wind").to_numpy())


def world(level_of_night: np.ndarray) -> tuple[Model, pa.Table]:
    random = np.random.default_rng(1)
    night = np.repeat(np.arange(level_of_night.size), 200)
    wind = random.normal(size=night.size) + level_of_night[night]
    carrier = random.choice(["A", "B"], night.size)
    levels = {
        "shares": {"A": float((carrier == "A").mean()), "B": float((carrier == "B").mean())},
        "missing_share": 0.0,
        "n": night.size,
    }
    reference = {
        "numeric": {"wind": profile_numbers(wind)},
        "categorical": {"carrier": levels},
        "score": profile_numbers(wind),
    }
    days = np.datetime64("2020-01-01") + night
    return Model(reference), pa.table(
        {"partition_date": days, "wind": wind, "carrier": carrier.tolist()}
    )


def test_noise_is_small_when_nights_are_alike() -> None:
    noise = training_noise(*world(np.zeros(40)))
    assert noise["wind"] < 0.15
    assert noise["carrier"] < 0.05
    assert noise["score"] == noise["wind"]


def test_noise_is_large_when_each_night_has_its_own_level() -> None:
    assert training_noise(*world(np.linspace(-3, 3, 40)))["wind"] > 2.0


def test_noise_does_not_depend_on_the_order_of_rows() -> None:
    model, rows = world(np.linspace(-1, 1, 10))
    shuffled = rows.take(np.random.default_rng(2).permutation(rows.num_rows))
    assert training_noise(model, shuffled) == pytest.approx(training_noise(model, rows), rel=1e-12)
