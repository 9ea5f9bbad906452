"""Order relations that the training partitions never broke, and pairs of columns that break one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from nightshift.monitoring.columns.night_series import Series, SeriesTable

if TYPE_CHECKING:
    from nightshift.quality.column_order import ColumnOrder

MIN_NIGHTS = 14
"""Partitions below which nothing never happens. Two weeks show each weekday twice."""
BROKEN_ORDER = 0.02
"""Share of the rows in which a relation that always held must be broken."""
MIN_CROSSING = 0.05
"""Share of the pairs of different nights in which a relation would be broken by chance."""


def learn_orders(
    table: SeriesTable, orders: Mapping[dt.date, ColumnOrder]
) -> frozenset[tuple[str, str]]:
    """Return the pairs of columns of which the first was never above the second.

    Args:
        table: The training partitions.
        orders: How their columns compare row by row.
    """
    if len(orders) < MIN_NIGHTS:
        return frozenset()
    # All loads of a view have the same columns of numbers, in the same order.
    columns = next(iter(orders.values())).columns
    above = np.array([order.above for order in orders.values()])
    is_seen = np.sum(~np.isnan(above), axis=0) >= MIN_NIGHTS
    # One row that breaks it is enough: a relation by nature has no exception.
    never = is_seen & (np.nan_to_num(above).max(axis=0) == 0.0)
    np.fill_diagonal(
        never,
        val=False,
    )
    pairs = []
    for first, second in np.argwhere(never):
        pair = columns[first], columns[second]
        if not all(Series(name, "mean") in table.index for name in pair):
            continue
        # A minute of the day is above a delay rate on every night: that is no relation.
        if _crossing_share(table, *pair) >= MIN_CROSSING:
            pairs.append(pair)
    return frozenset(pairs)


def _crossing_share(table: SeriesTable, first: str, second: str) -> float:
    """Return in how many pairs of different partitions the first mean is above the second."""
    # Nights are crossed with each other, so that the day that both share does not count.
    means = []
    for column in (first, second):
        values = table.values[: table.n_reference, table.index[Series(column, "mean")]]
        means.append(values[~np.isnan(values)])
    if not means[0].size or not means[1].size:
        return 0.0
    return float(np.mean(means[0][:, np.newaxis] > means[1]))


def broken_pairs(
    relations: Collection[tuple[str, str]], order: ColumnOrder | None
) -> Iterator[tuple[str, str, float]]:
    """Yield the pairs of which the first is above the second, with the share of the rows."""
    if order is None:
        return
    positions = {name: index for index, name in enumerate(order.columns)}
    for first, second in sorted(relations):
        if first in positions and second in positions:
            share = float(order.above[positions[first], positions[second]])
            if share >= BROKEN_ORDER:
                yield first, second, share
