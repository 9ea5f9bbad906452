"""Reasons: the strongest contributions, in a stable order, as JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from nightshift.contracts.scoring_spec import Analytics, Cause
from nightshift.scoring.reasons import sums_by_cause, top_reasons

ROWS = pa.table(
    {"weight_kg": [1.5, math.nan], "depot": ["north", None], "late_rate_7d": [0.5, 0.25]}
)
NAMES = ["weight_kg", "late_rate_7d", "depot"]


def test_strongest_features_come_first_with_their_values():
    (first, second) = top_reasons(
        np.array([[0.1, -0.4, 0.3], [0.2, 0.0, -0.1]]), NAMES, ROWS, 2
    ).to_pylist()

    assert json.loads(first) == [
        {"feature": "late_rate_7d", "value": 0.5, "contribution": -0.4},
        {"feature": "depot", "value": "north", "contribution": 0.3},
    ]
    assert json.loads(second) == [
        {"feature": "weight_kg", "value": None, "contribution": 0.2},
        {"feature": "depot", "value": None, "contribution": -0.1},
    ]


def test_ties_go_to_the_feature_that_comes_first():
    (first, _) = top_reasons(np.array([[0.5, -0.5, 0.5], [0, 0, 0]]), NAMES, ROWS, 2).to_pylist()

    assert [reason["feature"] for reason in json.loads(first)] == ["weight_kg", "late_rate_7d"]


def test_features_that_add_nothing_are_left_out():
    assert top_reasons(
        np.array([[0.0, 1e-9, 0.0], [0.0, 0.0, 0.0]]), NAMES, ROWS, 3
    ).to_pylist() == ["[]", "[]"]


def test_reasons_are_empty_when_the_spec_wants_none():
    assert top_reasons(np.ones((2, 3)), NAMES, ROWS, 0).to_pylist() == ["[]", "[]"]


def test_values_keep_their_types_and_texts_are_escaped():
    rows = pa.table(
        {
            "n": pa.array([3, None], pa.int32()),
            "is_new": [True, False],
            "note": ['say "no"\\', "Zürich\n"],
            "share": [1e-7, 2.0],
            "city": pa.array(["a", None]).dictionary_encode(),
        }
    )
    names = rows.column_names
    (first, second) = map(
        json.loads, top_reasons(np.tile([5.0, 4, 3, 2, 1], (2, 1)), names, rows, 9).to_pylist()
    )

    assert [reason["value"] for reason in first] == [3, True, 'say "no"\\', 1e-7, "a"]
    assert [reason["value"] for reason in second] == [None, False, "Zürich\n", 2.0, None]
    assert isinstance(first[0]["value"], int)


def test_reasons_of_many_rows_are_those_of_each_row_alone():
    dice = np.random.default_rng(1)
    contributions = dice.normal(size=(1000, 4)) * (dice.random((1000, 4)) < 0.6)
    rows = pa.table({name: dice.choice([0.5, np.nan, 1e300, -3.0], 1000) for name in "abcd"})
    together = top_reasons(contributions.copy(), list("abcd"), rows, 3).to_pylist()

    for i in range(1000):
        order = sorted(range(4), key=lambda place, i=i: (-abs(contributions[i, place]), place))[:3]
        expected = [
            {
                "feature": "abcd"[place],
                "value": None if math.isnan(value := rows["abcd"[place]][i].as_py()) else value,
                "contribution": round(contributions[i, place], 6),
            }
            for place in order
            if round(contributions[i, place], 6)
        ]
        assert json.loads(together[i]) == expected


def test_a_numbers_of_decimals_is_kept_when_contributions_are_tiny():
    (text,) = top_reasons(
        np.array([[0.0000014, -1234567.0000004]]), ["depot", "weight_kg"], ROWS.slice(0, 1), 2
    ).to_pylist()

    assert [reason["contribution"] for reason in json.loads(text)] == [-1234567.0, 0.000001]


CAUSES = [
    Cause(name="size", features=("weight_kg",)),
    Cause(name='the "depot"', features=("depot", "late_rate_7d", "of_another_version")),
    Cause(name="unused", features=("of_another_version_too",)),
]


def test_sums_by_cause_are_exact_and_what_no_cause_names_is_the_rest():
    added = np.array([[0.1, -0.4, 0.3], [1e-7, 0.25, -0.25]])
    first, second = sums_by_cause(added, NAMES, CAUSES).to_pylist()
    assert json.loads(first) == {"size": 0.1, 'the "depot"': pytest.approx(-0.1, abs=1e-9)}
    assert json.loads(second) == {"size": 1e-7, 'the "depot"': 0}

    (rest, _) = sums_by_cause(added, NAMES, CAUSES[:1]).to_pylist()
    assert json.loads(rest) == {"size": 0.1, "other": pytest.approx(-0.1, abs=1e-9)}
    assert sums_by_cause(added[:0], NAMES, CAUSES).to_pylist() == []


def test_a_feature_is_in_one_cause_and_the_rest_has_no_other_name():
    with pytest.raises(ValidationError, match="weight_kg is there twice"):
        Analytics(causes=(CAUSES[0], Cause(name="heavy", features=("weight_kg",))))
    with pytest.raises(ValidationError, match="no cause names"):
        Cause(name="other", features=("weight_kg",))
