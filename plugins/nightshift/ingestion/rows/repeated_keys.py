"""Rows of one file that share a key: copies count once, all others are refused.

Two rows with the same key and different content are both refused: nobody can tell which is right.
So are rows whose keys differ only by which of two equal hours is meant, on the day the clock is set
back. Source: docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from nightshift.contracts.datasets import ColumnType, DatasetContract
from nightshift.ingestion.rows.cast import Reason
from nightshift.ingestion.rows.typed_rows import DUPLICATE, GOOD, TypedRows

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]


def resolve_repeated_keys(
    contract: DatasetContract,
    rows: TypedRows,
) -> None:
    """Keep the first of equal rows; refuse rows that share a key in a file but differ.

    Rows that share a key because the clock showed its time twice are no duplicates, even if they
    are equal: all are refused.

    Args:
        contract: Its key.
        rows: All rows of the files; their verdicts change.
    """
    repeated = _rows_with_repeated_key(contract, rows)
    in_repeated_hour = repeated[rows.was_twice[repeated]]
    if len(in_repeated_hour):
        culprit = _local_time_of_key(contract)
        rows.refuse(
            in_repeated_hour,
            Reason.REPEATED_HOUR,
            culprit,
        )
        # A key of which one row is left is repeated no more.
        repeated = _rows_with_repeated_key(contract, rows)
    if not len(repeated):
        return
    contents = _row_codes(rows, repeated, rows.values.column_names)
    is_copy = is_repeated(contents, keeps_first=True)
    rows.verdict[repeated[is_copy]] = DUPLICATE

    # What still shares a key differs in another column.
    distinct = repeated[~is_copy]
    keys = _row_codes(rows, distinct, contract.key)
    conflicting = distinct[is_repeated(keys)]
    rows.refuse(conflicting, Reason.CONFLICTING_KEY, -1)


def drop_copies(rows: TypedRows) -> tuple[TypedRows, Numbers]:
    """Drop rows that are equal to an earlier one, as ``resolve_repeated_keys`` will.

    Args:
        rows: Good rows of one file.

    Returns:
        The other rows, and the position of each copy. Rows of an hour that came twice all stay:
        they are refused, and no copies.
    """
    once = np.flatnonzero(~rows.was_twice)
    contents = _row_codes(rows, once, rows.values.column_names)
    copies = once[is_repeated(contents, keeps_first=True)]
    is_kept = np.ones(len(rows.verdict), dtype=bool)
    is_kept[copies] = False
    return rows.take(np.flatnonzero(is_kept)), rows.row_numbers[copies]


def count_conflicts(
    contract: DatasetContract,
    rows: TypedRows,
) -> Counter[str]:
    """Count the rows that ``resolve_repeated_keys`` will refuse at least, by reason.

    Args:
        contract: Its key.
        rows: Good rows of one file, without copies; more may follow.
    """
    repeated = _rows_with_repeated_key(contract, rows)
    n_twice = int(np.sum(rows.was_twice[repeated]))
    # Those next to an ambiguous row may be alone when that is refused.
    n_others = len(repeated) - n_twice
    counts = {Reason.REPEATED_HOUR: n_twice, Reason.CONFLICTING_KEY: 0 if n_twice else n_others}
    return Counter[str]({reason: n for reason, n in counts.items() if n})


def _rows_with_repeated_key(
    contract: DatasetContract,
    rows: TypedRows,
) -> Numbers:
    """Return the good rows whose key another good row of their file has."""
    good = np.flatnonzero(rows.verdict == GOOD)
    keys = _row_codes(rows, good, contract.key)
    return good[is_repeated(keys)]


def _local_time_of_key(contract: DatasetContract) -> int:
    """Return the index of the key's first column with local times, -1 for none."""
    for index, column in enumerate(contract.columns):
        is_local_time = column.type is ColumnType.LOCAL_TIMESTAMP
        if is_local_time and column.name in contract.key:
            return index
    return -1


def is_repeated(
    codes: Numbers,
    *,
    keeps_first: bool = False,
) -> Mask:
    """Return whether each code is there more than once; the first one may be left out."""
    import pandas as pd

    keep: Literal["first", False] = "first" if keeps_first else False
    return pd.Series(codes).duplicated(keep=keep).to_numpy()


def _row_codes(
    rows: TypedRows,
    chosen: Numbers,
    names: Sequence[str],
) -> Numbers:
    """Return one number per chosen row, equal for rows of a file that are equal in some columns.

    Args:
        rows: The rows.
        chosen: shape (n,), indices of rows.
        names: Columns to compare.

    Returns:
        shape (n,).
    """
    compared = rows.values.select(list(names)).take(chosen)  # noqa: PD011
    return codes_of(compared, rows.file_index[chosen])


def codes_of(
    compared: pa.Table,
    codes: Numbers,
) -> Numbers:
    """Return one number per row, equal for rows with equal values and equal numbers before.

    Args:
        compared: shape (n, n_columns).
        codes: shape (n,), such as the index of each row's file.

    Returns:
        shape (n,).
    """
    import pandas as pd

    for column in compared.columns:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        n_distinct = indices.max(initial=0) + 1
        # Renumbered after each column, so that the product never overflows.
        codes = pd.factorize(codes * n_distinct + indices)[0]
    return codes
