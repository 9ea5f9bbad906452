"""Evaluate the common expectations of a suite in one scan of the batch, for loads on which a query each takes minutes.

What passes here has passed. Whatever does not, or is of another kind, is left to Great
Expectations, which has the last word and the words. Source: docs/adr/0025-large-loads.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection

ROW_COUNT, TOGETHER = "expect_table_row_count_to_be_between", "expect_compound_columns_to_be_unique"
NOT_NULL, BETWEEN = "expect_column_values_to_not_be_null", "expect_column_values_to_be_between"
IN_SET, PATTERN = "expect_column_values_to_be_in_set", "expect_column_values_to_match_regex"
A_OVER_B = "expect_column_pair_values_a_to_be_greater_than_b"
ARGUMENTS = {
    ROW_COUNT: frozenset({"min_value", "max_value"}),
    TOGETHER: frozenset({"column_list"}),
    NOT_NULL: frozenset({"column"}),
    BETWEEN: frozenset({"column", "min_value", "max_value", "strict_min", "strict_max"}),
    IN_SET: frozenset({"column", "value_set"}),
    PATTERN: frozenset({"column", "regex"}),
    A_OVER_B: frozenset({"column_A", "column_B", "or_equal"}),
}
"""The kinds that are counted, and what is known of each beside ``mostly`` and a condition."""
_WRITTEN_CONDITION = re.compile(r'col\("([a-z_][a-z0-9_]*)"\) (==|!=) "([a-zA-Z0-9_ -]*)"')


@dataclass(frozen=True)
class _Counted:
    """One expectation as two counts.

    Attributes:
        n_considered: SQL aggregate, the rows that it is about.
        n_unexpected: SQL aggregate, those of them that break it.
        minimum, maximum: Allowed number of considered rows.
        mostly: Share of the considered rows that must meet it, 0 to 1.
    """

    n_considered: sql.Composable
    n_unexpected: sql.Composable
    minimum: float | None = None
    maximum: float | None = None
    mostly: float = 1.0

    def passes(self, n_considered: int, n_unexpected: int) -> bool:
        """Return whether the counts meet it."""
        return has_number(n_considered, self.minimum, self.maximum) and has_share(
            n_considered, n_unexpected, self.mostly
        )


def has_number(n_considered: int, minimum: float | None, maximum: float | None) -> bool:
    """Return whether so many rows are neither too few nor too many."""
    return (minimum is None or n_considered >= minimum) and (
        maximum is None or n_considered <= maximum
    )


def has_share(n_considered: int, n_unexpected: int, mostly: float) -> bool:
    """Return whether enough of the rows meet an expectation; nothing to consider is nothing unexpected."""
    return n_considered == 0 or (n_considered - n_unexpected) / n_considered >= mostly


def _count(*conditions: sql.Composable | None) -> sql.Composable:
    """Return an aggregate, the rows that meet all of these."""
    from psycopg import sql

    given = [sql.SQL("({})").format(condition) for condition in conditions if condition is not None]
    return (
        sql.SQL("count(*) filter (where {})").format(sql.SQL(" and ").join(given))
        if given
        else sql.SQL("count(*)")
    )


def _filtered(
    considered: Sequence[sql.Composable | None], breaks: sql.Composable, mostly: float
) -> _Counted:
    return _Counted(_count(*considered), _count(*considered, breaks), mostly=mostly)


def passed_in_one_scan(
    conn: Connection,
    query: sql.Composable,
    expectations: Sequence[Mapping[str, Any]],
    is_unique: Callable[[Sequence[str]], bool],
) -> dict[int, dict[str, Any]]:
    """Return the results of the expectations that the batch certainly meets, by their place; the others are not in it.

    Args:
        conn: A connection of the warehouse.
        query: Selects the batch.
        expectations: In Great Expectations' JSON: ``type``, ``kwargs``.
        is_unique: Whether it is known that these columns are unique within the batch: then nobody
            needs to count.
    """
    from psycopg import sql

    counted = {
        place: found
        for place, one in enumerate(expectations)
        if (found := _counted(one, is_unique)) is not None
    }
    if not counted:
        return {}
    counts = [
        sql.SQL("{}, {}").format(one.n_considered, one.n_unexpected) for one in counted.values()
    ]
    row = conn.execute(
        sql.SQL("select {} from ({}) batch").format(sql.SQL(", ").join(counts), query)
    ).fetchone()
    pairs = zip(row[::2], row[1::2], strict=True) if row else ()
    return {
        place: result_of(expectations[place], n_considered, n_unexpected, "one scan")
        for (place, one), (n_considered, n_unexpected) in zip(counted.items(), pairs, strict=True)
        if one.passes(n_considered, n_unexpected)
    }


def knows(expectations: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether each of these, and at least one, is of a kind that one scan can judge."""
    return bool(expectations) and all(
        _counted(one, lambda _: True) is not None for one in expectations
    )


def result_of(
    expectation: Mapping[str, Any], n_considered: int, n_unexpected: int, by: str
) -> dict[str, Any]:
    """Return the result in the form of Great Expectations; ``by`` says who has counted."""
    measured: dict[str, Any] = (
        {"observed_value": n_considered}
        if expectation["type"] == ROW_COUNT
        else {
            "element_count": n_considered,
            "unexpected_count": n_unexpected,
            "unexpected_percent": 100.0 * n_unexpected / n_considered if n_considered else 0.0,
        }
    )
    return {
        "success": True,
        "expectation_config": dict(expectation),
        "result": measured,
        "exception_info": {},
        "meta": {"by": by},
    }


def _counted(
    expectation: Mapping[str, Any], is_unique: Callable[[Sequence[str]], bool]
) -> _Counted | None:
    """Return an expectation as counts; None for what only Great Expectations can judge."""
    kind, given = expectation["type"], dict(expectation["kwargs"])
    restriction = given.pop("row_condition", None)
    condition = _row_condition(restriction, given.pop("condition_parser", None))
    mostly = given.pop("mostly", 1.0)
    if (restriction is not None and condition is None) or not isinstance(mostly, int | float):
        return None
    if kind not in ARGUMENTS or set(given) - ARGUMENTS[kind]:
        return None
    if kind == TOGETHER:
        return (
            _unique_together(
                given["column_list"], condition, is_known=is_unique(given["column_list"])
            )
            if mostly == 1
            else None
        )
    return _BUILD[kind](given, condition, float(mostly))


def _row_condition(given: object, parser: object) -> sql.Composable | None:
    """Return a comparison of a column with a text, as suites write it or as Great Expectations parses that; None for any other."""
    from psycopg import sql

    if (
        isinstance(given, str)
        and (written := _WRITTEN_CONDITION.fullmatch(given))
        and parser == "great_expectations"
    ):
        column, sign, value = written.groups()
        return sql.SQL("{} {} {}").format(
            sql.Identifier(column), sql.SQL("=" if sign == "==" else "<>"), sql.Literal(value)
        )
    match given:
        case {
            "type": "comparison",
            "column": {"name": str(column)},
            "operator": "==" | "!=" as operator,
            "parameter": str(value),
            **rest,
        }:
            is_known = not rest and parser == "great_expectations"
            sign = sql.SQL("=" if operator == "==" else "<>")
            return (
                sql.SQL("{} {} {}").format(sql.Identifier(column), sign, sql.Literal(value))
                if is_known
                else None
            )
    return None


def _unique_together(
    columns: Sequence[str], condition: sql.Composable | None, *, is_known: bool
) -> _Counted:
    """Compare the rows by hashes of 64 bits; where two agree by chance, Great Expectations says that they differ."""
    from psycopg import sql

    considered = _count(condition)
    if is_known:
        return _Counted(considered, sql.SQL("0"))
    values = sql.SQL(", ").join(map(sql.Identifier, columns))
    distinct = sql.SQL("count(distinct hash_record_extended(row({}), 0)) filter (where {})").format(
        values, condition or sql.SQL("true")
    )
    return _Counted(considered, sql.SQL("{} - {}").format(considered, distinct))


def _row_count(
    given: dict[str, Any], condition: sql.Composable | None, _: float
) -> _Counted | None:
    from psycopg import sql

    minimum, maximum = given.get("min_value"), given.get("max_value")
    if not are_numbers(minimum, maximum):
        return None
    return _Counted(_count(condition), sql.SQL("0"), minimum, maximum)


def _not_null(given: dict[str, Any], condition: sql.Composable | None, mostly: float) -> _Counted:
    from psycopg import sql

    return _filtered(
        [condition], sql.SQL("{} is null").format(sql.Identifier(given["column"])), mostly
    )


def _values(
    given: dict[str, Any], condition: sql.Composable | None, mostly: float, holds: sql.Composable
) -> _Counted:
    """Count the values that are not null; a comparison that gives null is counted as broken."""
    from psycopg import sql

    is_there = sql.SQL("{} is not null").format(sql.Identifier(given["column"]))
    return _filtered([condition, is_there], sql.SQL("({}) is not true").format(holds), mostly)


def _between(
    given: dict[str, Any], condition: sql.Composable | None, mostly: float
) -> _Counted | None:
    from psycopg import sql

    minimum, maximum = given.get("min_value"), given.get("max_value")
    if not are_numbers(minimum, maximum):
        return None
    sides = [
        (minimum, ">" if given.get("strict_min") else ">="),
        (maximum, "<" if given.get("strict_max") else "<="),
    ]
    holds = [
        sql.SQL("{} " + operator + " {}").format(
            sql.Identifier(given["column"]), sql.Literal(limit)
        )
        for limit, operator in sides
        if limit is not None
    ]
    return _values(given, condition, mostly, sql.SQL(" and ").join(holds)) if holds else None


def _in_set(
    given: dict[str, Any], condition: sql.Composable | None, mostly: float
) -> _Counted | None:
    from psycopg import sql

    allowed = given.get("value_set")
    if (
        not isinstance(allowed, list)
        or not allowed
        or not all(isinstance(value, str) for value in allowed)
    ):
        return None
    return _values(
        given,
        condition,
        mostly,
        sql.SQL("{}::text = any({})").format(sql.Identifier(given["column"]), sql.Literal(allowed)),
    )


def _regex(
    given: dict[str, Any], condition: sql.Composable | None, mostly: float
) -> _Counted | None:
    from psycopg import sql

    if not isinstance(given.get("regex"), str):
        return None
    return _values(
        given,
        condition,
        mostly,
        sql.SQL("{} ~ {}").format(sql.Identifier(given["column"]), sql.Literal(given["regex"])),
    )


def _a_over_b(given: dict[str, Any], condition: sql.Composable | None, mostly: float) -> _Counted:
    """Rows in which one of both is missing are left to Great Expectations."""
    from psycopg import sql

    a, b = sql.Identifier(given["column_A"]), sql.Identifier(given["column_B"])
    is_there = sql.SQL("num_nonnulls({}, {}) > 0").format(a, b)
    holds = sql.SQL("{} " + (">=" if given.get("or_equal") else ">") + " {}").format(a, b)
    return _filtered([condition, is_there], sql.SQL("({}) is not true").format(holds), mostly)


def are_numbers(*values: object) -> bool:
    """Return whether these are numbers, or absent."""
    return all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        for value in values
    )


_BUILD: dict[str, Callable[[dict[str, Any], Any, float], _Counted | None]] = {
    ROW_COUNT: _row_count,
    NOT_NULL: _not_null,
    BETWEEN: _between,
    IN_SET: _in_set,
    PATTERN: _regex,
    A_OVER_B: _a_over_b,
}
