"""The reference profile of a model: its training rows in bins, so that SQL can measure drift.

Bins are half-open to the right, ``[edge, next edge)``, as PostgreSQL's ``width_bucket(value,
edges)`` counts them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.models.signature import numbers
from nightshift.quality.drift_statistics import SAME_NUMBER

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.models.arrays import Vector
    from nightshift.models.signature import Signature


BINS = 10
"""Quantile bins of a feature; ties make them fewer. Source: Siddiqi, Credit Risk Scorecards
(2006).
"""


def describe(rows: pa.Table, signature: Signature, score: Vector) -> dict[str, Any]:
    """Return the reference profile.

    Args:
        rows: The rows that describe normal: those of the fit and the validation.
        signature: The model's columns.
        score: Scores, as they are published, of rows that the trees were not fitted on; shape
            (any,).

    Returns:
        ``numeric``: name to ``edges`` (m inner edges), ``shares`` (m + 1, of the rows that are not
            null), ``missing_share``, ``mean``, ``std``, ``n``;
        ``categorical``: name to ``shares`` of every level seen (of the rows that are not null),
            ``missing_share``, ``n``;
        ``score``: like one numeric column.
    """
    return {
        "numeric": {name: profile_numbers(numbers(rows, name)) for name in signature.numeric},
        "categorical": {name: _profile_levels(rows, name) for name in signature.text_names},
        "score": profile_numbers(score),
    }


def profile_numbers(values: Vector) -> dict[str, Any]:
    """Return edges, shares, share of NaN, mean and standard deviation of numbers of shape (n,)."""
    # Missing values have a share of their own and are in no bin.
    known = values[~np.isnan(values)]
    edges: list[float] = []
    mean = std = None
    if known.size:
        edges = quantile_edges(known, BINS)
        mean, std = float(known.mean()), float(known.std())
    bins = np.searchsorted(edges, known, side="right")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    return {
        "edges": edges,
        "shares": (counts / max(known.size, 1)).tolist(),
        "missing_share": float(1 - known.size / max(values.size, 1)),
        "mean": mean,
        "std": std,
        "n": int(values.size),
    }


def quantile_edges(values: Vector, n_bins: int) -> list[float]:
    """Return the distinct inner edges of equally filled bins.

    A value that fills a bin alone gets a bin of its own. Otherwise a constant column would have a
    single bin, and a value that fills most rows would share one with all smaller or greater values:
    no drift could be seen.
    """
    edges = np.quantile(values, np.arange(1, n_bins) / n_bins, method="higher")
    # A value with this share of the rows is one of the edges, or the smallest or greatest.
    candidates = np.unique([*edges, values.min(), values.max()])
    counts = np.array([np.count_nonzero(values == candidate) for candidate in candidates])
    frequent = candidates[counts * n_bins >= values.size]
    rare = np.setdiff1d(edges, frequent)
    largest = float(np.abs(values).max())
    # Zeros alone would give a tolerance of 0, and two equal edges.
    tolerance = max(SAME_NUMBER * largest, float(np.finfo(np.float64).tiny))
    # A frequent value is enclosed by two edges, closer than two different numbers can be.
    enclosing = [*(frequent - tolerance), *(frequent + tolerance)]
    inner: list[float] = np.unique([*rare, *enclosing]).tolist()
    return inner


def _profile_levels(rows: pa.Table, name: str) -> dict[str, Any]:
    import pyarrow as pa

    levels = rows.column(name).cast(pa.string()).value_counts().to_pylist()
    counts = {level["values"]: level["counts"] for level in levels}
    n_missing = counts.pop(None, 0)
    n_known = sum(counts.values())
    return {
        "shares": {level: counts[level] / n_known for level in sorted(counts)},
        "missing_share": n_missing / rows.num_rows,
        "n": rows.num_rows,
    }
