"""Read the summaries of profiled loads, and how their columns compare, without their sketches."""

from __future__ import annotations

import datetime as dt
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nightshift.quality.column_order import ColumnOrder
from nightshift.quality.column_summary import ColumnSummary, summarize
from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.quality.sketches.text_sketch import TextSketch

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

    Profile = Mapping[str, ColumnSummary]


def read_summaries(
    conn: Connection, dataset: str, loads: Mapping[dt.date, int]
) -> dict[dt.date, Profile]:
    """Return the stored summaries of some loads by day, rising.

    Loads without a profile are left out.

    Args:
        conn: Any connection.
        dataset: Name in the ledger.
        loads: Load id by day.
    """
    rows = conn.execute(
        """
        select partition_date, column_name, n_rows, n_missing, n_distinct, mean, std, minimum,
            maximum, quantiles, zero_share, levels, hashes,
            case when hashes is null then sketch end, kind
        from monitoring.profiles
            join unnest(%s::date[], %s::bigint[]) requested (partition_date, load_id)
            using (partition_date, load_id)
        where dataset = %s order by partition_date, place
        """,
        [list(loads), list(loads.values()), dataset],
    )
    profiles: dict[dt.date, dict[str, ColumnSummary]] = {}
    for day, name, *stored, hashes, sketch, sketch_type in rows:
        n_rows, n_missing, n_distinct, mean, std, low, high, quantiles, zero_share, levels = stored
        if sketch is not None:
            # Stored by a release that kept only the sketch, which has everything.
            summary = _from_sketch(sketch, sketch_type, n_rows, n_missing, low, high)
        else:
            summary = ColumnSummary(
                n_rows,
                n_missing,
                n_distinct,
                mean,
                std,
                low,
                high,
                tuple(quantiles),
                zero_share,
                levels,
                np.frombuffer(hashes, "<u8").astype(np.uint64),
            )
        profiles.setdefault(day, {})[name] = summary
    return dict(profiles)


def _from_sketch(
    data: bytes,
    sketch_type: str,
    n_rows: int,
    n_missing: int,
    low: float | None,
    high: float | None,
) -> ColumnSummary:
    if sketch_type == NumberSketch.type:
        return summarize(NumberSketch.from_bytes(data, n_rows, n_missing, low, high))
    return summarize(TextSketch.from_bytes(data, n_rows, n_missing))


def ordered_days(conn: Connection, dataset: str, loads: Mapping[dt.date, int]) -> set[dt.date]:
    """Return the days whose load was scanned for monitoring: its summaries and its order stand."""
    rows = conn.execute(
        """
        select partition_date from monitoring.column_orders
            join unnest(%s::date[], %s::bigint[]) requested (partition_date, load_id)
            using (partition_date, load_id)
        where dataset = %s
        """,
        [list(loads), list(loads.values()), dataset],
    )
    return {day for (day,) in rows}


def read_orders(
    conn: Connection, dataset: str, loads: Mapping[dt.date, int]
) -> dict[dt.date, ColumnOrder]:
    """Return how the columns of some loads compare, by day; others are left out."""
    rows = conn.execute(
        """
        select partition_date, columns, above from monitoring.column_orders
            join unnest(%s::date[], %s::bigint[]) requested (partition_date, load_id)
            using (partition_date, load_id)
        where dataset = %s order by partition_date
        """,
        [list(loads), list(loads.values()), dataset],
    )
    orders = {}
    for day, columns, data in rows:
        shares = np.frombuffer(zlib.decompress(data), "<f4").astype(np.float64)
        orders[day] = ColumnOrder(tuple(columns), shares.reshape(len(columns), len(columns)))
    return orders


def keep_order(
    conn: Connection, dataset: str, day: dt.date, load_id: int, order: ColumnOrder
) -> None:
    """Store how the columns of a load compare; what is stored already stays."""
    data = zlib.compress(order.above.astype("<f4").tobytes(), 1)
    conn.execute(
        """
        insert into monitoring.column_orders (dataset, partition_date, load_id, columns, above)
        values (%s, %s, %s, %s, %s) on conflict do nothing
        """,
        [dataset, day, load_id, list(order.columns), data],
    )
