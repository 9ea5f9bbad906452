"""Columns without a model: what is redundant, and what a night has one value of."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift.contracts.model_spec import load_spec
from nightshift.settings import PROJECT_ROOT
from nightshift.studies.benefit import with_features
from nightshift.studies.columns import night_constant_columns, redundant_columns

NAMES = ["distance_miles", "scheduled_block_minutes", "aircraft_seats", "temperature_f_last"]


@pytest.fixture
def spec():
    whole = load_spec(PROJECT_ROOT / "dags" / "models", "flight_delayed")
    return with_features(whole, [*NAMES, "origin"])


@pytest.fixture
def rows() -> pa.Table:
    """Return 4 nights of 200 rows: minutes follow miles, the night has one temperature."""
    dice = np.random.default_rng(1)
    miles = dice.uniform(100, 3000, 800)
    nights = np.repeat(np.arange(4), 200)
    temperature = np.array([50.0, np.nan, 61.0, 55.0])[nights]
    return pa.table({
        "partition_date": pa.array(np.datetime64("2013-01-01") + nights, pa.date32()),
        "distance_miles": miles,
        "scheduled_block_minutes": np.sqrt(miles) + 0.1 * dice.normal(size=800),
        "aircraft_seats": pa.array(dice.integers(50, 300, 800)),
        "temperature_f_last": pa.array(temperature, from_pandas=True),
        "origin": np.array(["EWR", "JFK", "LGA"])[dice.integers(0, 3, 800)],
    })  # fmt: skip


def test_columns_that_rank_rows_alike_are_one_group(spec, rows):
    found = {part.name: part for part in redundant_columns(spec, rows)}
    assert found.keys() == {"distance_miles", "scheduled_block_minutes"}
    assert {part.period for part in found.values()} == {"distance_miles"}
    assert found["distance_miles"].note == "most like scheduled_block_minutes"
    assert found["distance_miles"].value > 0.99


def test_columns_of_the_night_are_named_also_when_a_night_misses_them(spec, rows):
    found = {part.name: (part.value, part.note) for part in night_constant_columns(spec, rows)}
    assert found == {
        "temperature_f_last": (1.0, "one value a night"),
        "origin": (3.0, "at most 3 values a night"),
    }


def test_a_spec_keeps_the_order_of_the_features_that_are_left(spec):
    kept = with_features(spec, ["temperature_f_last", "distance_miles"])
    assert kept.features.names == ("distance_miles", "temperature_f_last")
