"""How far the nights of the training set themselves lie from the reference: what is usual cannot be drift.

The training set is immutable, so the same champion gives the same noise on every rerun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nightshift.models.signature import numbers
from nightshift.monitoring.drift import SCORE, expected_shares, stability_index

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.models.trained_model import TrainedModel

NOISE_QUANTILE = 0.95
"""One of twenty training nights lies beyond. Source: docs/adr/0009-gates-and-monitoring.md,
measured on 2013.
"""


def training_noise(trained: TrainedModel, rows: pa.Table) -> dict[str, float]:
    """Return, by column and for ``score``, the stability index that one of twenty nights of the training set exceeds.

    Args:
        trained: The champion.
        rows: Its whole training set. The scores of all its nights count: the few unseen ones show
            too little of how nights differ.
    """
    reference = trained.reference
    noise = {
        name: _nightly_quantile(rows, _bins_of_numbers(numbers(rows, name), part), part)
        for name, part in reference["numeric"].items()
    }
    noise |= {
        name: _nightly_quantile(rows, _bins_of_levels(rows, name, part), part)
        for name, part in reference["categorical"].items()
    }
    scores = _bins_of_numbers(trained.predictions(rows).score, reference[SCORE])
    return noise | {SCORE: _nightly_quantile(rows, scores, reference[SCORE])}


def _bins_of_numbers(
    values: npt.NDArray[np.float64], reference: Mapping[str, Any]
) -> npt.NDArray[np.int64]:
    import numpy as np

    edges = reference["edges"]
    return np.where(
        np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right")
    ).astype(np.int64)


def _bins_of_levels(
    rows: pa.Table, name: str, reference: Mapping[str, Any]
) -> npt.NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    levels = sorted(reference["shares"])
    texts = rows.column(name).cast(pa.string())
    place = pc.fill_null(pc.index_in(texts, value_set=pa.array(levels, pa.string())), len(levels))
    found: npt.NDArray[np.int64] = (
        pc.if_else(pc.is_null(texts), len(levels) + 1, place).cast(pa.int64()).to_numpy()
    )
    return found


def _nightly_quantile(
    rows: pa.Table, bins: npt.NDArray[np.int64], reference: Mapping[str, Any]
) -> float:
    import numpy as np

    expected = expected_shares(reference)
    _, night = np.unique(rows.column("partition_date").to_numpy(), return_inverse=True)
    n_nights = int(night.max()) + 1
    counts = np.bincount(night * len(expected) + bins, minlength=n_nights * len(expected)).reshape(
        n_nights, len(expected)
    )
    n_reference = int(reference["n"])
    return float(
        np.quantile(
            [stability_index(one.tolist(), expected, n_reference) for one in counts], NOISE_QUANTILE
        )
    )
