"""How rows spread over given bins and levels, counted exactly while they pass in a scan; ``profiles.scan`` gives the rest of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.quality.sketches.sketch import Sketch


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
class BinnedColumn:
    """How one column of some rows spreads.

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
        numeric: Columns that are numbers.
        categorical: Columns that are texts.
    """

    def __init__(
        self, numeric: Sequence[NumericColumn], categorical: Sequence[CategoricalColumn]
    ) -> None:
        import pyarrow as pa

        self._edges = {column.name: np.array(column.edges, np.float64) for column in numeric}
        self._levels = {column.name: pa.array(column.levels, pa.string()) for column in categorical}
        sizes = {name: len(edges) + 1 for name, edges in self._edges.items()} | {
            name: len(levels) + 1 for name, levels in self._levels.items()
        }
        self._counts = {name: np.zeros(size, np.int64) for name, size in sizes.items()}

    @property
    def types(self) -> dict[str, str]:
        """Return PostgreSQL's type of each column as it is counted."""
        return dict.fromkeys(self._edges, "float8") | dict.fromkeys(self._levels, "text")

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch: doubles and texts, as in ``profiles.scan``."""
        for name, edges in self._edges.items():
            values = batch.column(name).to_numpy(zero_copy_only=False)
            self._add(name, np.searchsorted(edges, values[~np.isnan(values)], side="right"))
        for name, levels in self._levels.items():
            self._add(name, _places(batch.column(name), levels))

    def _add(self, name: str, places: npt.NDArray[np.int64]) -> None:
        counts = self._counts[name]
        counts += np.bincount(places, minlength=counts.size)

    def columns(self, scanned: Mapping[str, Sketch]) -> dict[str, BinnedColumn]:
        """Return what was counted.

        Args:
            scanned: What the same scan gave.
        """
        return {
            name: BinnedColumn(
                scanned[name].n_rows,
                scanned[name].n_missing,
                tuple(counts.tolist()),
                scanned[name].mean,
            )
            for name, counts in self._counts.items()
        }


def _places(texts: pa.Array, levels: pa.Array) -> npt.NDArray[np.int64]:
    """Return the place of each text that is not null among the levels, behind them that of others."""
    import pyarrow.compute as pc

    places: npt.NDArray[np.int64] = (
        pc.index_in(texts.drop_null(), value_set=levels)
        .fill_null(len(levels))
        .to_numpy()
        .astype(np.int64)
    )
    return places
