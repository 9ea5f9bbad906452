"""Log-linear histogram with exact sums: the same bits in any order, with bins fit for any column.

A bin is the first bits of a double: sign, exponent and six of the mantissa. So none is wider than
1/64 of its values, nothing need be known beforehand, and two columns always compare. Memory grows
with the exponents that occur: two kilobytes for each, while rows are added. Source:
docs/adr/0026-profiles.md; the bins are those of HdrHistogram (Tene 2012).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

SUB_BINS = 64
"""Bins of a power of two: a quantile is off by one bin at most, 1/64 of its value."""
UNIT_POWER = 1074
"""Every double is a whole multiple of 2 to the minus this."""
_LOW_BITS, _HALF_BITS, _SQUARE_BITS = 46, 23, 18
_LOW_MASK, _HALF_MASK = (1 << _LOW_BITS) - 1, (1 << _HALF_BITS) - 1
_EXPONENT_SHIFT, _MANTISSA_BITS, _SIGN = 6, 52, 2048
_INFINITE = 2047
"""Exponent of an infinite number."""
MAX_ROWS = 1 << 26
"""Rows that may share a bin: with twice as many, the sum of squares could leave 64 bits."""


@dataclass(frozen=True)
class Bins:
    """Bins of a column's numbers, and their sums.

    A bin's key is its index on the positive side, counted from zero, and the complement of it on
    the negative side, so that keys rise with the numbers.

    Attributes:
        keys: shape (k,), keys of the bins that are not empty, rising.
        counts: shape (k,), numbers in each.
        total: Sum of all finite numbers, in units of 2 to the minus ``UNIT_POWER``.
        squares: Sum of their squares, in units of 2 to the minus twice that; each number counts
            with 24 bits of its mantissa.
    """

    keys: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    total: int = 0
    squares: int = 0

    def plus(self, other: Bins) -> Bins:
        """Return the bins of both columns together."""
        keys = np.union1d(self.keys, other.keys)
        counts = np.zeros(keys.size, np.int64)
        counts[np.searchsorted(keys, self.keys)] += self.counts
        counts[np.searchsorted(keys, other.keys)] += other.counts
        return Bins(keys, counts, self.total + other.total, self.squares + other.squares)


class HistogramBuilder:
    """Counts and sums within bins while numbers are added.

    There is a page of 64 bins for each combination of exponent and sign that has occurred. The
    combination, the first 12 bits of a double, is called its prefix.

    Attributes:
        n_rows: Numbers that were added.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._page_of_prefix = np.full(2 * _SIGN, -1, np.int64)
        self._prefixes = np.empty(0, np.int64)
        # Rows: count, sum of the low and of the high half of the low bits, sum of squares.
        self._sums = np.zeros((4, 0), np.int64)

    @property
    def is_full(self) -> bool:
        """Return whether the bins must be taken, and a new builder begun."""
        return self.n_rows > MAX_ROWS

    def add(self, bits: Integers) -> None:
        """Add numbers by their bits, none of them NaN or a negative zero.

        Args:
            bits: shape (n,), n at most 2**17.
        """
        prefixes = bits.view(np.uint64) >> np.uint64(_MANTISSA_BITS)
        pages = self._page_of_prefix[prefixes]
        if pages.size and pages.min() < 0:
            self._add_pages(np.unique(prefixes[pages < 0]).astype(np.int64))
            pages = self._page_of_prefix[prefixes]
        slots = pages * SUB_BINS + (bits >> _LOW_BITS & (SUB_BINS - 1))
        low_bits = bits & _LOW_MASK
        rounded = (low_bits >> (_LOW_BITS - _SQUARE_BITS)).astype(np.float64)
        halves = (low_bits & _HALF_MASK, low_bits >> _HALF_BITS)
        # Each sum stays below 2**53 for a batch of 2**17 rows, so doubles hold it exactly.
        weights = (None, *halves, rounded * rounded)
        n_slots = self._sums.shape[1]
        for row, weight in enumerate(weights):
            sums = np.bincount(slots, weight, n_slots)
            self._sums[row] += sums.astype(np.int64)
        self.n_rows += bits.size

    def _add_pages(self, prefixes: Integers) -> None:
        n_pages = self._prefixes.size
        self._page_of_prefix[prefixes] = np.arange(n_pages, n_pages + prefixes.size)
        self._prefixes = np.concatenate([self._prefixes, prefixes])
        new = np.zeros((4, prefixes.size * SUB_BINS), np.int64)
        self._sums = np.concatenate([self._sums, new], axis=1)

    def bins(self) -> Bins:
        """Return the bins of all numbers that were added."""
        exponents = (self._prefixes & (_SIGN - 1))[:, np.newaxis]
        magnitudes = (exponents << _EXPONENT_SHIFT) + np.arange(SUB_BINS)
        is_negative = (self._prefixes >= _SIGN)[:, np.newaxis]
        keys_by_page = np.where(is_negative, ~magnitudes, magnitudes)
        keys = keys_by_page.ravel()
        counts = self._sums[0]
        used = np.flatnonzero(counts)
        used = used[np.argsort(keys[used])]
        total = squares = 0
        for page in range(self._prefixes.size):
            page_total, page_squares = self._page_sums(page)
            total += page_total
            squares += page_squares
        return Bins(keys[used], counts[used], total, squares)

    def _page_sums(self, page: int) -> tuple[int, int]:
        """Return the exact sums of a page's finite numbers and of their squares."""
        prefix = int(self._prefixes[page])
        exponent = prefix & (_SIGN - 1)
        if exponent == _INFINITE:
            return 0, 0
        counts, low, high, square = self._sums[:, page * SUB_BINS : (page + 1) * SUB_BINS]
        # A number is its bin's start, in units of the low bits' range, plus its low bits; all of it
        # times a power of two. The sums are Python's integers, which do not overflow.
        start = np.arange(SUB_BINS) + (SUB_BINS if exponent else 0)
        power = max(exponent - 1, 0)
        total = int((counts * start).sum()) << _LOW_BITS
        total += int(low.sum()) + (int(high.sum()) << _HALF_BITS)
        mixed = int((low * start).sum()) + (int((high * start).sum()) << _HALF_BITS)
        squares = int((counts * start * start).sum()) << (2 * _LOW_BITS)
        squares += mixed << (_LOW_BITS + 1)
        squares += int(square.sum()) << (2 * (_LOW_BITS - _SQUARE_BITS))
        signed_total = total if prefix < _SIGN else -total
        return signed_total << power, squares << (2 * power)


def bin_lower_edges(keys: Integers) -> Doubles:
    """Return the lower edges of bins by their keys; shape (k,)."""
    infinite = _INFINITE << _MANTISSA_BITS
    positive = np.minimum(np.maximum(keys, 0) << _LOW_BITS, infinite)
    # A negative bin reaches down to the start of the bin that is next in magnitude.
    negative = np.minimum(((np.maximum(~keys, 0) + 1) << _LOW_BITS) - 1, infinite)
    edges = np.where(keys < 0, -negative.view(np.float64), positive.view(np.float64))
    return np.asarray(edges, dtype=np.float64)


def midpoints(edges: Doubles) -> Doubles:
    """Return the middles of bins by their lower edges; NaN for infinite numbers. Shape (k,)."""
    with np.errstate(invalid="ignore"):  # an infinite number has no middle
        return edges + np.spacing(np.abs(edges)) * float(1 << (_LOW_BITS - 1))
