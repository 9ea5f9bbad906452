"""Delivered text to typed values: what is read, and why a value is refused."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from nightshift.contracts.datasets import Column
from nightshift.ingestion.rows import cast as module
from nightshift.ingestion.rows.cast import Reason, cast_column


def cast(strings, timezone="America/New_York", **column):
    return cast_column(
        pa.chunked_array([pa.array(strings, pa.string())]),
        Column(**{"name": "x"} | column),
        timezone,
    )


def refused(result):
    return {reason.value: mask.tolist() for reason, mask in result.problems.items() if mask.any()}


def utc(*args):
    return dt.datetime(*args, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("column_type", "strings", "values"),
    [
        ("text", ["a", "a", "ü"], ["a", "a", "ü"]),
        ("integer", ["1", "-20", "007"], [1, -20, 7]),
        ("number", ["1", "-0.1", "1e3", ".5", "5."], [1.0, -0.1, 1000.0, 0.5, 5.0]),
        ("boolean", ["true", "F", "1", "no"], [True, False, True, False]),
        ("date", ["2013-02-28", "2012-02-29"], [dt.date(2013, 2, 28), dt.date(2012, 2, 29)]),
        (
            "utc_timestamp",
            ["2013-01-01T10:00:00Z", "2013-01-01 10:00"],
            [utc(2013, 1, 1, 10), utc(2013, 1, 1, 10)],
        ),
        (
            "local_timestamp",
            ["2013-01-01 05:15", "2013-01-01T05:15:30.25"],
            [utc(2013, 1, 1, 10, 15), utc(2013, 1, 1, 10, 15, 30, 250_000)],
        ),
        (
            "local_timestamp",
            ["2013-11-03T01:00:00-04:00", "2013-11-03T01:00:00-05:00"],
            [utc(2013, 11, 3, 5), utc(2013, 11, 3, 6)],
        ),
        ("local_timestamp", ["2013-07-01T12:00:00+05:30"], [utc(2013, 7, 1, 6, 30)]),
    ],
)
def test_values_are_read_when_they_have_the_columns_type(column_type, strings, values):
    result = cast(strings, type=column_type)

    assert result.values.to_pylist() == values
    assert refused(result) == {}


@pytest.mark.parametrize(
    ("column_type", "text"),
    [
        ("text", "a\0b"),
        ("integer", "1.5"),
        ("integer", "twelve"),
        ("integer", "9" * 19),
        ("number", "nan"),
        ("number", "1e999"),
        ("number", "1,5"),
        ("boolean", "maybe"),
        ("date", "2013-02-29"),
        ("date", "2013-13-01"),
        ("date", "03/10/2013"),
        ("utc_timestamp", "2013-01-01T24:00:00Z"),
        ("utc_timestamp", "yesterday"),
        ("local_timestamp", "2013-01-01"),
        ("local_timestamp", "2013-01-01 10:61"),
    ],
)
def test_a_value_is_refused_when_it_has_another_type(column_type, text):
    assert refused(cast([text], type=column_type)) == {"wrong_type": [True]}


def test_an_empty_value_is_refused_when_the_column_is_not_nullable():
    assert refused(cast([None, "1"], type="integer")) == {"missing_value": [True, False]}
    nullable = cast([None, "1"], type="integer", is_nullable=True)
    assert refused(nullable) == {}
    assert nullable.values.to_pylist() == [None, 1]


def test_a_value_is_refused_when_it_lies_outside_of_the_limits():
    assert refused(cast(["0", "1", "9", "10"], type="integer", minimum=1, maximum=9)) == {
        "out_of_range": [True, False, False, True]
    }
    assert refused(cast(["EWR", "ewr"], type="text", levels=("EWR",))) == {
        "unknown_level": [False, True]
    }


def test_a_local_time_is_refused_when_the_clock_was_set_over_it():
    result = cast(
        ["2013-03-10 02:30", "2013-03-10 03:00", "2013-03-10T02:30:00-05:00"],
        type="local_timestamp",
    )

    assert refused(result) == {"nonexistent_time": [True, False, False]}
    assert result.values.to_pylist() == [None, utc(2013, 3, 10, 7), utc(2013, 3, 10, 7, 30)]


def test_a_local_time_is_the_first_when_it_was_twice():
    assert cast(["2013-11-03 01:30"], type="local_timestamp").values.to_pylist() == [
        utc(2013, 11, 3, 5, 30)
    ]
    lord_howe = cast(
        ["2013-04-07 01:45", "2013-10-06 02:15"],
        timezone="Australia/Lord_Howe",
        type="local_timestamp",
    )
    assert lord_howe.values.to_pylist() == [utc(2013, 4, 6, 14, 45), None]
    assert refused(lord_howe) == {"nonexistent_time": [False, True]}


@pytest.mark.parametrize(
    "column_type",
    ["text", "integer", "number", "boolean", "date", "utc_timestamp", "local_timestamp"],
)
def test_nothing_is_refused_when_there_are_no_rows(column_type):
    assert len(cast([], type=column_type).values) == 0
    assert cast([None, None], type=column_type).problems[Reason.MISSING_VALUE].tolist() == [
        True,
        True,
    ]


@pytest.mark.parametrize("most_known", [0, 3, 1 << 14])
def test_a_text_means_the_same_however_many_blocks_had_it_before(monkeypatch, most_known):
    given = {"type": "integer", "minimum": 2, "maximum": 7}
    # What is remembered belongs to a column; no other test knows these.
    alone_name, remembered_name = f"alone_{most_known}", f"remembered_{most_known}"
    dice = np.random.default_rng(7)
    blocks = [
        dice.choice(["1", "2", "3", "4", "seven", "7", "8", "", None], 12).tolist()
        for _ in range(40)
    ]
    blocks = [[text or None for text in block] for block in blocks]
    monkeypatch.setattr(module, "MAX_KNOWN_TEXTS", 0)
    alone = [cast(block, name=alone_name, **given) for block in blocks]

    monkeypatch.setattr(module, "MAX_KNOWN_TEXTS", most_known)
    remembered = [cast(block, name=remembered_name, **given) for block in blocks]

    assert [(one.values.to_pylist(), refused(one)) for one in remembered] == [
        (one.values.to_pylist(), refused(one)) for one in alone
    ]
    assert any("wrong_type" in refused(one) for one in alone)
    assert any("out_of_range" in refused(one) for one in alone)
