"""Streamed counts never pass what Great Expectations refuses."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from tests.integration.quality.test_sql_checks import (
    N_EXPECTATIONS,
    N_TABLES,
    QUERY,
    make_suite,
    make_table,
    refused_by,
)

from nightshift.contracts.run import RunContext
from nightshift.quality.suites.great_expectations_checks import evaluate_by_great_expectations
from nightshift.quality.suites.streaming_checks import StreamingEvaluator
from nightshift.quality.suites.suite import parse_expectation
from nightshift.settings import Settings
from nightshift.warehouse.fast_io.arrow_io import stream_arrow

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration


def passed(
    conn: Connection, rows: pa.Table, *expectations: dict[str, Any], is_unique: bool = False
) -> list[dict[str, Any]]:
    passing = StreamingEvaluator([parse_expectation(each) for each in expectations])
    for start in range(0, max(len(rows), 1), 4):
        passing.add(rows.slice(start, 4))
    assert passing.n_rows == len(rows)
    checks = passing.passed(conn, lambda _: is_unique)
    return [check.as_document() for check in checks]


def expect(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs}


@pytest.mark.promise("R18")
def test_nothing_passes_that_great_expectations_refuses(
    settings: Settings, conn: Connection, run: RunContext, record_figure
) -> None:
    dice = random.Random(8)  # noqa: S311
    n_passed = n_passed_too = 0
    for _ in range(N_TABLES):
        make_table(conn, dice)
        suite = make_suite(dice)
        rows = pa.Table.from_batches(list(stream_arrow(settings, QUERY)))
        found = passed(conn, rows, *suite.document["expectations"])
        judged = evaluate_by_great_expectations(
            settings, suite, suite.expectations, QUERY.as_string(None), run
        )
        refused = [expectation.document for expectation in refused_by(suite, judged)]
        assert [result for result in found if result["expectation_config"] in refused] == []
        n_passed += sum(result["success"] for result in judged)
        n_passed_too += len(found)
    assert n_passed < N_TABLES * N_EXPECTATIONS
    assert (
        n_passed_too >= 0.4 * n_passed
    )  # conditions, and strings of which some are unexpected, are left to the scan
    record_figure(
        "expectations judged alike on passing rows and by Great Expectations", n_passed_too
    )


@pytest.mark.parametrize(
    "expectation",
    [
        expect("expect_column_values_to_be_between", column="n", min_value=1, max_value=12),
        expect("expect_column_values_to_be_between", column="n", min_value=4, mostly=0.7),
        expect("expect_column_values_to_not_be_null", column="word", mostly=0.9),
        expect("expect_column_values_to_match_regex", column="word", regex=r"^\w[b-z]?$"),
        expect("expect_column_values_to_be_in_set", column="word", value_set=["a", "ab", "b"]),
        expect("expect_column_pair_values_a_to_be_greater_than_b", column_A="m", column_B="n"),
        expect("expect_table_row_count_to_be_between", min_value=12, max_value=12),
    ],
)
@pytest.mark.parametrize("damage", [False, True])
def test_each_kind_is_counted(conn: Connection, expectation: dict[str, Any], damage: bool) -> None:
    words = ["a", "ab", "b", None, *"ab" * 4]
    n, m = list(range(1, 13)), list(range(2, 14))
    rows = pa.table({"n": n, "m": m, "word": words})
    if damage:
        bad = pa.table({"n": [0, 0, 13], "m": [0, 0, 0], "word": ["aa a", None, None]}, rows.schema)
        rows = pa.concat_tables([rows, bad])
    found = passed(conn, rows, expectation)

    assert (found == []) == damage
    assert damage or (found[0]["success"] and found[0]["expectation_config"] == expectation)


@pytest.mark.parametrize(
    "expectation",
    [
        expect("expect_column_values_to_be_between", column="word", min_value=0),
        expect("expect_column_values_to_be_between", column="day", min_value=0),
        expect("expect_column_values_to_be_between", column="n", min_value=-(2**60)),
        expect("expect_column_values_to_be_between", column="n"),
        expect(
            "expect_column_values_to_not_be_null",
            column="n",
            row_condition='col("word") == "a"',
            condition_parser="great_expectations",
        ),
        expect("expect_column_values_to_not_be_null", column="nowhere"),
        expect("expect_column_values_to_match_regex", column="n", regex="."),
        expect("expect_column_values_to_match_regex", column=1, regex="b"),
        expect("expect_column_values_to_match_regex", regex="b"),
        expect("expect_column_values_to_be_in_set", column="n", value_set=[1]),
        expect(
            "expect_column_pair_values_a_to_be_greater_than_b",
            column_A="word",
            column_B="word",
            or_equal=True,
        ),
        expect("expect_compound_columns_to_be_unique", column_list=["n"]),
        expect("expect_column_mean_to_be_between", column="n", min_value=0),
    ],
)
def test_what_is_not_certain_is_left_to_the_scan(
    conn: Connection, expectation: dict[str, Any]
) -> None:
    rows = pa.table({"n": [1], "word": ["a"], "day": pa.array([0], pa.date32())})

    assert passed(conn, rows, expectation) == []


def test_columns_are_unique_where_the_audit_says_so(conn: Connection) -> None:
    together = expect("expect_compound_columns_to_be_unique", column_list=["n"])

    assert len(passed(conn, pa.table({"n": [1]}), together, is_unique=True)) == 1


def test_a_column_of_too_many_texts_is_left_to_the_scan(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightshift.quality.suites.streaming_checks.MAX_STRINGS", 2)
    rows = pa.table({"few": ["a", "b"] * 5, "many": list("abcdefghij")})
    by_column = [
        expect("expect_column_values_to_match_regex", column=column, regex="^[a-z]$")
        for column in ("few", "many")
    ]

    assert [result["expectation_config"] for result in passed(conn, rows, *by_column)] == by_column[
        :1
    ]
