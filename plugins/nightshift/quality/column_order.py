"""Order relations between columns: in which rows one number is greater than another.

A dew point is never above the temperature, and the minimum of six hours never above the last hour.
Such relations hold in all rows, so they are learnt from rows, and a night that breaks them is
broken whatever the weather was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Doubles = npt.NDArray[np.float64]

MAX_COMPARISONS = 10_000_000
"""So many pairs of numbers are compared in a partition: 2,000 rows of 70 columns, 10 ms."""
MIN_ROWS = 200
SAME = 1e-9
"""Share of the larger number up to which two numbers count as equal: sums in another order."""


@dataclass(frozen=True)
class ColumnOrder:
    """How often each column is above each other one.

    Attributes:
        columns: Columns of numbers, k of them.
        above: Share of the compared rows in which the first is above the second; NaN without rows
            that have both. Shape (k, k).
    """

    columns: tuple[str, ...]
    above: Doubles


class OrderCounter:
    """Compares all columns of numbers over the first rows of a scan."""

    def __init__(self) -> None:
        self.columns: tuple[str, ...] = ()
        self._n_left = 0
        self._above = np.zeros((0, 0), np.int64)
        self._n_known = np.zeros((0, 0), np.int64)

    def add(self, batch: pa.RecordBatch) -> None:
        """Compare the rows of a batch, until enough rows were compared."""
        import pyarrow as pa

        if not self.columns:
            is_number = pa.types.is_float64
            self.columns = tuple(column.name for column in batch.schema if is_number(column.type))
            n_pairs = len(self.columns) ** 2
            self._n_left = max(MIN_ROWS, MAX_COMPARISONS // max(n_pairs, 1))
            self._above = np.zeros((len(self.columns), len(self.columns)), np.int64)
            self._n_known = np.zeros_like(self._above)
        part = batch.slice(0, self._n_left)
        if not part.num_rows or not self.columns:
            return
        self._n_left -= part.num_rows
        rows = [part.column(name).to_numpy(zero_copy_only=False) for name in self.columns]
        matrix = np.array(rows, np.float64)
        known = ~np.isnan(matrix)
        with np.errstate(invalid="ignore"):
            lowered = matrix - SAME * np.abs(matrix)
            for index in range(len(self.columns)):
                # NaN compares as False, so only rows that have both numbers count.
                self._above[index] += (lowered[index] > matrix).sum(axis=1)
                self._n_known[index] += (known & known[index]).sum(axis=1)

    def order(self) -> ColumnOrder:
        """Return what was counted."""
        with np.errstate(invalid="ignore"):
            above = self._above / np.where(self._n_known > 0, self._n_known, np.nan)
        return ColumnOrder(self.columns, above)
