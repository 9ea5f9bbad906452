"""Encode categories by their labels: what was known of a level on the evening of each night.

A training row gets the mean label of its level over the rows whose labels were mature on its own
night, less that of all rows, shrunk by the number of rows. So no label of its own night or of a
later one is in it, and the level of a season, which all rows share, is in none. Source:
Prokhorenkova et al. (2018), CatBoost, section 3.2 (ordered target statistics);
docs/adr/0065-averaged-nights-and-encoded-labels.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from nightshift.models.signature import EncodedCategory, level_codes

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import CategoricalFeature, ModelSpec
    from nightshift.models.arrays import Integers, Vector


def encode_targets(
    spec: ModelSpec, rows: pa.Table, label: Vector, day: Integers
) -> tuple[list[EncodedCategory], dict[str, Vector]]:
    """Return the encoded categories as scoring reads them, and the values of the rows of the fit.

    Args:
        spec: Its ``training.recipe.target_encoding`` says which.
        rows: The rows of the fit; shape (n, any).
        label: Their labels; shape (n,).
        day: Their nights as numbers; shape (n,).
    """
    encoding = spec.training.recipe.target_encoding
    # On the evening of a night the newest mature labels are those of so many nights before.
    lag = 1 + spec.label.maturity_days
    categories = []
    as_of = {}
    for feature in spec.features.categorical:
        if feature.name not in encoding.columns:
            continue
        levels = _levels(feature, rows)
        codes = level_codes(rows, feature.name, levels)
        sums = _LevelSums(len(levels), encoding.prior_rows)
        as_of[feature.name] = _values_by_night(sums, codes, label, day, lag)
        *values, missing, _ = sums.values().tolist()
        categories.append(EncodedCategory(feature.name, levels, tuple(values), missing))
    return categories, as_of


def _levels(feature: CategoricalFeature, rows: pa.Table) -> tuple[str, ...]:
    """Return the declared levels, or all levels of the rows: rare ones are shrunk, not left out."""
    if feature.levels:
        return feature.levels
    distinct = pc.drop_null(rows.column(feature.name).unique())
    return tuple(sorted(distinct.to_pylist()))


def _values_by_night(
    sums: _LevelSums, codes: Integers, label: Vector, day: Integers, lag: int
) -> Vector:
    """Return what was known of each row's level on its night; all rows are then in the sums."""
    order = np.argsort(day, kind="stable")
    day = day[order]
    days, starts = np.unique(day, return_index=True)
    stops = [*starts[1:], len(order)]
    known = np.empty(len(order))
    n_added = 0
    for own_day, start, stop in zip(days, starts, stops, strict=True):
        n_mature = int(np.searchsorted(day, own_day - lag, side="right"))
        sums.add(codes[order[n_added:n_mature]], label[order[n_added:n_mature]])
        n_added = n_mature
        of_day = order[start:stop]
        known[of_day] = sums.values()[codes[of_day]]
    sums.add(codes[order[n_added:]], label[order[n_added:]])
    return known


@dataclass
class _LevelSums:
    """Rows and labels by code, of ``level_codes``.

    Attributes:
        n_levels: Known levels.
        prior_rows: Rows that speak for no difference.
    """

    n_levels: int
    prior_rows: int
    counts: Vector = field(init=False)
    totals: Vector = field(init=False)

    def __post_init__(self) -> None:
        # Missing and unknown levels come after the known ones.
        self.counts = np.zeros(self.n_levels + 2)
        self.totals = np.zeros(self.n_levels + 2)

    def add(self, codes: Integers, label: Vector) -> None:
        """Add rows in their order."""
        size = self.counts.size
        self.counts += np.bincount(codes, minlength=size)
        self.totals += np.bincount(codes, weights=label, minlength=size)

    def values(self) -> Vector:
        """Return the shrunk difference of each code from the mean of all rows."""
        mean = self.totals.sum() / max(self.counts.sum(), 1.0)
        differences = (self.totals - mean * self.counts) / (self.counts + self.prior_rows)
        # Rows of unknown levels have nothing in common.
        differences[-1] = 0.0
        return np.asarray(differences)
