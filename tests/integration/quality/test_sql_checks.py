"""One scan never passes what Great Expectations refuses, and passes nearly all that it passes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from psycopg import sql

from nightshift.contracts.run import RunContext
from nightshift.quality.suites.great_expectations_checks import evaluate_by_great_expectations
from nightshift.quality.suites.sql_checks import evaluate_by_sql
from nightshift.quality.suites.suite import Expectation, Suite, parse_expectation
from nightshift.settings import Settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = pytest.mark.integration
QUERY = sql.SQL("select * from raw.dice")
N_TABLES, N_EXPECTATIONS = 6, 60


def make_table(conn: Connection, dice: random.Random) -> None:
    """Fill a small table whose columns have few values, so that limits and repetitions are hit."""
    conn.execute("drop table if exists raw.dice")
    conn.execute(
        "create table raw.dice"
        " (a double precision, b double precision, n integer, word text, kind text)"
    )
    rows = [
        (
            dice.choice([0.0, 1.0, 2.5, -1.0, float("nan"), float("inf"), None]),
            dice.choice([0.0, 1.0, None]),
            dice.choice([1, 2, 3, None]),
            dice.choice(["ab", "b", "", "A1", None]),
            dice.choice(["x", "y"]),
        )
        for _ in range(dice.choice([1, 3, 12]))
    ]
    with conn.cursor() as cursor:
        cursor.executemany("insert into raw.dice values (%s, %s, %s, %s, %s)", rows)


def make_expectation(dice: random.Random) -> dict[str, Any]:
    """Return an expectation of a kind that is evaluated in one scan."""
    number = dice.choice(["a", "b", "n"])
    limits = {"min_value": dice.choice([None, -1, 0, 1]), "max_value": dice.choice([1, 2, 2.5])}
    kind, kwargs = dice.choice(
        [
            (
                "expect_table_row_count_to_be_between",
                {"min_value": dice.choice([0, 1, 4]), "max_value": dice.choice([None, 5, 20])},
            ),
            ("expect_column_values_to_not_be_null", {"column": dice.choice(["a", "word", "kind"])}),
            ("expect_column_values_to_be_between", {"column": number, **limits}),
            (
                "expect_column_values_to_be_between",
                {"column": number, **limits, "strict_min": True, "strict_max": True},
            ),
            (
                "expect_column_values_to_be_in_set",
                {"column": "word", "value_set": dice.sample(["ab", "b", "", "A1"], 3)},
            ),
            (
                "expect_column_values_to_match_regex",
                {"column": "word", "regex": dice.choice(["^[a-z]*$", "b", "^A?"])},
            ),
            (
                "expect_column_pair_values_a_to_be_greater_than_b",
                {"column_A": "a", "column_B": "b", "or_equal": dice.choice([True, False])},
            ),
            (
                "expect_compound_columns_to_be_unique",
                {"column_list": dice.choice([["a", "word"], ["n", "word", "b"]])},
            ),
        ]
    )
    is_by_row = kind.startswith("expect_column_values")
    if is_by_row and dice.random() < 0.3:
        kwargs |= {"mostly": dice.choice([0.5, 0.9])}
    if is_by_row and dice.random() < 0.3:
        kwargs |= {
            "row_condition": f'col("kind") {dice.choice(["==", "!="])} "x"',
            "condition_parser": "great_expectations",
        }
    return {
        "type": kind,
        "kwargs": {name: value for name, value in kwargs.items() if value is not None},
    }


def make_suite(dice: random.Random) -> Suite:
    """Return a suite of random expectations."""
    documents = [make_expectation(dice) for _ in range(N_EXPECTATIONS)]
    document = {"name": "raw/dice", "expectations": documents}
    return Suite("raw/dice", document, tuple(map(parse_expectation, documents)))


def refused_by(suite: Suite, results: list[dict[str, Any]]) -> list[Expectation]:
    """Return the expectations that Great Expectations refuses; its results have their order."""
    pairs = zip(suite.expectations, results, strict=True)
    return [expectation for expectation, result in pairs if not result["success"]]


@pytest.mark.promise("R18")
def test_nothing_passes_that_great_expectations_refuses(
    settings: Settings, conn: Connection, run: RunContext, record_figure
) -> None:
    dice = random.Random(7)  # noqa: S311
    n_passed = n_passed_too = 0
    for _ in range(N_TABLES):
        make_table(conn, dice)
        suite = make_suite(dice)
        passed = evaluate_by_sql(conn, QUERY, suite.expectations, lambda _: False)
        judged = evaluate_by_great_expectations(
            settings, suite, suite.expectations, QUERY.as_string(None), run
        )
        refused = refused_by(suite, judged)
        assert [check for check in passed if check.expectation in refused] == []
        n_passed += sum(result["success"] for result in judged)
        n_passed_too += len(passed)
    assert n_passed < N_TABLES * N_EXPECTATIONS
    assert n_passed_too >= 0.9 * n_passed
    record_figure("expectations judged alike by one scan and by Great Expectations", n_passed_too)


def test_scan_trusts_an_index_that_keeps_the_columns_unique(conn: Connection) -> None:
    conn.execute("create table raw.dice as select 1 as a, 2 as b from generate_series(1, 2)")
    together = parse_expectation(
        {
            "type": "expect_compound_columns_to_be_unique",
            "kwargs": {"column_list": ["a", "b"]},
        }
    )
    assert evaluate_by_sql(conn, QUERY, [together], lambda _: False) == []
    (passed,) = evaluate_by_sql(conn, QUERY, [together], lambda columns: columns == ["a", "b"])
    assert passed.as_document()["success"]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"column": "a", "min_value": "2013-01-01", "max_value": "2014-01-01"},
        {"column": "a", "min_value": 0, "parse_strings_as_datetimes": True},
        {
            "column": "a",
            "min_value": 0,
            "row_condition": 'col("b") > 1',
            "condition_parser": "great_expectations",
        },
        {"column": "a"},
    ],
)
def test_scan_leaves_to_great_expectations_what_it_does_not_know(
    conn: Connection, kwargs: dict[str, Any]
) -> None:
    conn.execute("create table raw.dice as select 1 as a, 2 as b")
    between = parse_expectation({"type": "expect_column_values_to_be_between", "kwargs": kwargs})
    assert evaluate_by_sql(conn, QUERY, [between], lambda _: True) == []
