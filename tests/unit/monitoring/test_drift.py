from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from nightshift.models.signature import Signature
from nightshift.monitoring.drift import (
    DriftReference,
    expected_shares,
    feature_counter,
    feature_drift,
)
from nightshift.monitoring.drift_baseline import training_noise
from nightshift.quality import drift_statistics
from nightshift.quality.drift_statistics import (
    binned_stability_index,
    kolmogorov_smirnov,
    total_variation,
)
from nightshift.quality.profiles import scan
from nightshift.training.reference_profile import describe


def test_index_is_zero_when_shares_are_equal() -> None:
    assert binned_stability_index([50, 30, 20], [0.5, 0.3, 0.2], 100) == 0.0


def test_index_is_the_textbook_value_when_counts_are_large() -> None:
    expected = (0.5 - 0.25) * math.log(0.5 / 0.25) + (0.5 - 0.75) * math.log(0.5 / 0.75)
    assert binned_stability_index(
        [5_000_000, 5_000_000], [0.25, 0.75], 10_000_000
    ) == pytest.approx(expected, abs=1e-6)


def test_index_is_finite_when_a_bin_is_empty_on_one_side() -> None:
    assert binned_stability_index([0, 100], [0.5, 0.5], 100) == pytest.approx(
        (100.5 / 101 - 0.5) * math.log((100.5 / 101) / (0.5 / 101)), rel=1e-9
    )


def test_bin_that_is_empty_on_both_sides_changes_nothing() -> None:
    assert binned_stability_index([40, 0, 60], [0.5, 0.0, 0.5], 100) == binned_stability_index(
        [40, 60], [0.5, 0.5], 100
    )


def test_largest_gap_is_the_distance_of_cumulated_shares() -> None:
    assert kolmogorov_smirnov([10, 20, 70], [0.5, 0.3, 0.2]) == pytest.approx(0.5)
    assert kolmogorov_smirnov([5, 3, 2], [0.5, 0.3, 0.2]) == pytest.approx(0.0)


def test_total_variation_is_half_the_sum_of_differences() -> None:
    assert total_variation([5, 0, 5], [0.5, 0.5, 0.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("distance", [kolmogorov_smirnov, total_variation])
def test_distance_is_one_when_only_one_side_has_values(distance) -> None:
    assert distance([0, 0], [0.5, 0.5]) == 1.0
    assert distance([1, 0], [0.0, 0.0]) == 1.0
    assert distance([0, 0], [0.0, 0.0]) == 0.0


def test_expected_shares_hold_other_levels_and_missing_rows() -> None:
    assert expected_shares(
        {"shares": {"b": 0.75, "a": 0.25}, "missing_share": 0.2}
    ) == pytest.approx([0.2, 0.6, 0.0, 0.2])
    assert expected_shares({"shares": [0.5, 0.5], "missing_share": 0.0}) == [0.5, 0.5, 0.0]


N = 400
LIMITS = SimpleNamespace(psi_threshold=0.2, score_psi_threshold=0.2, minimum_effect=0.1)
RANDOM = np.random.default_rng(3)
SPREAD = RANDOM.normal(size=N)
EMPTY = np.full(N, np.nan)
MOSTLY_ZERO = np.where(np.arange(N) < N - 1, 0.0, 4.0)
CHANGED_NUMBERS = {
    "constant, tonight greater": (np.zeros(N), np.full(N, 5e6)),
    "constant, tonight smaller": (np.full(N, 7.0), np.full(N, -7.0)),
    "constant, tonight spread": (np.zeros(N), SPREAD),
    "constant, tonight half of it": (np.full(N, 12.0), np.where(np.arange(N) % 2, 12.0, 6.0)),
    "constant, tonight empty": (np.full(N, 7.0), EMPTY),
    "empty, tonight filled": (EMPTY, np.full(N, 5e6)),
    "filled, tonight empty": (SPREAD, EMPTY),
    "spread, tonight its middle": (SPREAD, np.full(N, float(np.median(SPREAD)))),
    "nearly constant, tonight below": (MOSTLY_ZERO, np.full(N, -1.0)),
    "nearly constant, tonight between": (MOSTLY_ZERO, np.full(N, 2.0)),
    "nearly constant at its greatest, tonight above": (-MOSTLY_ZERO, np.full(N, 9.0)),
    "two constants, tonight between": (np.where(np.arange(N) % 2, -1e6, 1e6), np.zeros(N)),
    "always no, tonight yes": (np.zeros(N), np.ones(N)),
    "percent, tonight a ratio": (50 + 10 * SPREAD, 0.5 + 0.1 * SPREAD),
}
SAME_NUMBERS = {
    "a constant": (np.full(N, 0.1), np.full(N, 0.1)),
    "a sum in another order": (np.full(N, 0.1 + 0.2 + 0.3), np.full(N, 0.3 + 0.2 + 0.1)),
    "nearly a constant": (MOSTLY_ZERO, np.roll(MOSTLY_ZERO, 7)),
    "empty": (EMPTY, EMPTY),
    "two constants": (np.where(np.arange(N) % 2, 0.0, 1.0), np.where(np.arange(N) % 2, 1.0, 0.0)),
}


def drift_of(then: pa.Array, now: pa.Array):
    """Return the drift of one column, as the monitor measures it, and the index that `profile`
    shows."""
    is_text = pa.types.is_string(then.type)
    signature = Signature((), (("x", ()),)) if is_text else Signature(("x",), ())
    rows = pa.table({"x": then, "partition_date": np.arange(N) % 8})
    reference = describe(rows, signature, np.array([0.1, 0.2]))
    trained = type(
        "Trained", (), {"reference": reference, "predictions": lambda _, rows: Scores(rows)}
    )()
    counter = feature_counter(reference)
    scanned = scan(pa.table({"x": now}).to_batches(), counter)
    reference_point = DriftReference(reference, training_noise(trained, rows), LIMITS)
    before = scan(pa.table({"x": then}).to_batches())["x"]
    [drift] = feature_drift(counter.columns(scanned), reference_point)
    return drift, drift_statistics.stability_index(before, scanned["x"])


class Scores:
    def __init__(self, rows: pa.Table) -> None:
        self.score = np.full(rows.num_rows, 0.1)


@pytest.mark.parametrize(("then", "now"), CHANGED_NUMBERS.values(), ids=CHANGED_NUMBERS)
def test_number_that_is_something_else_tonight_has_drifted_for_monitor_and_profile(
    then, now
) -> None:
    drift, index = drift_of(pa.array(then), pa.array(now))
    assert drift.is_drifted, drift
    assert index > 0.2


@pytest.mark.parametrize(("then", "now"), SAME_NUMBERS.values(), ids=SAME_NUMBERS)
def test_number_that_is_the_same_tonight_has_not_drifted(then, now) -> None:
    drift, index = drift_of(pa.array(then), pa.array(now))
    assert not drift.is_drifted, drift
    assert index < 0.2


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (["A"] * N, ["B"] * N),
        (["A"] * N, [None] * N),
        ([None] * N, ["A"] * N),
        (["A", "B"] * (N // 2), ["A"] * N),
        (["A"] * N, [f"level {number}" for number in range(N)]),
    ],
    ids=["another level", "emptied", "filled", "a level vanishes", "a level per row"],
)
def test_level_that_is_something_else_tonight_has_drifted(then, now) -> None:
    drift, index = drift_of(pa.array(then, pa.string()), pa.array(now, pa.string()))
    assert drift.is_drifted, drift
    assert index > 0.2
