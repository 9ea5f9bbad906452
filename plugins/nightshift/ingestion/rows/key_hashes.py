"""Hash the keys of rows: within a process equal keys have equal hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from nightshift.quality.sketches.kmv_sketch import mix_bits

if TYPE_CHECKING:
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

# So that equal values in two columns do not cancel. Source: boost::hash_combine.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash_rows(columns: list[pa.Array]) -> Hashes:
    """Return one number per row, shape (n,), of the values of some columns.

    Different rows have different numbers but for chance.
    """
    hashes = np.zeros(len(columns[0]) if columns else 0, dtype=np.uint64)
    for column in columns:
        own = mix_bits(_numbers(column))
        hashes ^= own + _GOLDEN + (hashes << np.uint64(6)) + (hashes >> np.uint64(2))
    return hashes


def find_repeated(hashes: Hashes) -> Hashes:
    """Sort hashes in place, and return those that are there more than once, in order."""
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _numbers(column: pa.Array) -> Hashes:
    """Return a number for each value, shape (n,), equal for equal values; null has one too."""
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())  # Arrow has no way from days to int64
    if pa.types.is_integer(column.type) or pa.types.is_temporal(column.type):
        numbers = column.cast(pa.int64()).fill_null(hash(None)).to_numpy()
    else:
        encoded = column.dictionary_encode("encode")
        distinct = np.array([hash(value) for value in encoded.dictionary.to_pylist()], np.int64)
        numbers = distinct[encoded.indices.to_numpy()]
    return np.asarray(numbers.astype(np.uint64))
