"""Reasons: the strongest contributions, in a stable order, as JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa

from nightshift.scoring.reasons import top_reasons

ROWS = pa.table({"weight_kg": [1.5, math.nan], "depot": ["north", None], "late_rate_7d": [0.5, 0.25]})
NAMES = ["weight_kg", "late_rate_7d", "depot"]


def test_strongest_features_come_first_with_their_values():
    (first, second) = top_reasons(np.array([[0.1, -0.4, 0.3], [0.2, 0.0, -0.1]]), NAMES, ROWS, 2)

    assert json.loads(first) == [
        {"feature": "late_rate_7d", "value": 0.5, "contribution": -0.4},
        {"feature": "depot", "value": "north", "contribution": 0.3},
    ]
    assert json.loads(second) == [
        {"feature": "weight_kg", "value": None, "contribution": 0.2},
        {"feature": "depot", "value": None, "contribution": -0.1},
    ]


def test_ties_go_to_the_feature_that_comes_first():
    (first, _) = top_reasons(np.array([[0.5, -0.5, 0.5], [0, 0, 0]]), NAMES, ROWS, 2)

    assert [reason["feature"] for reason in json.loads(first)] == ["weight_kg", "late_rate_7d"]


def test_features_that_add_nothing_are_left_out():
    assert top_reasons(np.array([[0.0, 1e-9, 0.0], [0.0, 0.0, 0.0]]), NAMES, ROWS, 3) == ["[]", "[]"]


def test_reasons_are_empty_when_the_spec_wants_none():
    assert top_reasons(np.ones((2, 3)), NAMES, ROWS, 0) == ["[]", "[]"]
