"""Name the features that moved each score most."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Matrix = npt.NDArray[np.float64]

DIGITS = 6
"""Decimals of a contribution: below what a person reads, above the noise of the last bits."""


def top_reasons(contributions: Matrix, names: list[str], rows: pa.Table, n_reasons: int) -> list[str]:
    """Return one JSON list per row: ``[{feature, value, contribution}]``, the strongest first.

    Args:
        contributions: What each feature adds to the raw score; shape (n, k).
        names: The k features, in the order of the columns.
        rows: The rows' values, shape (n, any); at least the k features.
        n_reasons: Length of each list at most; a feature that adds nothing is left out. Ties go to the feature that comes first.
    """
    import numpy as np

    if n_reasons == 0 or not rows.num_rows:
        return ["[]"] * rows.num_rows
    places = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :n_reasons]
    values = {place: rows.column(names[place]).to_pylist() for place in np.unique(places).tolist()}
    return [
        _as_json([(names[place], values[place][row], float(contributions[row, place])) for place in chosen])
        for row, chosen in enumerate(places.tolist())
    ]


def _as_json(reasons: list[tuple[str, object, float]]) -> str:
    return json.dumps(
        [
            {"feature": name, "value": None if value != value else value, "contribution": round(contribution, DIGITS)}  # noqa: PLR0124  (NaN)
            for name, value, contribution in reasons
            if round(contribution, DIGITS) != 0
        ]
    )
