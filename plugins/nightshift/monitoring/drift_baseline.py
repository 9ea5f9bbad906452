"""The drift baseline: how far the partitions of the training set itself are from the reference.

The training set is immutable, so a champion has the same baseline on every rerun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nightshift.models.signature import numbers
from nightshift.monitoring.drift import SCORE, expected_shares
from nightshift.quality.drift_statistics import binned_stability_index

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.models.trained_model import TrainedModel

    Bins = npt.NDArray[np.int64]

# One in twenty training partitions is further away. Source: docs/adr/0009-gates-and-monitoring.md,
# measured on 2013.
NOISE_QUANTILE = 0.95


def training_noise(trained: TrainedModel, rows: pa.Table) -> dict[str, float]:
    """Return the stability index that one in twenty training partitions exceeds.

    Args:
        trained: The champion.
        rows: Its complete training set.

    Returns:
        By feature, and for ``score``.
    """
    reference = trained.reference
    noise: dict[str, float] = {}
    for name, profile in reference["numeric"].items():
        bins = _number_bins(numbers(rows, name), profile)
        noise[name] = _quantile(rows, bins, profile)
    for name, profile in reference["categorical"].items():
        bins = _level_bins(rows, name, profile)
        noise[name] = _quantile(rows, bins, profile)
    # The scores of all partitions count: the few unseen ones show too little of the variation.
    profile = reference[SCORE]
    scores = _number_bins(trained.predictions(rows).score, profile)
    noise[SCORE] = _quantile(rows, scores, profile)
    return noise


def _number_bins(values: npt.NDArray[np.float64], profile: Mapping[str, Any]) -> Bins:
    """Return the bin of each value; missing ones are in the last bin."""
    import numpy as np

    edges = profile["edges"]
    bins = np.searchsorted(edges, values, side="right")
    return np.where(np.isnan(values), len(edges) + 1, bins).astype(np.int64)


def _level_bins(rows: pa.Table, name: str, profile: Mapping[str, Any]) -> Bins:
    """Return the index of each level; then come the bins of other levels and of missing ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    levels = sorted(profile["shares"])
    values = rows.column(name).cast(pa.string())
    index = pc.index_in(values, value_set=pa.array(levels, pa.string()))
    index = pc.fill_null(index, len(levels))
    index = pc.if_else(pc.is_null(values), len(levels) + 1, index)
    bins: Bins = index.cast(pa.int64()).to_numpy()
    return bins


def _quantile(rows: pa.Table, bins: Bins, profile: Mapping[str, Any]) -> float:
    """Return the quantile of the partitions' stability indices."""
    import numpy as np

    expected = expected_shares(profile)
    dates = rows.column("partition_date").to_numpy()
    days, partition = np.unique(dates, return_inverse=True)
    n_partitions, n_bins = len(days), len(expected)
    # One bincount over (partition, bin) pairs counts all partitions at once.
    pair = partition * n_bins + bins
    counts = np.bincount(pair, minlength=n_partitions * n_bins)
    n_reference = int(profile["n"])
    indices = [
        binned_stability_index(row.tolist(), expected, n_reference)
        for row in counts.reshape(n_partitions, n_bins)
    ]
    return float(np.quantile(indices, NOISE_QUANTILE))
