"""The summary of one column of one partition: a few numbers, read off its sketch.

A profile holds a sketch per column, which adds up over partitions. Monitoring compares partitions
with each other, and needs of each only what a row of ``monitoring.profiles`` can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from nightshift.quality.sketches.number_sketch import NumberSketch

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.quality.sketches.sketch import Sketch

    Doubles = npt.NDArray[np.float64]
    Hashes = npt.NDArray[np.uint64]
    Integers = npt.NDArray[np.int64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
N_HASHES = 64
"""So many of a column's smallest hashes tell whether two partitions hold the same values."""
_MOST_LEVELS = 256


@dataclass(frozen=True)
class ColumnSummary:
    """What monitoring knows of one column of one partition.

    Attributes:
        n_rows: All rows, of which ``n_missing`` have no value.
        n_distinct: Distinct values, an estimate above 256.
        mean, std, minimum, maximum: Of the numbers; None without any, and for strings.
        quantiles: Of the numbers, at the shares ``QUANTILES``; empty without any.
        zero_share: Share of zeros among the numbers.
        levels: Rows by string, the most frequent ones; empty for numbers.
        hashes: Smallest hashes of the distinct values, rising.
    """

    n_rows: int
    n_missing: int
    n_distinct: int
    mean: float | None = None
    std: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    quantiles: tuple[float, ...] = ()
    zero_share: float | None = None
    levels: Mapping[str, int] = field(default_factory=dict)
    hashes: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))

    def moved(self, shift: float) -> ColumnSummary:
        """Return the summary of the same numbers with a constant added to each."""
        if shift == 0 or self.mean is None or self.minimum is None or self.maximum is None:
            return self
        return replace(
            self,
            mean=self.mean + shift,
            minimum=self.minimum + shift,
            maximum=self.maximum + shift,
            quantiles=tuple(value + shift for value in self.quantiles),
        )

    @property
    def missing_share(self) -> float:
        """Return the share of rows without a value, 0 to 1."""
        return self.n_missing / max(self.n_rows, 1)

    @property
    def is_text(self) -> bool:
        """Return whether this is a column of strings with levels."""
        return bool(self.levels)

    def repeated_share(self, earlier: ColumnSummary) -> float:
        """Return the share of distinct values that an earlier partition had too, 0 to 1.

        It is estimated from the smallest hashes; NaN without values on a side.
        """
        if not self.hashes.size or not earlier.hashes.size:
            return np.nan
        # Only below the smaller of both last hashes are both sides complete.
        full = [hashes for hashes in (self.hashes, earlier.hashes) if hashes.size == N_HASHES]
        limit = min((hashes[-1] for hashes in full), default=None)
        own, other = self.hashes, earlier.hashes
        if limit is not None:
            own, other = own[own <= limit], other[other <= limit]
        if not own.size:
            return 0.0
        return float(np.isin(own, other).mean())


def summarize(sketch: Sketch) -> ColumnSummary:
    """Return the summary of a sketch."""
    counted = (sketch.n_rows, sketch.n_missing, sketch.n_distinct)
    hashes = sketch.distinct.smallest[:N_HASHES]
    if isinstance(sketch, NumberSketch):
        moments = (sketch.mean, sketch.std, sketch.minimum, sketch.maximum)
        edges, counts = sketch.bins()
        quantiles = _quantiles(edges, counts, sketch)
        zero_share = float(counts[edges == 0.0].sum() / sketch.n_known) if sketch.n_known else None
        return ColumnSummary(*counted, *moments, quantiles, zero_share, {}, hashes)
    # Of equally frequent strings the first by name, in whatever order the rows came.
    ranked = sorted(sketch.levels.items(), key=lambda level: (-level[1], level[0]))
    return ColumnSummary(*counted, levels=dict(ranked[:_MOST_LEVELS]), hashes=hashes)


def _quantiles(edges: Doubles, counts: Integers, sketch: NumberSketch) -> tuple[float, ...]:
    """Return the quantiles as ``NumberSketch.quantile`` does, from one reading of the bins."""
    if not counts.size or sketch.minimum is None or sketch.maximum is None:
        return ()
    n_up_to = np.cumsum(counts)
    positions = np.searchsorted(n_up_to, np.array(QUANTILES) * n_up_to[-1], side="right")
    # The first bin begins below the minimum, in nearly all columns.
    within = np.clip(edges[positions], sketch.minimum, sketch.maximum)
    return tuple(within.tolist())
