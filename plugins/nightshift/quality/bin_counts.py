"""One-scan SQL profiles: how the rows of each partition of a relation spread over given bins and levels."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import sql

    from nightshift.warehouse.connection import Connection

_BOOLEAN_OID = 16
"""Type of a boolean; it has no cast to a double. Source: PostgreSQL, pg_type.dat."""


@dataclass(frozen=True)
class NumericColumn:
    """A number and the inner edges of its bins, ``[edge, next edge)``, rising; no edge gives one bin."""

    name: str
    edges: tuple[float, ...]


@dataclass(frozen=True)
class CategoricalColumn:
    """A text and its known levels."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class ColumnProfile:
    """How one column of one partition spreads.

    Attributes:
        n_rows: All rows.
        n_missing: Rows that are null or NaN.
        counts: Rows per bin (edges + 1), or per level in the column's order and then all other levels.
        mean: Mean of the numbers; None without any.
        std: Standard deviation of the numbers, divided by n; None without any.
    """

    n_rows: int
    n_missing: int
    counts: tuple[int, ...]
    mean: float | None
    std: float | None

    @property
    def missing_share(self) -> float:
        """Return the share of missing rows, 0 to 1."""
        return self.n_missing / self.n_rows


def profile(
    conn: Connection, relation: sql.Composable, numeric: Sequence[NumericColumn], categorical: Sequence[CategoricalColumn]
) -> dict[dt.date, dict[str, ColumnProfile]]:
    """Profile all rows of a relation, each partition on its own, in one scan.

    Sums are exact decimals, so that the order of the rows changes no bit of the result.

    Args:
        conn: Any connection.
        relation: What follows ``from``, with the alias ``t``; it has ``partition_date``.
        numeric: Columns that are numbers.
        categorical: Columns that are texts.

    Returns:
        Profile by partition and column; a partition without rows is absent.
    """
    rows_by_column: dict[tuple[dt.date, str], list[tuple[Any, ...]]] = defaultdict(list)
    for day, name, *cell in conn.execute(_query(relation, numeric, categorical, _boolean_columns(conn, relation))):
        rows_by_column[day, name].append(tuple(cell))
    sizes = {column.name: len(column.edges) + 1 for column in numeric} | {column.name: len(column.levels) + 1 for column in categorical}
    profiles: dict[dt.date, dict[str, ColumnProfile]] = defaultdict(dict)
    for (day, name), cells in sorted(rows_by_column.items()):
        profiles[day][name] = _summarise(cells, sizes[name])
    return dict(profiles)


def _query(
    relation: sql.Composable, numeric: Sequence[NumericColumn], categorical: Sequence[CategoricalColumn], booleans: set[str]
) -> sql.Composed:
    """Turn each row into one row per column with its bin, then count; the number of columns is free, as a select list's is not."""
    from psycopg import sql

    cells = [_numeric_cell(column, is_boolean=column.name in booleans) for column in numeric]
    cells += [_categorical_cell(column) for column in categorical]
    return sql.SQL(
        """
        select t.partition_date, c.name, c.bin, count(*), sum(c.value::numeric), sum(c.value::numeric * c.value::numeric)
        from {relation} cross join lateral (values {cells}) c (name, bin, value)
        group by t.partition_date, c.name, c.bin
        """
    ).format(relation=relation, cells=sql.SQL(", ").join(cells))


def _numeric_cell(column: NumericColumn, *, is_boolean: bool) -> sql.Composed:
    from psycopg import sql

    cast = "t.{}::integer::float8" if is_boolean else "nullif(t.{}::float8, 'NaN')"
    place = "width_bucket({value}, {edges}::float8[])" if column.edges else "case when {value} is not null then 0 end"
    return sql.SQL("({name}, " + place + ", {value})").format(
        name=sql.Literal(column.name), value=sql.SQL(cast).format(sql.Identifier(column.name)), edges=sql.Literal(list(column.edges))
    )


def _categorical_cell(column: CategoricalColumn) -> sql.Composed:
    from psycopg import sql

    return sql.SQL(
        "({name}, case when t.{column} is not null then coalesce(array_position({levels}::text[], t.{column}) - 1, {n}) end, null::float8)"
    ).format(
        name=sql.Literal(column.name),
        column=sql.Identifier(column.name),
        levels=sql.Literal(list(column.levels)),
        n=sql.Literal(len(column.levels)),
    )


def _boolean_columns(conn: Connection, relation: sql.Composable) -> set[str]:
    from psycopg import sql

    described = conn.execute(sql.SQL("select t.* from {} limit 0").format(relation)).description or []
    return {column.name for column in described if column.type_code == _BOOLEAN_OID}


def _summarise(cells: list[tuple[Any, ...]], n_bins: int) -> ColumnProfile:
    counts = [0] * n_bins
    n_missing = 0
    has_numbers = False
    total = squares = Decimal(0)
    for place, n, value_sum, square_sum in cells:
        if place is None:
            n_missing = n
            continue
        counts[place] = n
        has_numbers = has_numbers or value_sum is not None
        total, squares = total + (value_sum or 0), squares + (square_sum or 0)
    n_known = sum(counts)
    mean = total / n_known if has_numbers else None
    variance = max(squares / n_known - mean * mean, Decimal(0)) if mean is not None else None
    return ColumnProfile(
        n_rows=n_known + n_missing,
        n_missing=n_missing,
        counts=tuple(counts),
        mean=None if mean is None else float(mean),
        std=None if variance is None else float(variance.sqrt()),
    )
