"""Mergeable summaries of a column: batches, shards and days are added up in any order and any cut, to the same bits.

Source: docs/adr/0026-profiles.md; the distinct count is that of Bar-Yossef et al. (2002), the
frequent texts are those of Misra & Gries (1982).
"""

from __future__ import annotations

import heapq
import json
import math
import zlib
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from nightshift.quality.sketches.log_linear_histogram import (
    UNIT_POWER,
    Bins,
    HistogramBuilder,
    bin_lower_edges,
    midpoints,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

MAX_KMV_HASHES = 256
"""Smallest hashes that are kept: up to so many distinct values are counted exactly, more with a
standard error of 6.3 percent.
"""
MAX_LEVELS = 1_024
"""Texts that are counted: up to so many distinct ones exactly, more with an error that is
stated.
"""
_HASH_BITS = 64


@dataclass
class KMVSketch:
    """An estimate of how many distinct values there are: the smallest of their hashes.

    Attributes:
        smallest: At most ``MAX_KMV_HASHES`` hashes, rising, all different.
    """

    smallest: Any = None

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Count values by their hashes; shape (any,)."""
        import numpy as np

        if self.smallest is None:
            self.smallest = np.empty(0, np.uint64)
        if self.smallest.size == MAX_KMV_HASHES:
            hashes = hashes[hashes < self.smallest[-1]]
        if hashes.size:
            self.smallest = np.unique(np.concatenate([self.smallest, hashes]))[
                :MAX_KMV_HASHES
            ].copy()

    @property
    def estimate(self) -> int:
        """Return the number of distinct values."""
        if self.smallest is None or self.smallest.size < MAX_KMV_HASHES:
            return 0 if self.smallest is None else int(self.smallest.size)
        return (MAX_KMV_HASHES - 1) * (1 << _HASH_BITS) // (int(self.smallest[-1]) + 1)


@dataclass
class NumberSketch:
    """What is known of a column of numbers.

    Attributes:
        n_rows: All rows.
        n_missing: Null or NaN.
        minimum, maximum: Of the numbers, infinite ones too; None without any.
        distinct: How many distinct numbers.
    """

    n_rows: int = 0
    n_missing: int = 0
    minimum: float | None = None
    maximum: float | None = None
    distinct: KMVSketch = field(default_factory=KMVSketch)
    _settled: Bins = field(default_factory=Bins)
    _pages: HistogramBuilder | None = None

    kind = "number"

    def add(self, values: Doubles) -> None:
        """Add a batch; NaN is missing. Shape (n,)."""
        import numpy as np

        known = values[~np.isnan(values)]
        self.n_rows += values.size
        self.n_missing += values.size - known.size
        if known.size == 0:
            return
        known += 0.0  # a negative zero is a zero
        self._widen(float(known.min()), float(known.max()))
        bits = known.view(np.int64)
        self.distinct.add(_mixed(bits.view(np.uint64)))
        if self._pages is None or self._pages.is_full:
            self._settled, self._pages = self._bins, HistogramBuilder()
        self._pages.add(bits)

    @property
    def _bins(self) -> Bins:
        """Return the bins of all numbers."""
        if self._pages is not None:
            self._settled, self._pages = self._settled.plus(self._pages.bins()), None
        return self._settled

    def _widen(self, low: float, high: float) -> None:
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def merge(self, other: NumberSketch) -> None:
        """Add another summary."""
        import numpy as np

        self.n_rows += other.n_rows
        self.n_missing += other.n_missing
        self.distinct.add(
            other.distinct.smallest
            if other.distinct.smallest is not None
            else np.empty(0, np.uint64)
        )
        if other.minimum is None or other.maximum is None:
            return
        self._widen(other.minimum, other.maximum)
        self._settled = self._bins.plus(other._bins)

    @property
    def n_known(self) -> int:
        """Return the number of numbers."""
        return self.n_rows - self.n_missing

    @property
    def n_distinct(self) -> int:
        """Return how many distinct numbers there are, about."""
        return min(self.distinct.estimate, self.n_known)

    @property
    def mean(self) -> float | None:
        """Return the exactly rounded mean; None without numbers or with an infinite one."""
        if self.minimum is None or math.isinf(self.minimum) or math.isinf(self.maximum or 0):
            return None
        return float(Fraction(self._bins.total, self.n_known << UNIT_POWER))

    @property
    def std(self) -> float | None:
        """Return the standard deviation, divided by n; each number counts with 24 bits of its mantissa."""
        if self.mean is None:
            return None
        mean = Fraction(self._bins.total, self.n_known << UNIT_POWER)
        return _root(
            max(
                Fraction(self._bins.squares, self.n_known << (2 * UNIT_POWER)) - mean * mean,
                Fraction(0),
            )
        )

    def bins(self) -> tuple[Doubles, Integers]:
        """Return the lower edges of the bins that are not empty, rising, and their counts; both of shape (k,)."""
        return bin_lower_edges(self._bins.keys), self._bins.counts

    def count_outside(
        self, low: float, high: float, *, is_low_outside: bool, is_high_outside: bool
    ) -> tuple[int, int]:
        """Return the least and the most numbers that can lie outside of limits; equal when smallest and largest number settle it.

        Args:
            low: Lower limit.
            high: Upper limit.
            is_low_outside: Whether the limit itself lies outside.
            is_high_outside: The same for the upper one.
        """
        if self.minimum is None or self.maximum is None:
            return 0, 0
        is_within = (self.minimum > low if is_low_outside else self.minimum >= low) and (
            self.maximum < high if is_high_outside else self.maximum <= high
        )
        if is_within:
            return 0, 0
        keys, counts = self._bins.keys, self._bins.counts
        lower, upper = (
            bin_lower_edges(keys - 1),
            bin_lower_edges(keys + 2),
        )  # a bin more on each side: no question of which edge belongs to it
        least = int(counts[(upper < low) | (lower > high)].sum())
        return max(least, 1), int(counts[(lower <= low) | (upper >= high)].sum())

    def quantile(self, share: float) -> float:
        """Return a number that no more than that share of the numbers lies below, off by one bin (1/64 of it) at most.

        Raises:
            ValueError: There is no number.
        """
        import numpy as np

        edges, counts = self.bins()
        if not counts.size or self.minimum is None or self.maximum is None:
            raise ValueError("a quantile of no numbers")
        if share >= 1:
            return self.maximum
        place = int(np.searchsorted(np.cumsum(counts), share * counts.sum(), side="right"))
        return float(min(max(edges[min(place, counts.size - 1)], self.minimum), self.maximum))

    def middles(self) -> tuple[Doubles, Integers]:
        """Return what stands for the numbers of each bin, its middle within the smallest and the largest number, and the counts."""
        import numpy as np

        edges, counts = self.bins()
        found = np.clip(midpoints(edges), self.minimum, self.maximum) if counts.size else edges
        return np.where(np.isfinite(found), found, edges), counts

    def histogram(self, inner_edges: Doubles) -> Integers:
        """Return how many numbers lie between given edges; a bin of ours counts where its middle lies. Shape (edges + 1,)."""
        import numpy as np

        midpoints, counts = self.middles()
        return np.bincount(
            np.searchsorted(inner_edges, midpoints, side="right"), counts, len(inner_edges) + 1
        ).astype(np.int64)

    def as_bytes(self) -> bytes:
        """Return everything, compressed."""
        import numpy as np

        keys, counts = self._bins.keys, self._bins.counts
        first = int(keys[0]) if keys.size else 0
        head = {
            "first": first,
            "total": hex(self._bins.total),
            "squares": hex(self._bins.squares),
            "n_bins": keys.size,
        }
        smallest = (
            self.distinct.smallest if self.distinct.smallest is not None else np.empty(0, np.uint64)
        )
        return _packed(
            head, (keys - first).astype("<i4"), counts.astype("<i8"), smallest.astype("<u8")
        )

    @classmethod
    def from_bytes(
        cls, data: bytes, n_rows: int, n_missing: int, minimum: float | None, maximum: float | None
    ) -> NumberSketch:
        """Return what ``as_bytes`` was made of; the other values are columns of their own."""
        import numpy as np

        head, rest = _unpacked(data)
        n = head["n_bins"]
        places, counts = np.frombuffer(rest, "<i4", n), np.frombuffer(rest, "<i8", n, 4 * n)
        total, squares = int(head["total"], 16), int(head["squares"], 16)
        bins = Bins(
            places.astype(np.int64) + head["first"], counts.astype(np.int64), total, squares
        )
        distinct = KMVSketch(np.frombuffer(rest, "<u8", offset=12 * n).astype(np.uint64))
        return cls(n_rows, n_missing, minimum, maximum, distinct, bins)


@dataclass
class TextSketch:
    """What is known of a column of texts.

    Attributes:
        n_rows: All rows.
        n_missing: Null.
        levels: Rows by text, at most ``MAX_LEVELS``; each count is too low by ``n_uncounted`` at
            most.
        n_uncounted: 0 as long as there were no more distinct texts than that.
        distinct: How many distinct texts.
        keeps_levels: Whether texts are kept; those of an identifier are only counted.
    """

    n_rows: int = 0
    n_missing: int = 0
    levels: Counter[str] = field(default_factory=Counter)
    n_uncounted: int = 0
    distinct: KMVSketch = field(default_factory=KMVSketch)
    keeps_levels: bool = True

    kind = "text"
    minimum: None = None
    maximum: None = None
    mean: None = None
    std: None = None

    def add(self, texts: pa.Array) -> None:
        """Add a batch of texts; shape (n,)."""
        import numpy as np

        found = texts.value_counts()
        levels = dict(
            zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
        )
        self.n_rows += len(texts)
        self.n_missing += levels.pop(None, 0)
        hashes = [
            int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
            for text in levels
        ]
        self.distinct.add(np.array(hashes, np.uint64))
        if self.keeps_levels:
            self._count(levels)

    def _count(self, levels: dict[str, int]) -> None:
        self.levels.update(levels)
        if (n_spare := len(self.levels) - MAX_LEVELS) > 0:
            # Everybody gives as much as the largest of those that leave has: Misra & Gries, many at
            # once.
            dues = heapq.nsmallest(n_spare, self.levels.values())[-1]
            self.n_uncounted += dues
            self.levels = Counter({text: n - dues for text, n in self.levels.items() if n > dues})

    def merge(self, other: TextSketch) -> None:
        """Add another summary."""
        import numpy as np

        self.n_rows += other.n_rows
        self.n_missing += other.n_missing
        self.n_uncounted += other.n_uncounted
        self.distinct.add(
            other.distinct.smallest
            if other.distinct.smallest is not None
            else np.empty(0, np.uint64)
        )
        self._count(other.levels)

    @property
    def n_known(self) -> int:
        """Return the number of texts."""
        return self.n_rows - self.n_missing

    @property
    def n_distinct(self) -> int:
        """Return how many distinct texts there are, about."""
        return min(self.distinct.estimate, self.n_known)

    def as_bytes(self) -> bytes:
        """Return everything, compressed."""
        import numpy as np

        smallest = (
            self.distinct.smallest if self.distinct.smallest is not None else np.empty(0, np.uint64)
        )
        head = {"levels": dict(sorted(self.levels.items())), "n_uncounted": self.n_uncounted}
        return _packed(head, smallest.astype("<u8"))

    @classmethod
    def from_bytes(cls, data: bytes, n_rows: int, n_missing: int) -> TextSketch:
        """Return what ``as_bytes`` was made of; the other values are columns of their own."""
        import numpy as np

        head, rest = _unpacked(data)
        return cls(
            n_rows,
            n_missing,
            Counter(head["levels"]),
            head["n_uncounted"],
            KMVSketch(np.frombuffer(rest, "<u8").astype(np.uint64)),
        )


Sketch = NumberSketch | TextSketch


def _root(square: Fraction) -> float:
    """Return the square root, also of what no double can hold."""
    power = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(square / Fraction(4) ** power), power)


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return well spread hashes. Source: Steele, Lea & Flood (2014), SplitMix64."""
    import numpy as np

    mixed = bits + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return found


def _packed(head: dict[str, Any], *arrays: Any) -> bytes:  # noqa: ANN401  (arrays of several types)
    text = json.dumps(head, ensure_ascii=False).encode()
    return zlib.compress(
        len(text).to_bytes(4, "little") + text + b"".join(array.tobytes() for array in arrays), 1
    )


def _unpacked(data: bytes) -> tuple[dict[str, Any], bytes]:
    whole = zlib.decompress(data)
    n = int.from_bytes(whole[:4], "little")
    return json.loads(whole[4 : 4 + n]), whole[4 + n :]
