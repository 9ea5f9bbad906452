"""Compare a sample of the training set with the rows that scoring reads, bit by bit."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.signature import encode
from nightshift.training.feature_query import select_rows
from nightshift.training.splits import evenly_spaced, rows_between
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.models.arrays import Integers, Mask, Matrix
    from nightshift.registry.promotion_context import PromotionContext

DAY_ROWS = 1_000
"""Maximum number of rows of a day that are compared, evenly spaced."""


def compare_features(context: PromotionContext) -> tuple[int, Mask]:
    """Compare the first and last day of the fit, and the last day of the hold-out.

    Scoring's side is read from the loads that the training set's manifest names.

    Returns:
        The number of sampled rows that scoring does not read, and whether the bits of each value of
            the other sampled rows differ; shape (rows, features).
    """
    load_ids = {
        dt.date.fromisoformat(load["partition"]): int(load["load_id"])
        for load in context.manifest["partitions"]
    }
    # Three days find a view that was changed and rebuilt in a part of the window. The last days of
    # a weekly model have no rows, so the last ones with rows are taken.
    fit_days = context.fit_rows.column("partition_date")
    last_day = context.all_rows.column("partition_date")[-1]
    days = dict.fromkeys(day.as_py() for day in (fit_days[0], fit_days[-1], last_day))
    n_missing = 0
    parts = []
    for day in days:
        if day in load_ids:
            n_missing_rows, is_different = _compare_day(context, day, load_ids[day])
            n_missing += n_missing_rows
            parts.append(is_different)
    return n_missing, np.concatenate(parts)


def _compare_day(context: PromotionContext, day: dt.date, load_id: int) -> tuple[int, Mask]:
    """Return how many sampled rows are missing, and which values differ; shape (rows, features)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    signature = context.trained.signature
    trained = evenly_spaced(rows_between(context.all_rows, day, day), DAY_ROWS)
    keys = trained.column(context.spec.entity.key)
    served = _read_as_scoring(context, day, load_id, keys.to_pylist())
    served_keys = served.column(context.spec.entity.key).cast(pa.string())
    # The two sides may be ordered by different collations, so rows are matched by key.
    position = pc.index_in(keys.cast(pa.string()), value_set=served_keys.combine_chunks())
    common = trained.filter(pc.is_valid(position))
    served = served.take(pc.drop_null(position).cast(pa.int64()))
    trained_bits = _bits(encode(common, signature))
    served_bits = _bits(encode(served, signature))
    is_different = np.asarray(trained_bits != served_bits)
    return trained.num_rows - common.num_rows, is_different


def _read_as_scoring(
    context: PromotionContext, day: dt.date, load_id: int, keys: list[str]
) -> pa.Table:
    from psycopg import sql

    condition = sql.SQL("partition_date = {}::date and load_id = {} and {} = any({})").format(
        sql.Literal(day),
        sql.Literal(load_id),
        sql.Identifier(context.spec.entity.key),
        sql.Literal(keys),
    )
    query = select_rows(context.spec, context.trained.signature.names, condition)
    return read_arrow(context.settings, query)


def _bits(values: Matrix) -> Integers:
    """Return the bits of numbers; all missing values have the same."""
    # NaN has many bit patterns; 0.0 and -0.0 stay different.
    return np.where(np.isnan(values), np.nan, values).view(np.int64)
