"""Rebuild a sample of the training set's rows as scoring reads them, and compare every value bit by bit."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.models.signature import encode
from nightshift.training.feature_query import select_rows
from nightshift.training.splits import rows_between
from nightshift.warehouse.fast_io.arrow_io import read_arrow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.registry.promotion_context import PromotionContext

SAMPLE_DAYS = 3
DAY_ROWS = 1_000
"""Rows of a day that are compared at most, evenly spaced."""


@dataclass(frozen=True)
class Agreement:
    """What a comparison found.

    Attributes:
        n_rows: Rows found on both sides.
        n_missing: Sampled rows of the training set that scoring does not read.
        n_values: Values compared.
        n_differing: Values whose bits differ.
        columns: Features with such a value.
    """

    n_rows: int
    n_missing: int
    n_values: int
    n_differing: int
    columns: tuple[str, ...]


def compare_features(case: PromotionContext) -> Agreement:
    """Compare the first and the last day of the fit and the last day of the comparison, from the loads that the training set names."""
    import numpy as np

    loads = {
        dt.date.fromisoformat(part["partition"]): int(part["load_id"])
        for part in case.manifest["partitions"]
    }
    days = [
        case.fit_rows.column("partition_date")[0].as_py(),
        case.challenger.fit_end,
        case.split.holdout.last.day,
    ]
    parts = [_compare_day(case, day, loads[day]) for day in dict.fromkeys(days) if day in loads]
    names, differs = case.trained.signature.names, np.concatenate([differs for _, differs in parts])
    return Agreement(
        n_rows=differs.shape[0],
        n_missing=sum(n_missing for n_missing, _ in parts),
        n_values=differs.size,
        n_differing=int(differs.sum()),
        columns=tuple(name for name, column in zip(names, differs.T, strict=True) if column.any()),
    )


def _compare_day(
    case: PromotionContext, day: dt.date, load_id: int
) -> tuple[int, npt.NDArray[np.bool_]]:
    """Return how many sampled rows are missing, and which values differ; shape (rows, features)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    key, signature = case.spec.entity.key, case.trained.signature
    trained = rows_between(case.all_rows, day, day)
    trained = trained.take(
        np.unique(np.linspace(0, trained.num_rows - 1, DAY_ROWS).astype(np.int64))
    )
    served = _read(case, day, load_id, trained.column(key).to_pylist())
    place = pc.index_in(
        trained.column(key).cast(pa.string()),
        value_set=served.column(key).cast(pa.string()).combine_chunks(),
    )
    both, other = (
        trained.filter(pc.is_valid(place)),
        served.take(pc.drop_null(place).cast(pa.int64())),
    )
    return trained.num_rows - both.num_rows, _differing(
        encode(both, signature), encode(other, signature)
    )


def _read(case: PromotionContext, day: dt.date, load_id: int, keys: list[str]) -> pa.Table:
    from psycopg import sql

    condition = sql.SQL("partition_date = {}::date and load_id = {} and {} = any({})").format(
        sql.Literal(day),
        sql.Literal(load_id),
        sql.Identifier(case.spec.entity.key),
        sql.Literal(keys),
    )
    return read_arrow(
        case.settings, select_rows(case.spec, case.trained.signature.names, condition)
    )


def _differing(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Return where the bits differ; all missing values have the same."""
    import numpy as np

    bits = [np.where(np.isnan(values), np.nan, values).view(np.int64) for values in (first, second)]
    return np.asarray(bits[0] != bits[1])
