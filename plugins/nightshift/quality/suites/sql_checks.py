"""Evaluate expectations by SQL aggregates: one scan of the batch answers all of them.

A query for each expectation takes minutes on a large load. Only a pass is final here: failures and
unsupported expectations are re-run by Great Expectations, which writes the result that people see.
Source: docs/adr/0025-large-loads.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from nightshift.quality.suites.check_results import PassedCheck
from nightshift.quality.suites.suite import (
    Between,
    Expectation,
    InSet,
    MatchesRegex,
    NotNull,
    PairGreater,
    RowCondition,
    UniqueTogether,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nightshift.warehouse.connection import Connection

    IsUnique = Callable[[Sequence[str]], bool]

EVALUATOR = "one scan"


def evaluate_by_sql(
    conn: Connection,
    batch: sql.Composable,
    expectations: Sequence[Expectation],
    is_unique: IsUnique,
) -> list[PassedCheck]:
    """Return the supported expectations that the batch certainly meets.

    Args:
        conn: Warehouse connection.
        batch: Query that selects the rows to check.
        expectations: Parsed expectations.
        is_unique: Whether some columns are known to be unique within the batch, so that nothing
            need be counted.
    """
    supported = [expectation for expectation in expectations if expectation.rule]
    if not supported:
        return []

    columns: list[sql.Composable] = []
    for expectation in supported:
        columns += _count_columns(expectation, is_unique)
    query = sql.SQL("select {} from ({}) batch").format(sql.SQL(", ").join(columns), batch)
    counts = conn.execute(query).fetchone() or ()
    passed = []
    for expectation, n_considered, n_unexpected in zip(
        supported, counts[0::2], counts[1::2], strict=True
    ):
        if expectation.is_met(n_considered, n_unexpected):
            passed.append(PassedCheck(expectation, n_considered, n_unexpected, EVALUATOR))
    return passed


def _count_columns(
    expectation: Expectation, is_unique: IsUnique
) -> tuple[sql.Composable, sql.Composable]:
    """Return two aggregates: the considered rows, and the unexpected ones among them."""
    condition = _condition(expectation.condition)
    match expectation.rule:
        case UniqueTogether(columns=columns) if not is_unique(columns):
            return _count(condition), _count_repeated(columns, condition)
        case NotNull(column=column):
            is_null = sql.SQL("{} is null").format(sql.Identifier(column))
            return _count(condition), _count(condition, is_null)
        case PairGreater() as pair:
            return _count_pairs(pair, condition)
        case Between() | InSet() | MatchesRegex() as rule:
            column_sql = sql.Identifier(rule.column)
            is_present = sql.SQL("{} is not null").format(column_sql)
            # A comparison that gives null is counted as unexpected.
            is_unexpected = sql.SQL("({}) is not true").format(_comparison(rule, column_sql))
            return _count(condition, is_present), _count(condition, is_present, is_unexpected)
    # A number of rows, or columns that an index or the load's audit keeps unique.
    return _count(condition), sql.SQL("0")


def _count_repeated(columns: Sequence[str], condition: sql.Composable | None) -> sql.Composable:
    """Return the aggregate of rows whose columns repeat those of another row.

    Rows are compared by hashes of 64 bits. Where two agree by chance, the expectation does not
    pass, and Great Expectations finds that the rows differ.
    """
    values = sql.SQL(", ").join(map(sql.Identifier, columns))
    distinct = sql.SQL("count(distinct hash_record_extended(row({}), 0)) filter (where {})")
    n_distinct = distinct.format(values, condition or sql.SQL("true"))
    return sql.SQL("{} - {}").format(_count(condition), n_distinct)


def _count_pairs(
    pair: PairGreater, condition: sql.Composable | None
) -> tuple[sql.Composable, sql.Composable]:
    a, b = sql.Identifier(pair.column_a), sql.Identifier(pair.column_b)
    # A row in which one value is missing is unexpected: Great Expectations decides about it.
    is_present = sql.SQL("num_nonnulls({}, {}) > 0").format(a, b)
    operator = sql.SQL(">=" if pair.or_equal else ">")
    is_unexpected = sql.SQL("({} {} {}) is not true").format(a, operator, b)
    return _count(condition, is_present), _count(condition, is_present, is_unexpected)


def _comparison(rule: Between | InSet | MatchesRegex, column: sql.Identifier) -> sql.Composable:
    match rule:
        case InSet(allowed=allowed):
            return sql.SQL("{}::text = any({})").format(column, sql.Literal(allowed))
        case MatchesRegex(pattern=pattern):
            return sql.SQL("{} ~ {}").format(column, sql.Literal(pattern))
    lower = (">" if rule.strict_min else ">=", rule.minimum)
    upper = ("<" if rule.strict_max else "<=", rule.maximum)
    sides = [
        sql.SQL("{} {} {}").format(column, sql.SQL(operator), sql.Literal(limit))
        for operator, limit in (lower, upper)
        if limit is not None
    ]
    return sql.SQL(" and ").join(sides)


def _condition(condition: RowCondition | None) -> sql.Composable | None:
    if condition is None:
        return None
    operator = sql.SQL("=" if condition.is_equal else "<>")
    column, value = sql.Identifier(condition.column), sql.Literal(condition.value)
    return sql.SQL("{} {} {}").format(column, operator, value)


def _count(*conditions: sql.Composable | None) -> sql.Composable:
    """Return the aggregate of the rows that meet all conditions; None is no condition."""
    filters = [sql.SQL("({})").format(each) for each in conditions if each is not None]
    if not filters:
        return sql.SQL("count(*)")
    return sql.SQL("count(*) filter (where {})").format(sql.SQL(" and ").join(filters))
