"""Count the common expectations of a suite on the rows of a stream, on their way into the stage: nobody has to scan them there again.

As in ``one_scan``, what is certain has passed, and all else is left to the scan and to Great
Expectations. Patterns are the warehouse's: it matches each distinct text once. Source:
docs/adr/0032-large-raw-loads.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import compute as pc

from nightshift.quality.suites.sql_checks import (
    A_OVER_B,
    ARGUMENTS,
    BETWEEN,
    IN_SET,
    NOT_NULL,
    PATTERN,
    ROW_COUNT,
    TOGETHER,
    are_numbers,
    has_number,
    has_share,
    result_of,
)

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

    Counted = tuple[int, int]
    """How many rows an expectation is about, and how many of them break it."""

_MOST_TEXTS = 1 << 14
"""Distinct texts of a column that are kept; a column with more is left to the scan."""
_EXACT_DOUBLES = 1 << 53
_BY = "passing rows"


class StreamingEvaluator:
    """Counts on tables that pass one by one.

    Args:
        expectations: In Great Expectations' JSON: ``type``, ``kwargs``.

    Attributes:
        n_rows: Rows that have passed.
    """

    def __init__(self, expectations: Sequence[Mapping[str, Any]]) -> None:
        self._expectations = expectations
        self._counts = {
            place: count
            for place, one in enumerate(expectations)
            if (count := _count_of(one)) is not None
        }
        self._counted = dict.fromkeys(self._counts, (0, 0))
        self._texts: dict[str, set[str]] = {
            column: set() for one in expectations if (column := _text_column(one)) is not None
        }
        self.n_rows = 0

    def add(self, rows: pa.Table) -> None:
        """Count some rows; an expectation that cannot be counted on them is not counted any more."""
        self.n_rows += rows.num_rows
        for place, count in list(self._counts.items()):
            try:
                n_considered, n_unexpected = count(rows)
            except (pa.ArrowException, KeyError):
                del self._counts[place]
            else:
                before = self._counted[place]
                self._counted[place] = before[0] + n_considered, before[1] + n_unexpected
        for column in list(self._texts):
            self._texts[column].update(
                rows.column(column).unique().drop_null().to_pylist()
                if column in rows.column_names
                else ()
            )
            if len(self._texts[column]) > _MOST_TEXTS:
                del self._texts[column]

    def passed(
        self, conn: Connection, is_unique: Callable[[Sequence[str]], bool]
    ) -> list[dict[str, Any]]:
        """Return the results of the expectations that the rows certainly meet; the others are not in it.

        Args:
            conn: A connection of the warehouse.
            is_unique: As of ``one_scan.passed_in_one_scan``.
        """
        return [
            result_of(one, *self._counted[place], _BY)
            for place, one in enumerate(self._expectations)
            if place in self._counts and self._is_met(conn, place, is_unique)
        ]

    def _is_met(
        self, conn: Connection, place: int, is_unique: Callable[[Sequence[str]], bool]
    ) -> bool:
        kind, given = self._expectations[place]["type"], self._expectations[place]["kwargs"]
        n_considered, n_unexpected = self._counted[place]
        if kind == ROW_COUNT:
            return has_number(n_considered, given.get("min_value"), given.get("max_value"))
        if not has_share(n_considered, n_unexpected, given.get("mostly", 1.0)):
            return False
        if kind == TOGETHER:
            return is_unique(given["column_list"])
        if (column := _text_column(self._expectations[place])) is None:
            return True
        if (texts := self._texts.get(column)) is None:
            return False
        return (
            _do_match(conn, texts, given["regex"])
            if kind == PATTERN
            else texts <= set(given["value_set"])
        )


def _do_match(conn: Connection, texts: set[str], pattern: str) -> bool:
    query = "select coalesce(bool_and(v ~ %s::text), true) from unnest(%s::text[]) v"
    return conn.execute(query, [pattern, sorted(texts)]).fetchone() == (True,)


def _text_column(expectation: Mapping[str, Any]) -> str | None:
    """Return the column whose distinct texts decide about an expectation; None for another kind."""
    kind, given = expectation["type"], expectation["kwargs"]
    return given.get("column") if kind in {PATTERN, IN_SET} else None


def _count_of(expectation: Mapping[str, Any]) -> Callable[[pa.Table], Counted] | None:
    """Return what counts an expectation on some rows; None for what only a scan can judge."""
    given = dict(expectation["kwargs"])
    mostly = given.pop("mostly", 1.0)
    kind = expectation["type"]
    if kind not in ARGUMENTS or given.keys() - ARGUMENTS[kind]:
        return None
    limits = [given[name] for name in ("min_value", "max_value") if given.get(name) is not None]
    has_names = all(
        isinstance(given[name], str) for name in given.keys() & {"column", "column_A", "column_B"}
    )
    if (
        not has_names
        or not are_numbers(mostly, *limits)
        or max(map(abs, limits), default=0) >= _EXACT_DOUBLES
    ):
        return None
    return _COUNT[kind](given) if mostly == 1 or kind != TOGETHER else None


def _of_all(_: Mapping[str, Any]) -> Callable[[pa.Table], Counted]:
    return lambda rows: (rows.num_rows, 0)


def _of_nulls(given: Mapping[str, Any]) -> Callable[[pa.Table], Counted]:
    return lambda rows: (rows.num_rows, rows.column(given["column"]).null_count)


def _of_texts(given: Mapping[str, Any]) -> Callable[[pa.Table], Counted] | None:
    """Count the texts; whether they are good ones their distinct ones say."""

    def count(rows: pa.Table) -> Counted:
        texts = rows.column(given["column"])
        if not pa.types.is_string(texts.type):
            raise KeyError(given["column"])
        return len(texts) - texts.null_count, 0

    return (
        count
        if all(isinstance(text, str) for text in given.get("value_set", [given.get("regex")]))
        else None
    )


def _of_range(given: Mapping[str, Any]) -> Callable[[pa.Table], Counted] | None:
    above = pc.greater if given.get("strict_min") else pc.greater_equal
    below = pc.less if given.get("strict_max") else pc.less_equal
    sides = [
        (compare, given.get(name)) for compare, name in ((above, "min_value"), (below, "max_value"))
    ]

    def count(rows: pa.Table) -> Counted:
        values = rows.column(given["column"])
        if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            raise KeyError(given["column"])
        n_values = len(values) - values.null_count
        return n_values, n_values - _n_true(
            [compare(values, limit) for compare, limit in sides if limit is not None]
        )

    return count if any(limit is not None for _, limit in sides) else None


def _of_pair(given: Mapping[str, Any]) -> Callable[[pa.Table], Counted]:
    return lambda rows: _a_over_b(
        rows.column(given["column_A"]),
        rows.column(given["column_B"]),
        or_equal=bool(given.get("or_equal")),
    )


def _a_over_b(a: pa.ChunkedArray, b: pa.ChunkedArray, *, or_equal: bool) -> Counted:
    kind = a.type
    if kind != b.type or not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    ):
        raise KeyError(str(kind))
    n_considered = len(a) - _n_true([a.is_null(), b.is_null()])
    return n_considered, n_considered - _n_true(
        [(pc.greater_equal if or_equal else pc.greater)(a, b)]
    )


def _n_true(conditions: Sequence[pa.ChunkedArray]) -> int:
    """Return how many rows meet all of these."""
    both = conditions[0] if len(conditions) == 1 else pc.and_(*conditions)
    return int(pc.sum(both).as_py() or 0)


_COUNT: dict[str, Callable[[Mapping[str, Any]], Callable[[pa.Table], Counted] | None]] = {
    ROW_COUNT: _of_all,
    TOGETHER: _of_all,
    PATTERN: _of_texts,
    IN_SET: _of_texts,
    NOT_NULL: _of_nulls,
    BETWEEN: _of_range,
    A_OVER_B: _of_pair,
}
