"""Mergeable summaries of a column: batches and days add up in any order, to the same bits.

Source: docs/adr/0026-profiles.md; frequent strings are those of Misra & Gries (1982).
"""

from __future__ import annotations

import heapq
import json
import math
import zlib
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nightshift.quality.sketches.kmv_sketch import KMVSketch, hash_numbers, hash_strings
from nightshift.quality.sketches.log_linear_histogram import (
    UNIT_POWER,
    Bins,
    HistogramBuilder,
    bin_lower_edges,
    midpoints,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

MAX_LEVELS = 1_024
"""Distinct strings that are counted exactly; with more of them the error is stated."""


@dataclass
class _ColumnSketch:
    """What a sketch knows of every column.

    Attributes:
        n_rows: All rows.
        n_missing: Rows without a value.
        distinct: How many distinct values there are.
    """

    n_rows: int = 0
    n_missing: int = 0
    distinct: KMVSketch = field(default_factory=KMVSketch)

    @property
    def n_known(self) -> int:
        """Return the number of values."""
        return self.n_rows - self.n_missing

    @property
    def n_distinct(self) -> int:
        """Return the approximate number of distinct values."""
        return min(self.distinct.estimate, self.n_known)

    def _merge_counts(self, other: _ColumnSketch) -> None:
        self.n_rows += other.n_rows
        self.n_missing += other.n_missing
        self.distinct.add(other.distinct.smallest)


@dataclass
class NumberSketch(_ColumnSketch):
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
            self._finished, self._builder = self._bins, HistogramBuilder()
        self._builder.add(bits)

    @property
    def _bins(self) -> Bins:
        """Return the bins of all numbers."""
        if self._builder is not None:
            self._finished, self._builder = self._finished.plus(self._builder.bins()), None
        return self._finished

    def _widen(self, low: float, high: float) -> None:
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def merge(self, other: NumberSketch) -> None:
        """Add another summary."""
        self._merge_counts(other)
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
        if self.minimum is None or math.isinf(self.minimum) or math.isinf(self.maximum or 0):
            return None
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
        return _square_root(max(mean_square - mean * mean, Fraction(0)))

    def bins(self) -> tuple[Doubles, Integers]:
        """Return lower edges, rising, and counts of the bins that are not empty; shape (k,)."""
        return bin_lower_edges(self._bins.keys), self._bins.counts

    def count_outside(
        self, low: float, high: float, *, is_low_outside: bool, is_high_outside: bool
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
        keys, counts = self._bins.keys, self._bins.counts
        # One more bin on each side, so that it does not matter which edge belongs to a bin.
        lower, upper = bin_lower_edges(keys - 1), bin_lower_edges(keys + 2)
        n_certain = int(counts[(upper < low) | (lower > high)].sum())
        n_possible = int(counts[(lower <= low) | (upper >= high)].sum())
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
        index = int(np.searchsorted(np.cumsum(counts), share * counts.sum(), side="right"))
        edge = edges[min(index, counts.size - 1)]
        return float(min(max(edge, self.minimum), self.maximum))

    def midpoints(self) -> tuple[Doubles, Integers]:
        """Return the middle of each bin, within the range of the numbers, and the counts."""
        edges, counts = self.bins()
        if not counts.size:
            return edges, counts
        middle = np.clip(midpoints(edges), self.minimum, self.maximum)
        return np.where(np.isfinite(middle), middle, edges), counts

    def histogram(self, inner_edges: Doubles) -> Integers:
        """Return how many numbers lie between given edges; shape (edges + 1,).

        A bin counts where its middle lies.
        """
        middle, counts = self.midpoints()
        indices = np.searchsorted(inner_edges, middle, side="right")
        return np.bincount(indices, counts, len(inner_edges) + 1).astype(np.int64)

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
        offsets = (keys - first).astype("<i4")
        return _pack(head, offsets, counts.astype("<i8"), self.distinct.smallest.astype("<u8"))

    @classmethod
    def from_bytes(
        cls, data: bytes, n_rows: int, n_missing: int, minimum: float | None, maximum: float | None
    ) -> NumberSketch:
        """Return the sketch of a stored form; the other values have columns of their own."""
        head, arrays = _unpack(data)
        n = head["n_bins"]
        offsets = np.frombuffer(arrays, "<i4", n).astype(np.int64)
        counts = np.frombuffer(arrays, "<i8", n, 4 * n).astype(np.int64)
        smallest = np.frombuffer(arrays, "<u8", offset=12 * n).astype(np.uint64)
        total, squares = int(head["total"], 16), int(head["squares"], 16)
        bins = Bins(offsets + head["first"], counts, total, squares)
        return cls(n_rows, n_missing, KMVSketch(smallest), minimum, maximum, bins)


@dataclass
class TextSketch(_ColumnSketch):
    """A summary of a column of strings; null is missing.

    Attributes:
        levels: Rows by string, at most ``MAX_LEVELS`` of them; each count is too low by at most
            ``n_uncounted``.
        n_uncounted: 0 unless there were more distinct strings than that.
        keeps_levels: Whether strings are kept; those of an identifier are only counted.
    """

    levels: Counter[str] = field(default_factory=Counter)
    n_uncounted: int = 0
    keeps_levels: bool = True

    type: ClassVar[str] = "text"
    minimum: ClassVar[None] = None
    maximum: ClassVar[None] = None
    mean: ClassVar[None] = None
    std: ClassVar[None] = None

    def add(self, strings: pa.Array) -> None:
        """Add a batch; shape (n,)."""
        counted = strings.value_counts()
        values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
        levels = dict(zip(values, counts, strict=True))
        self.n_rows += len(strings)
        self.n_missing += levels.pop(None, 0)
        self.distinct.add(hash_strings(levels))
        if self.keeps_levels:
            self._count(levels)

    def _count(self, levels: dict[str, int]) -> None:
        self.levels.update(levels)
        n_excess = len(self.levels) - MAX_LEVELS
        if n_excess > 0:
            # Misra & Gries, many levels at once: each level loses the count of the largest one
            # that is dropped.
            loss = heapq.nsmallest(n_excess, self.levels.values())[-1]
            self.n_uncounted += loss
            reduced = {string: n - loss for string, n in self.levels.items() if n > loss}
            self.levels = Counter(reduced)

    def merge(self, other: TextSketch) -> None:
        """Add another summary."""
        self._merge_counts(other)
        self.n_uncounted += other.n_uncounted
        self._count(other.levels)

    def as_bytes(self) -> bytes:
        """Return the stored form, compressed."""
        head = {"levels": dict(sorted(self.levels.items())), "n_uncounted": self.n_uncounted}
        return _pack(head, self.distinct.smallest.astype("<u8"))

    @classmethod
    def from_bytes(cls, data: bytes, n_rows: int, n_missing: int) -> TextSketch:
        """Return the sketch of a stored form; the other values have columns of their own."""
        head, arrays = _unpack(data)
        smallest = np.frombuffer(arrays, "<u8").astype(np.uint64)
        levels = Counter(head["levels"])
        return cls(n_rows, n_missing, KMVSketch(smallest), levels, head["n_uncounted"])


Sketch = NumberSketch | TextSketch


def _square_root(square: Fraction) -> float:
    """Return the square root, also of a number that no double can hold."""
    power = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(square / Fraction(4) ** power), power)


def _pack(head: dict[str, Any], *arrays: npt.NDArray[Any]) -> bytes:
    text = json.dumps(head, ensure_ascii=False).encode()
    content = [len(text).to_bytes(4, "little"), text, *(array.tobytes() for array in arrays)]
    return zlib.compress(b"".join(content), 1)


def _unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    content = zlib.decompress(data)
    end = 4 + int.from_bytes(content[:4], "little")
    return json.loads(content[4:end]), content[end:]
