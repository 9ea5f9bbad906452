"""Counts of numbers in bins that are the same for every column, and exact sums: in any order and any cut the same to the bit.

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
_MOST_ROWS = 1 << 26
"""So many may share a bin; of twice as many the sum of squares could leave 64 bits."""


@dataclass(frozen=True)
class Bins:
    """Bins of a column's numbers, and their sums.

    A bin's key is its number on the positive side, counted from zero, and the complement of it on
    the negative side, so that keys rise with the numbers.

    Attributes:
        keys: shape (k,), those of the bins that are not empty, rising.
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
    """Counts and sums within bins while numbers are added: a page of 64 bins for each exponent and sign that has occurred.

    Attributes:
        n_rows: Numbers that were added.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self._page_of = np.full(2 * _SIGN, -1, np.int64)
        self._tops = np.empty(0, np.int64)
        self._counts, self._low, self._high, self._square = (
            np.zeros(0, np.int64) for _ in range(4)
        )

    @property
    def is_full(self) -> bool:
        """Return whether it is time to take the bins and begin anew."""
        return self.n_rows > _MOST_ROWS

    def add(self, bits: Integers) -> None:
        """Add numbers by their bits, none of them NaN or a negative zero; shape (n,), n at most 2**17."""
        tops = bits.view(np.uint64) >> np.uint64(_MANTISSA_BITS)
        pages = self._page_of[tops]
        if pages.size and pages.min() < 0:
            self._make_room(np.unique(tops[pages < 0]).astype(np.int64))
            pages = self._page_of[tops]
        places = pages * SUB_BINS + (bits >> _LOW_BITS & (SUB_BINS - 1))
        size = self._counts.size
        low = bits & _LOW_MASK
        # Each of the three sums stays below 2**53 for a batch of 2**17 rows, so that doubles hold
        # it exactly.
        self._counts += np.bincount(places, minlength=size)
        self._low += np.bincount(places, (low & _HALF_MASK).astype(np.float64), size).astype(
            np.int64
        )
        self._high += np.bincount(places, (low >> _HALF_BITS).astype(np.float64), size).astype(
            np.int64
        )
        rounded = (low >> (_LOW_BITS - _SQUARE_BITS)).astype(np.float64)
        self._square += np.bincount(places, rounded * rounded, size).astype(np.int64)
        self.n_rows += bits.size

    def _make_room(self, tops: Integers) -> None:
        self._page_of[tops] = np.arange(self._tops.size, self._tops.size + tops.size)
        self._tops = np.concatenate([self._tops, tops])
        for name in ("_counts", "_low", "_high", "_square"):
            setattr(
                self,
                name,
                np.concatenate([getattr(self, name), np.zeros(tops.size * SUB_BINS, np.int64)]),
            )

    def bins(self) -> Bins:
        """Return what was added."""
        magnitudes = ((self._tops & (_SIGN - 1)) << _EXPONENT_SHIFT)[:, np.newaxis] + np.arange(
            SUB_BINS
        )
        keys = np.where((self._tops >= _SIGN)[:, np.newaxis], ~magnitudes, magnitudes).ravel()
        places = np.flatnonzero(self._counts)
        places = places[np.argsort(keys[places])]
        sums = [self._sums(page) for page in range(self._tops.size)]
        return Bins(
            keys[places],
            self._counts[places],
            sum(total for total, _ in sums),
            sum(squares for _, squares in sums),
        )

    def _sums(self, page: int) -> tuple[int, int]:
        """Return the exact sums of a page's numbers and of their squares; infinite ones do not count."""
        top, part = int(self._tops[page]), slice(page * SUB_BINS, (page + 1) * SUB_BINS)
        exponent = top & (_SIGN - 1)
        if exponent == _INFINITE:
            return 0, 0
        counts, low, high = self._counts[part], self._low[part], self._high[part]
        # A number is its bin's start, in units of the low bits' range, and its low bits; all of it
        # times a power of two.
        start = np.arange(SUB_BINS) + (SUB_BINS if exponent else 0)
        power = max(exponent - 1, 0)
        total = (
            (int((counts * start).sum()) << _LOW_BITS)
            + int(low.sum())
            + (int(high.sum()) << _HALF_BITS)
        )
        mixed = int((low * start).sum()) + (int((high * start).sum()) << _HALF_BITS)
        squares = (int((counts * start * start).sum()) << (2 * _LOW_BITS)) + (
            mixed << (_LOW_BITS + 1)
        )
        squares += int(self._square[part].sum()) << (2 * (_LOW_BITS - _SQUARE_BITS))
        return (total if top < _SIGN else -total) << power, squares << (2 * power)


def bin_lower_edges(keys: Integers) -> Doubles:
    """Return the lower end of bins by their keys; shape (k,)."""
    infinite = _INFINITE << _MANTISSA_BITS
    positive = np.minimum(np.maximum(keys, 0) << _LOW_BITS, infinite)
    # A negative bin goes down to the start of the bin that is next in magnitude.
    negative = np.minimum(((np.maximum(~keys, 0) + 1) << _LOW_BITS) - 1, infinite)
    edges = np.where(keys < 0, -negative.view(np.float64), positive.view(np.float64))
    return np.asarray(edges, dtype=np.float64)


def midpoints(edges: Doubles) -> Doubles:
    """Return the middle of bins by their lower edges; NaN for infinite numbers. Shape (k,)."""
    with np.errstate(invalid="ignore"):  # of an infinite number, which has no middle
        return edges + np.spacing(np.abs(edges)) * float(1 << (_LOW_BITS - 1))
