"""A mergeable summary of a column of strings: frequent ones are those of Misra & Gries (1982).

Source: docs/adr/0026-profiles.md.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nightshift.quality.sketches.column_sketch import ColumnSketch, pack, unpack
from nightshift.quality.sketches.kmv_sketch import KMVSketch, hash_strings

if TYPE_CHECKING:
    import pyarrow as pa

# Distinct strings that are counted exactly; with more of them the error is stated.
MAX_LEVELS = 1_024


@dataclass
class TextSketch(ColumnSketch):
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
        """Add a batch.

        Args:
            strings: shape (n,); null is missing.
        """
        counted = strings.value_counts()
        values = counted.field("values").to_pylist()
        counts = counted.field("counts").to_pylist()
        levels = dict(zip(values, counts, strict=True))
        self.n_rows += len(strings)
        self.n_missing += levels.pop(None, 0)
        self.distinct.add(hash_strings(levels))
        # A profile must not contain identifiers.
        if self.keeps_levels:
            self._count(levels)

    def _count(self, levels: dict[str, int]) -> None:
        """Add rows by string, and drop the rarest strings beyond ``MAX_LEVELS``."""
        self.levels.update(levels)
        n_excess = len(self.levels) - MAX_LEVELS
        if n_excess > 0:
            # Misra & Gries, many levels at once: each level loses the count of the largest one
            # that is dropped.
            loss = heapq.nsmallest(
                n_excess,
                self.levels.values(),
            )[-1]
            self.n_uncounted += loss
            remaining = {string: n - loss for string, n in self.levels.items() if n > loss}
            self.levels = Counter(remaining)

    def merge(self, other: TextSketch) -> None:
        """Add another summary."""
        self.merge_counts(other)
        self.n_uncounted += other.n_uncounted
        self._count(other.levels)

    def as_bytes(self) -> bytes:
        """Return the stored form, compressed."""
        # Sorted, so that the same levels give the same bytes in whatever order they came.
        levels = dict(sorted(self.levels.items()))
        head = {"levels": levels, "n_uncounted": self.n_uncounted}
        return pack(head, self.distinct.smallest.astype("<u8"))

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        n_rows: int,
        n_missing: int,
    ) -> TextSketch:
        """Return the sketch of a stored form.

        Args:
            data: What ``as_bytes`` returned.
            n_rows: All rows.
            n_missing: Rows without a value.
        """
        head, arrays = unpack(data)
        smallest = np.frombuffer(arrays, "<u8").astype(np.uint64)
        levels = Counter(head["levels"])
        return cls(
            n_rows,
            n_missing,
            KMVSketch(smallest),
            levels,
            head["n_uncounted"],
        )
