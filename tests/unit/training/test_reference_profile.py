from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift.models.signature import Signature
from nightshift.training.reference_profile import describe, profile_numbers


def test_bins_are_half_open_to_the_right():
    values = np.arange(1.0, 21.0)
    profile = profile_numbers(np.append(values, [np.nan, np.nan]))
    assert profile["edges"] == list(range(3, 20, 2))
    assert profile["shares"] == pytest.approx([0.1] * 10)
    assert profile["missing_share"] == pytest.approx(2 / 22)
    assert (profile["n"], profile["mean"]) == (22, 10.5)


def test_frequent_value_has_a_bin_of_its_own():
    profile = profile_numbers(np.array([0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]))
    assert profile["edges"] == pytest.approx([0, 0, 1, 1, 2, 2], abs=1e-9)
    assert profile["shares"] == [0.0, 0.2, 0.0, 0.3, 0.0, 0.5, 0.0]


def test_shares_are_equal_when_values_are_distinct():
    assert profile_numbers(np.arange(1000.0))["shares"] == pytest.approx([0.1] * 10)


@pytest.mark.parametrize(
    ("values", "shares", "missing"),
    [
        ([np.nan, np.nan], [0.0], 1.0),
        ([3.0, 3.0], [0.0, 1.0, 0.0], 0.0),
        ([0.0] * 99 + [1.0], [0.0, 0.99, 0.01], 0.0),
        ([1e9] * 999 + [-7.0], [0.001, 0.999, 0.0], 0.0),
    ],
)
def test_degenerate_columns_have_few_bins(values, shares, missing):
    profile = profile_numbers(np.array(values))
    assert len(profile["edges"]) + 1 == len(shares)
    assert (profile["shares"], profile["missing_share"]) == (shares, missing)


@pytest.mark.parametrize("constant", [0.0, -0.0, 0.1, -7.0, 1e150, 1e-300, 123456789.125])
def test_constant_is_told_from_its_neighbours_and_not_from_its_own_rounding(constant):
    edges = profile_numbers(np.full(50, constant))["edges"]
    step = max(abs(constant) * 1e-9, 1e-290)
    tonight = [constant - step, constant, np.nextafter(constant, np.inf), constant + step]
    if constant == 0:
        tonight[2] = constant
    assert np.searchsorted(edges, tonight, side="right").tolist() == [0, 1, 1, 2]


def test_every_level_is_counted_also_those_the_model_does_not_know():
    rows = pa.table({"wind": [1.0, 2.0, 3.0, 4.0], "carrier": ["B", "Z", "B", None]})
    profile = describe(rows, Signature(("wind",), (("carrier", ("B",)),)), np.array([0.1, 0.2]))
    assert profile["categorical"] == {
        "carrier": {
            "shares": {"B": pytest.approx(2 / 3), "Z": pytest.approx(1 / 3)},
            "missing_share": 0.25,
            "n": 4,
        }
    }
    assert (profile["score"]["n"], list(profile["numeric"])) == (2, ["wind"])
