"""Name the features that moved each score most, as JSON, column by column: no loop over rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Matrix = npt.NDArray[np.float64]
    Places = npt.NDArray[np.int64]

DIGITS = 6
"""Decimals of a contribution: below what a person reads, above the noise of the last bits."""


def top_reasons(
    contributions: Matrix, names: list[str], rows: pa.Table, n_reasons: int
) -> pa.Array:
    """Return one JSON list per row: ``[{feature, value, contribution}]``, the strongest first.

    Args:
        contributions: What each feature adds to the raw score; shape (n, k).
        names: The k features, in the order of the columns.
        rows: The rows' values, shape (n, any); at least the k features.
        n_reasons: Length of each list at most; a feature that adds nothing is left out. Ties go to
            the feature that comes first.

    Returns:
        Texts, shape (n,).
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    n_reasons = min(n_reasons, len(names))
    if n_reasons == 0 or not rows.num_rows:
        return pa.repeat(pa.scalar("[]"), rows.num_rows)
    places = _strongest(contributions, n_reasons)
    added = np.round(np.take_along_axis(contributions, places, axis=1), DIGITS)
    texts = _texts(places.ravel(), added.ravel(), names, rows)
    columns = [
        texts.take(pa.array(np.arange(slot, len(texts), n_reasons))) for slot in range(n_reasons)
    ]
    # The strongest come first, so the ones that add nothing, which are null, stand at the end.
    later = [pc.binary_join_element_wise(", ", column, "") for column in columns[1:]]
    return pc.binary_join_element_wise(
        "[", *(pc.fill_null(column, "") for column in (columns[0], *later)), "]", ""
    )


def _strongest(contributions: Matrix, n_reasons: int) -> Places:
    """Return the columns of the largest absolute values of each row, the largest first; shape (n, n_reasons)."""
    import numpy as np

    strength = np.abs(contributions)
    places = np.empty((len(strength), n_reasons), dtype=np.int64)
    everyone = np.arange(len(strength))
    for slot in range(n_reasons):
        # The first of equals, as a stable sort has it.
        places[:, slot] = strength.argmax(axis=1)
        strength[everyone, places[:, slot]] = -1.0
    return places


def _texts(
    places: Places, added: npt.NDArray[np.float64], names: list[str], rows: pa.Table
) -> pa.Array:
    """Return one JSON object per pair of row and slot, null where the feature adds nothing; shape (n * n_reasons,)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    n_reasons = len(places) // rows.num_rows
    order = np.argsort(places, kind="stable")
    bounds = np.searchsorted(places[order], np.arange(len(names) + 1))
    values, heads = [], []
    for place, name in enumerate(names):
        mine = order[bounds[place] : bounds[place + 1]]
        if len(mine):
            values.append(_values(rows.column(name).take(pa.array(mine // n_reasons))))
            heads.append(
                pa.repeat(pa.scalar(f'{{"feature": {json.dumps(name)}, "value": '), len(mine))
            )
    contribution = pa.array(added[order], mask=added[order] == 0).cast(pa.string())
    sorted_texts = pc.binary_join_element_wise(
        pa.concat_arrays(heads),
        pa.concat_arrays(values),
        pa.scalar(', "contribution": '),
        contribution,
        pa.scalar("}"),
        "",
    )
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return sorted_texts.take(pa.array(back))


def _values(column: pa.ChunkedArray) -> pa.Array:
    """Return values as JSON; missing and NaN are null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    kind = column.type
    if (
        pa.types.is_floating(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        texts = column.cast(pa.string())
    else:
        # As many texts to escape as there are levels, not rows.
        coded = pc.dictionary_encode(column.cast(pa.string())).combine_chunks()
        levels = pa.array(
            [json.dumps(level) for level in coded.dictionary.to_pylist()], pa.string()
        )
        texts = levels.take(coded.indices)
    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    return pc.fill_null(whole, "null")
