"""What columns are like, without a model: redundant ones, and those with few values a night."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.signature import encode, learn_signature
from nightshift.studies.findings import Finding
from nightshift.training.recipe.members import days_of
from nightshift.training.splits import evenly_spaced

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Matrix

CORRELATED = 0.9
"""Rank correlation from which two columns say nearly the same to trees, which see ranks only."""
SAMPLED_ROWS = 20_000
FEW_VALUES = 3
"""So many distinct values of a night are a fact of the night or of a group, not of a row."""


def redundant_columns(spec: ModelSpec, rows: pa.Table) -> Iterator[Finding]:
    """Yield the numeric features of each group whose members are linked by rank correlations."""
    from scipy.sparse.csgraph import connected_components

    names = list(spec.features.numeric)
    if len(names) <= 1:
        return
    sample = evenly_spaced(rows, SAMPLED_ROWS)
    signature = learn_signature(spec.features, rows)
    # Categories come last; their codes have no order to correlate.
    matrix = encode(sample, signature)[:, : len(names)]
    strength = _rank_correlations(matrix)
    np.fill_diagonal(strength, 0.0)
    _, groups = connected_components(strength >= CORRELATED, directed=False)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if members.size <= 1:
            continue
        # A chain of pairs is one group, also where its ends differ.
        for column in members:
            partner = int(strength[column].argmax())
            yield Finding(
                "redundant",
                names[column],
                float(strength[column, partner]),
                period=names[members[0]],
                note=f"most like {names[partner]}",
            )


def _rank_correlations(matrix: Matrix) -> Matrix:
    """Return absolute Spearman correlations; a missing value has the mean rank, shape (k, k)."""
    from scipy.stats import rankdata

    ranks = rankdata(matrix, axis=0, nan_policy="omit")
    ranks = np.where(np.isnan(ranks), np.nanmean(ranks, axis=0), ranks)
    ranks = np.nan_to_num(ranks - ranks.mean(axis=0))
    norms = np.sqrt((ranks**2).sum(axis=0))
    # A constant column correlates with nothing.
    norms[norms == 0] = np.inf
    scaled = ranks / norms
    return np.asarray(np.abs(scaled.T @ scaled))


def night_constant_columns(spec: ModelSpec, rows: pa.Table) -> Iterator[Finding]:
    """Yield the features that have at most ``FEW_VALUES`` distinct values on every night.

    Such a column cannot tell the rows of a night apart, or only groups of them.
    """
    signature = learn_signature(spec.features, rows)
    matrix = encode(rows, signature)
    days = days_of(rows)
    most = np.zeros(len(signature.names), dtype=np.int64)
    for day in np.unique(days):
        rows_of_day = matrix[days == day]
        # NaN counts as one value: missing on all rows is constant too.
        n_distinct = [np.unique(values).size for values in rows_of_day.T]
        most = np.maximum(most, n_distinct)
    for name, n_values in zip(signature.names, most.tolist(), strict=True):
        if n_values <= FEW_VALUES:
            note = f"at most {n_values} values a night"
            if n_values == 1:
                note = "one value a night"
            yield Finding("night_constant", name, float(n_values), note=note)
