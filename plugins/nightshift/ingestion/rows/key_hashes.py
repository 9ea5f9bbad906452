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
_SHIFT_LEFT = np.uint64(6)
_SHIFT_RIGHT = np.uint64(2)


def hash_rows(columns: list[pa.Array]) -> Hashes:
    """Return one number per row of the values of some columns.

    Different rows have different numbers but for chance.

    Args:
        columns: Each of shape (n,).

    Returns:
        shape (n,).
    """
    n_rows = len(columns[0]) if columns else 0
    hashes = np.zeros(n_rows, dtype=np.uint64)
    for column in columns:
        own = mix_bits(_numbers(column))
        # The order of the columns counts: (a, b) and (b, a) are different rows.
        shifted = (hashes << _SHIFT_LEFT) + (hashes >> _SHIFT_RIGHT)
        hashes ^= own + _GOLDEN + shifted
    return hashes


def find_repeated(hashes: Hashes) -> Hashes:
    """Return the hashes that are there more than once, in order.

    Args:
        hashes: shape (n,); sorted in place, so that they are in memory once.
    """
    hashes.sort()
    is_repeated = hashes[1:] == hashes[:-1]
    return np.unique(hashes[1:][is_repeated])


def _numbers(column: pa.Array) -> Hashes:
    """Return a number for each value, equal for equal values; null has one too.

    Args:
        column: shape (n,).

    Returns:
        shape (n,).
    """
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())  # Arrow has no way from days to int64
    if pa.types.is_integer(column.type) or pa.types.is_temporal(column.type):
        integers = column.cast(pa.int64())
        numbers = integers.fill_null(hash(None)).to_numpy()
        return np.asarray(numbers.astype(np.uint64))

    # Each distinct value is hashed once, not once for each row.
    encoded = column.dictionary_encode("encode")
    values = encoded.dictionary.to_pylist()
    distinct = np.array([hash(value) for value in values], np.int64)
    numbers = distinct[encoded.indices.to_numpy()]
    return np.asarray(numbers.astype(np.uint64))
