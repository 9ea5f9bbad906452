"""A mergeable summary of a column of numbers: parts add up in any order, to the same bits.

Source: docs/adr/0026-profiles.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nightshift.quality.sketches.column_sketch import ColumnSketch, pack, unpack
from nightshift.quality.sketches.kmv_sketch import KMVSketch, hash_numbers
from nightshift.quality.sketches.log_linear_histogram import (
    UNIT_POWER,
    Bins,
    HistogramBuilder,
    bin_lower_edges,
    midpoints,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]


@dataclass
class NumberSketch(ColumnSketch):
    """A summary of a column of numbers; null and NaN are missing.

    Attributes:
        minimum, maximum: Of the numbers, infinite ones too; None without any.
    """

    minimum: float | None = None
    maximum: float | None = None
    _finished: Bins = field(default_factory=Bins)
    _builder: HistogramBuilder | None = None

    type: ClassVar[str] = "number"

    def add(self, values: Doubles) -> None:
        """Add a batch; NaN is missing. Shape (n,)."""
        known = values[~np.isnan(values)]
        self.n_rows += values.size
        self.n_missing += values.size - known.size
        if known.size == 0:
            return
        known += 0.0  # a negative zero becomes a zero
        self._widen(float(known.min()), float(known.max()))
        bits = known.view(np.int64)
        self.distinct.add(hash_numbers(bits.view(np.uint64)))
        if self._builder is None or self._builder.is_full:
            # The bins of the full one are taken before it is replaced.
            self._finished = self._bins
            self._builder = HistogramBuilder()
        self._builder.add(bits)

    @property
    def _bins(self) -> Bins:
        """Return the bins of all numbers."""
        if self._builder is not None:
            self._finished = self._finished.plus(self._builder.bins())
            self._builder = None
        return self._finished

    def _widen(self, low: float, high: float) -> None:
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def merge(self, other: NumberSketch) -> None:
        """Add another summary."""
        self.merge_counts(other)
        if other.minimum is not None and other.maximum is not None:
            self._widen(other.minimum, other.maximum)
            self._finished = self._bins.plus(other._bins)

    @property
    def mean(self) -> float | None:
        """Return the exactly rounded mean; None without numbers or with an infinite one."""
        mean = self._exact_mean
        return None if mean is None else float(mean)

    @property
    def _exact_mean(self) -> Fraction | None:
        if self.minimum is None or self.maximum is None:
            return None
        if math.isinf(self.minimum) or math.isinf(self.maximum):
            return None
        # A fraction, because the sum has more digits than a double.
        return Fraction(self._bins.total, self.n_known << UNIT_POWER)

    @property
    def std(self) -> float | None:
        """Return the standard deviation, divided by n; None without a mean.

        Each number counts with 24 bits of its mantissa.
        """
        mean = self._exact_mean
        if mean is None:
            return None
        mean_square = Fraction(self._bins.squares, self.n_known << (2 * UNIT_POWER))
        variance = mean_square - mean * mean
        # The squares are rounded and the mean is not, so equal numbers may give less than zero.
        return _square_root(max(variance, Fraction(0)))

    def bins(self) -> tuple[Doubles, Integers]:
        """Return lower edges, rising, and counts of the bins that are not empty; shape (k,)."""
        return bin_lower_edges(self._bins.keys), self._bins.counts

    def count_outside(
        self,
        low: float,
        high: float,
        *,
        is_low_outside: bool,
        is_high_outside: bool,
    ) -> tuple[int, int]:
        """Return the minimum and maximum number of numbers that lie outside of limits.

        Both are equal when the smallest and the largest number settle it.

        Args:
            low: Lower limit.
            high: Upper limit.
            is_low_outside: Whether the lower limit itself lies outside.
            is_high_outside: Whether the upper limit itself lies outside.
        """
        if self.minimum is None or self.maximum is None:
            return 0, 0
        is_low_met = self.minimum > low if is_low_outside else self.minimum >= low
        is_high_met = self.maximum < high if is_high_outside else self.maximum <= high
        if is_low_met and is_high_met:
            return 0, 0
        keys = self._bins.keys
        counts = self._bins.counts
        # One more bin on each side, so that it does not matter which edge belongs to a bin.
        lower = bin_lower_edges(keys - 1)
        upper = bin_lower_edges(keys + 2)
        is_outside = (upper < low) | (lower > high)
        may_be_outside = (lower <= low) | (upper >= high)
        n_certain = int(counts[is_outside].sum())
        n_possible = int(counts[may_be_outside].sum())
        # The minimum or the maximum is outside: at least one number.
        return max(n_certain, 1), n_possible

    def quantile(self, share: float) -> float:
        """Return a number that at most this share of the numbers lies below.

        It is off by one bin, 1/64 of it, at most.

        Raises:
            ValueError: There is no number.
        """
        edges, counts = self.bins()
        if not counts.size or self.minimum is None or self.maximum is None:
            raise ValueError("a quantile of no numbers")
        if share >= 1:
            return self.maximum
        n_below = share * counts.sum()
        n_up_to = np.cumsum(counts)
        index = int(np.searchsorted(n_up_to, n_below, side="right"))
        edge = edges[min(index, counts.size - 1)]
        # The first bin begins below the minimum, in nearly all columns.
        within = np.clip(edge, self.minimum, self.maximum)
        return float(within)

    def midpoints(self) -> tuple[Doubles, Integers]:
        """Return the middle of each bin, within the range of the numbers, and the counts."""
        edges, counts = self.bins()
        if not counts.size:
            return edges, counts
        middle = np.clip(midpoints(edges), self.minimum, self.maximum)
        # The middle of a bin next to infinity is infinite: its edge stands for it.
        is_finite = np.isfinite(middle)
        return np.where(is_finite, middle, edges), counts

    def histogram(self, inner_edges: Doubles) -> Integers:
        """Return how many numbers lie between given edges; shape (edges + 1,).

        A bin counts where its middle lies.
        """
        middle, counts = self.midpoints()
        indices = np.searchsorted(inner_edges, middle, side="right")
        n_bins = len(inner_edges) + 1
        n_numbers = np.bincount(indices, counts, n_bins)
        return n_numbers.astype(np.int64)

    def as_bytes(self) -> bytes:
        """Return the stored form, compressed."""
        keys, counts = self._bins.keys, self._bins.counts
        first = int(keys[0]) if keys.size else 0
        head = {
            "first": first,
            "total": hex(self._bins.total),
            "squares": hex(self._bins.squares),
            "n_bins": keys.size,
        }
        # Offsets from the first key fit 32 bits and compress better than the keys.
        offsets = keys - first
        return pack(
            head,
            offsets.astype("<i4"),
            counts.astype("<i8"),
            self.distinct.smallest.astype("<u8"),
        )

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        n_rows: int,
        n_missing: int,
        minimum: float | None,
        maximum: float | None,
    ) -> NumberSketch:
        """Return the sketch of a stored form; the other values have columns of their own."""
        head, arrays = unpack(data)
        n = head["n_bins"]
        offsets = np.frombuffer(arrays, "<i4", n).astype(np.int64)
        # Counts follow the offsets of 4 bytes, and hashes the counts of 8.
        counts = np.frombuffer(arrays, "<i8", n, 4 * n).astype(np.int64)
        smallest = np.frombuffer(arrays, "<u8", offset=12 * n).astype(np.uint64)
        total, squares = int(head["total"], 16), int(head["squares"], 16)
        bins = Bins(offsets + head["first"], counts, total, squares)
        return cls(
            n_rows,
            n_missing,
            KMVSketch(smallest),
            minimum,
            maximum,
            bins,
        )


def _square_root(square: Fraction) -> float:
    """Return the square root, also of a number that no double can hold."""
    power = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(square / Fraction(4) ** power), power)
