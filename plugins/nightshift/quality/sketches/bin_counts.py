"""Count rows exactly in given bins and levels, while they pass in the scan of a profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.quality.sketches.sketch import Sketch

    Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NumericColumn:
    """A column of numbers and the inner edges of its bins.

    Attributes:
        name: The column.
        edges: Rising; a bin includes its lower edge. No edge gives one bin.
    """

    name: str
    edges: tuple[float, ...]


@dataclass(frozen=True)
class CategoricalColumn:
    """A column of strings and its known levels."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class BinnedColumn:
    """How the rows of one column are distributed.

    Attributes:
        n_rows: All rows.
        n_missing: Rows that are null or NaN.
        counts: Rows per bin (edges + 1), or per level in the column's order and then all other
            levels.
        mean: Mean of the numbers, exactly rounded; None without any, or with an infinite one.
    """

    n_rows: int
    n_missing: int
    counts: tuple[int, ...]
    mean: float | None

    @property
    def missing_share(self) -> float:
        """Return the share of missing rows, 0 to 1."""
        return self.n_missing / self.n_rows


class BinCounter:
    """Counts columns of the batches of a scan.

    Args:
        numeric: Columns of numbers.
        categorical: Columns of strings.
    """

    def __init__(
        self,
        numeric: Sequence[NumericColumn],
        categorical: Sequence[CategoricalColumn],
    ) -> None:
        import pyarrow as pa

        self._edges = {}
        self._levels = {}
        self._counts: dict[str, Integers] = {}
        for column in numeric:
            self._edges[column.name] = np.array(column.edges, np.float64)
            self._counts[column.name] = np.zeros(
                len(column.edges) + 1,
                np.int64,
            )
        for strings in categorical:
            self._levels[strings.name] = pa.array(
                strings.levels,
                pa.string(),
            )
            # One more for all other levels.
            self._counts[strings.name] = np.zeros(
                len(strings.levels) + 1,
                np.int64,
            )

    @property
    def types(self) -> dict[str, str]:
        """Return PostgreSQL's type of each column as it is counted."""
        return dict.fromkeys(self._edges, "float8") | dict.fromkeys(self._levels, "text")

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch of doubles and strings, as ``profiles.scan`` has it."""
        for name, edges in self._edges.items():
            values = batch.column(name).to_numpy(zero_copy_only=False)
            known = values[~np.isnan(values)]
            # side="right": a number that equals an edge belongs to the bin that begins there.
            indices = np.searchsorted(edges, known, side="right")
            self._add(name, indices)
        for name, levels in self._levels.items():
            indices = _level_indices(
                batch.column(name),
                levels,
            )
            self._add(name, indices)

    def _add(self, name: str, indices: Integers) -> None:
        counts = self._counts[name]
        counts += np.bincount(indices, minlength=counts.size)

    def columns(self, profile: Mapping[str, Sketch]) -> dict[str, BinnedColumn]:
        """Return what was counted.

        Args:
            profile: The profile of the same scan.
        """
        columns = {}
        for name, counts in self._counts.items():
            sketch = profile[name]
            columns[name] = BinnedColumn(
                n_rows=sketch.n_rows,
                n_missing=sketch.n_missing,
                counts=tuple(counts.tolist()),
                # The sketch's mean is exact, and that of the bins would not be.
                mean=sketch.mean,
            )
        return columns


def _level_indices(strings: pa.Array, levels: pa.Array) -> Integers:
    """Return the index of each string that is not null; that of other levels comes last."""
    import pyarrow.compute as pc

    n_levels = len(levels)
    indices = pc.index_in(
        strings.drop_null(),
        value_set=levels,
    )
    known_or_other = indices.fill_null(n_levels)
    return np.asarray(
        known_or_other.to_numpy(),
        dtype=np.int64,
    )
