"""Say what moved each score, as JSON, column by column: top features, and sums by cause."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightshift.contracts.scoring_spec import OTHER_CAUSE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.scoring_spec import Cause

    Matrix = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.int64]

DIGITS = 6
"""Decimals of a contribution: below what a person reads, above the noise of the last bits."""

CAUSE_DIGITS = 9
"""Decimals of a cause's sum: the sums of all causes are the raw score minus the base to 1e-8."""


def sums_by_cause(contributions: Matrix, names: Sequence[str], causes: Sequence[Cause]) -> pa.Array:
    """Return one JSON object per row: what the features of each cause add to the raw score.

    Args:
        contributions: What each feature adds to the raw score; shape (n, k).
        names: The k features, in the order of the columns.
        causes: Groups of features. Features without a cause are the cause ``OTHER_CAUSE``; a model
            of before may lack features of the spec.

    Returns:
        Strings such as ``{"weather": -0.41, "route": 0.2}``, shape (n,).
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    pieces: list[object] = []
    for cause, columns in columns_by_cause(names, causes).items():
        # Column by column: a row's sum does not depend on how many rows there are.
        total = np.zeros(len(contributions))
        for column in columns:
            total += contributions[:, column]
        pieces += [", " if pieces else "{", f"{json.dumps(cause)}: "]
        # Adding zero turns a negative zero into a zero.
        pieces.append(pa.array(np.round(total, CAUSE_DIGITS) + 0.0).cast(pa.string()))
    return pc.binary_join_element_wise(*pieces, "}", "")


def columns_by_cause(names: Sequence[str], causes: Sequence[Cause]) -> dict[str, list[int]]:
    """Return the columns of each cause that has any, by its name; the rest comes last."""
    grouped: dict[str, list[int]] = {}
    rest = set(names)
    for cause in causes:
        grouped[cause.name] = [names.index(name) for name in cause.features if name in rest]
        rest -= set(cause.features)
    grouped[OTHER_CAUSE] = [column for column, name in enumerate(names) if name in rest]
    return {cause: columns for cause, columns in grouped.items() if columns}


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
        Strings, shape (n,).
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    n_reasons = min(n_reasons, len(names))
    if n_reasons == 0 or not rows.num_rows:
        return pa.repeat(pa.scalar("[]"), rows.num_rows)
    strongest = _strongest(contributions, n_reasons)
    added = np.round(np.take_along_axis(contributions, strongest, axis=1), DIGITS)
    objects = _json_objects(strongest.ravel(), added.ravel(), names, rows)

    # The strongest come first. So those that add nothing, which are null, stand at the end.
    pieces: list[object] = ["["]
    for rank in range(n_reasons):
        column = objects.take(pa.array(np.arange(rank, len(objects), n_reasons)))
        if rank > 0:
            column = pc.binary_join_element_wise(", ", column, "")
        pieces.append(pc.fill_null(column, ""))
    return pc.binary_join_element_wise(*pieces, "]", "")


def _strongest(contributions: Matrix, n_reasons: int) -> Indices:
    """Return the columns of each row's largest absolute values, in order; shape (n, n_reasons)."""
    import numpy as np

    strength = np.abs(contributions)
    columns = np.empty((len(strength), n_reasons), dtype=np.int64)
    all_rows = np.arange(len(strength))
    for rank in range(n_reasons):
        # argmax takes the first of equals, as a stable sort does.
        columns[:, rank] = strength.argmax(axis=1)
        strength[all_rows, columns[:, rank]] = -1.0
    return columns


def _json_objects(
    columns: Indices, added: npt.NDArray[np.float64], names: list[str], rows: pa.Table
) -> pa.Array:
    """Return one JSON object per row and rank, null if nothing is added; shape (n * n_reasons,)."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    n_reasons = len(columns) // rows.num_rows
    # Grouped by feature, the values of one column are taken and formatted together.
    order = np.argsort(columns, kind="stable")
    bounds = np.searchsorted(columns[order], np.arange(len(names) + 1))
    values, heads = [], []
    for index, name in enumerate(names):
        group = order[bounds[index] : bounds[index + 1]]
        if len(group):
            values.append(_json_values(rows.column(name).take(pa.array(group // n_reasons))))
            head = f'{{"feature": {json.dumps(name)}, "value": '
            heads.append(pa.repeat(pa.scalar(head), len(group)))
    contribution = pa.array(added[order], mask=added[order] == 0).cast(pa.string())
    grouped = pc.binary_join_element_wise(
        pa.concat_arrays(heads),
        pa.concat_arrays(values),
        pa.scalar(', "contribution": '),
        contribution,
        pa.scalar("}"),
        "",
    )
    ungroup = np.empty_like(order)
    ungroup[order] = np.arange(len(order))
    return grouped.take(pa.array(ungroup))


def _json_values(column: pa.ChunkedArray) -> pa.Array:
    """Return values as JSON; missing and NaN are null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    if _is_json_literal(column.type):
        strings = column.cast(pa.string()).combine_chunks()
    else:
        # Only distinct values are escaped, not every row.
        coded = pc.dictionary_encode(column.cast(pa.string())).combine_chunks()
        escaped = [json.dumps(value) for value in coded.dictionary.to_pylist()]
        strings = pa.array(escaped, pa.string()).take(coded.indices)
    return pc.fill_null(strings, "null")


def _is_json_literal(data_type: pa.DataType) -> bool:
    """Return whether the string of a value is JSON as it stands."""
    import pyarrow as pa

    types = pa.types
    is_literal = (types.is_floating, types.is_integer, types.is_decimal, types.is_boolean)
    return any(is_type(data_type) for is_type in is_literal)
