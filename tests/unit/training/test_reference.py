from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from nightshift.training.reference import describe, profile_numbers
from nightshift.training.signature import Signature


def test_bins_are_half_open_to_the_right():
    profile = profile_numbers(np.array([0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, np.nan, np.nan]))
    assert profile["edges"] == [1.0, 2.0]
    assert profile["shares"] == [0.2, 0.3, 0.5]
    assert profile["missing_share"] == pytest.approx(2 / 12)
    assert (profile["n"], profile["mean"]) == (12, 1.3)


def test_shares_are_equal_when_values_are_distinct():
    assert profile_numbers(np.arange(1000.0))["shares"] == pytest.approx([0.1] * 10)


@pytest.mark.parametrize(
    ("values", "edges", "shares", "missing"),
    [([np.nan, np.nan], [], [0.0], 1.0), ([3.0, 3.0], [], [1.0], 0.0), ([0.0] * 99 + [1.0], [1.0], [0.99, 0.01], 0.0)],
)
def test_degenerate_columns_have_few_bins(values, edges, shares, missing):
    profile = profile_numbers(np.array(values))
    assert (profile["edges"], profile["shares"], profile["missing_share"]) == (edges, shares, missing)


def test_every_level_is_counted_also_those_the_model_does_not_know():
    rows = pa.table({"wind": [1.0, 2.0, 3.0, 4.0], "carrier": ["B", "Z", "B", None]})
    profile = describe(rows, Signature(("wind",), (("carrier", ("B",)),)), np.array([0.1, 0.2]))
    assert profile["categorical"] == {
        "carrier": {"shares": {"B": pytest.approx(2 / 3), "Z": pytest.approx(1 / 3)}, "missing_share": 0.25, "n": 4}
    }
    assert (profile["score"]["n"], list(profile["numeric"])) == (2, ["wind"])
