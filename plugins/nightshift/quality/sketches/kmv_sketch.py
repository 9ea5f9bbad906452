"""Estimate how many distinct values there are from the smallest of their hashes (KMV).

Source: Bar-Yossef et al. (2002), Counting distinct elements in a data stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

MAX_KMV_HASHES = 256
"""Up to so many distinct values are counted exactly, more with a standard error of 6.3 percent."""
_HASH_BITS = 64
_GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class KMVSketch:
    """The smallest hashes of some values.

    Attributes:
        smallest: At most ``MAX_KMV_HASHES`` hashes, rising, all different.
    """

    smallest: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, hashes: Hashes) -> None:
        """Add values by their hashes; shape (any,)."""
        # Greater hashes than the largest kept one can never be among the smallest.
        if self._is_full:
            hashes = hashes[hashes < self.smallest[-1]]
        if hashes.size:
            merged = np.unique(np.concatenate([self.smallest, hashes]))
            # A copy, so that the merged array is freed.
            self.smallest = merged[:MAX_KMV_HASHES].copy()

    @property
    def estimate(self) -> int:
        """Return the number of distinct values."""
        # Few distinct values are counted exactly.
        if not self._is_full:
            return int(self.smallest.size)
        return (MAX_KMV_HASHES - 1) * (1 << _HASH_BITS) // (int(self.smallest[-1]) + 1)

    @property
    def _is_full(self) -> bool:
        return self.smallest.size == MAX_KMV_HASHES


def hash_numbers(bits: Hashes) -> Hashes:
    """Return a hash of each number, given by its bits. Source: Steele et al. (2014), SplitMix64."""
    return mix_bits(bits + _GOLDEN_RATIO)


def hash_strings(strings: Iterable[str]) -> Hashes:
    """Return a hash of each string; shape (n,)."""
    # A cryptographic hash: strings of an attacker must not collide on purpose.
    digests = [
        blake2b(
            string.encode(),
            digest_size=8,
        ).digest()
        for string in strings
    ]
    return np.frombuffer(
        b"".join(digests),
        "<u8",
    ).astype(np.uint64)


def mix_bits(numbers: Hashes) -> Hashes:
    """Return numbers of which each bit depends on all bits of the given ones; a bijection.

    Source: the finalizer of SplitMix64, Steele, Lea & Flood (2014).
    """
    mixed = numbers ^ (numbers >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray(
        mixed,
        dtype=np.uint64,
    )
