"""A profile never says of an expectation what the values themselves do not say."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from nightshift.quality.profiles import scan
from nightshift.quality.suites.profile_checks import ProfileVerdict, check_profile
from nightshift.quality.suites.suite import parse_expectation

BETWEEN, IN_SET, NOT_NULL = (
    f"expect_column_values_to_{what}" for what in ("be_between", "be_in_set", "not_be_null")
)
ROWS = "expect_table_row_count_to_be_between"


def verdict(profile, kind, n_partitions=1, **kwargs):
    expectation = parse_expectation({"type": kind, "kwargs": kwargs})
    (found,) = check_profile(profile, [expectation], n_partitions)
    return found.verdict


def share(n_broken, n):
    return 1.0 if n == 0 else (n - n_broken) / n


@pytest.mark.parametrize("seed", range(8))
def test_it_never_contradicts_the_values(seed):
    dice, chance = np.random.default_rng(seed), random.Random(seed)  # noqa: S311
    said = Counter()
    for _ in range(40):
        n = int(dice.integers(1, 3000))
        numbers = dice.normal(dice.choice([-40, 0, 3]), dice.choice([0.1, 5, 1e6]), n).round(
            int(dice.integers(0, 4))
        )
        missing = dice.random(n) < dice.choice([0, 0.02, 0.5])
        strings = [f"t{i}" for i in dice.integers(0, dice.choice([3, 2000]), n)]
        columns = {"x": pa.array(numbers, mask=missing), "t": pa.array(strings, mask=missing)}
        profile = scan(pa.table(columns).to_batches(max_chunksize=700))
        known, known_texts = (
            numbers[~missing],
            [text for text, gone in zip(strings, missing, strict=True) if not gone],
        )
        mostly = chance.choice([1.0, 0.99, 0.5])
        low, high = sorted(chance.choice([*numbers.tolist(), -1e9, 1e9, 0.0]) for _ in range(2))
        strict = chance.random() < 0.3
        inside = (known > low) & (known < high) if strict else (known >= low) & (known <= high)
        limits = {"min_value": low, "max_value": high} | (
            {"strict_min": True, "strict_max": True} if strict else {}
        )
        allowed = [f"t{i}" for i in range(chance.choice([1, 2, 3, 1990]))]
        cases = [
            (
                verdict(profile, BETWEEN, column="x", mostly=mostly, **limits),
                share(int((~inside).sum()), len(known)) >= mostly,
            ),
            (
                verdict(profile, IN_SET, column="t", mostly=mostly, value_set=allowed),
                share(sum(text not in allowed for text in known_texts), len(known_texts)) >= mostly,
            ),
            (
                verdict(profile, NOT_NULL, column="x", mostly=mostly),
                share(int(missing.sum()), n) >= mostly,
            ),
            (verdict(profile, ROWS, min_value=low), n >= low),
        ]
        for found, is_met in cases:
            said[found] += 1
            assert found in {
                ProfileVerdict.UNKNOWN,
                ProfileVerdict.MET if is_met else ProfileVerdict.BROKEN,
            }
    assert said[ProfileVerdict.MET] > 30
    assert said[ProfileVerdict.BROKEN] > 30
    assert said[ProfileVerdict.UNKNOWN] < 0.15 * said.total()


@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        ("expect_column_values_to_match_regex", {"column": "t", "regex": "a"}),
        (NOT_NULL, {"column": "absent"}),
        (
            NOT_NULL,
            {
                "column": "t",
                "row_condition": 'col("x") == "1"',
                "condition_parser": "great_expectations",
            },
        ),
        (BETWEEN, {"column": "x", "min_value": "2013-01-01"}),
        (BETWEEN, {"column": "t", "min_value": 1}),
        (IN_SET, {"column": "x", "value_set": [1.0]}),
        (IN_SET, {"column": "thing_id", "value_set": ["a"]}),
    ],
)
def test_it_says_unknown_when_a_profile_cannot_know(kind, kwargs):
    profile = scan(
        pa.table({"x": [1.0, 2.0], "t": ["a", "b"], "thing_id": ["a", "a"]}).to_batches()
    )

    assert verdict(profile, kind, **kwargs) is ProfileVerdict.UNKNOWN


def test_limits_of_a_partitions_rows_say_nothing_of_a_month():
    profile = scan(pa.table({"x": [1.0] * 300}).to_batches())

    assert verdict(profile, ROWS, min_value=1, max_value=100) is ProfileVerdict.BROKEN
    assert (
        verdict(profile, ROWS, n_partitions=30, min_value=1, max_value=100)
        is ProfileVerdict.UNKNOWN
    )
