"""How well one feature alone tells the outcome: what a leak looks like from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.models.signature import encode, numbers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.signature import Signature

    Vector = npt.NDArray[np.float64]
    Matrix = npt.NDArray[np.float64]

MAXIMUM_ROWS = 20_000


def best_separation(
    signature: Signature, fit_rows: pa.Table, rows: pa.Table, spec: ModelSpec
) -> tuple[str, float]:
    """Return the feature that separates the labels best, and how well, 0 to 1.

    Args:
        signature: What the model reads; a category counts as the mean label of its level.
        fit_rows: Where these means are taken.
        rows: Where the separation is measured; at most 20,000 of them, evenly spaced.
        spec: Label and task.

    Returns:
        Name, and the area under the ROC curve in the better direction (binary) or the size of
            Spearman's correlation (regression).
    """
    import numpy as np

    later = rows.take(np.unique(np.linspace(0, rows.num_rows - 1, MAXIMUM_ROWS).astype(np.int64)))
    matrix, label = encode(later, signature), numbers(later, spec.label.column)
    known, outcome = encode(fit_rows, signature), numbers(fit_rows, spec.label.column)
    for place in signature.categorical_positions:
        matrix[:, place] = _level_means(known[:, place], outcome, matrix[:, place])
    found = {
        name: _separation(matrix[:, place], label, spec.task)
        for place, name in enumerate(signature.names)
    }
    best = max(found, key=lambda name: found[name])
    return best, found[best]


def _level_means(known: Vector, outcome: Vector, codes: Vector) -> Vector:
    """Return the mean outcome of each code's level; missing is a level of its own."""
    import numpy as np

    before, after = (
        np.nan_to_num(values, nan=-1.0).astype(np.int64) + 1 for values in (known, codes)
    )
    n_levels = int(max(before.max(initial=0), after.max(initial=0))) + 1
    counts = np.bincount(before, minlength=n_levels)
    means = np.bincount(before, weights=outcome, minlength=n_levels) / np.maximum(counts, 1)
    return np.asarray(means[after], dtype=np.float64)


def _separation(values: Vector, label: Vector, task: Task) -> float:
    """Return the better of two: missing values below all others, or above."""
    import numpy as np

    is_missing = np.isnan(values)
    if is_missing.all():
        return 0.0
    sides = [
        values.min(where=~is_missing, initial=np.inf) - 1,
        values.max(where=~is_missing, initial=-np.inf) + 1,
    ]
    filled = [
        np.where(is_missing, side, values) for side in (sides if is_missing.any() else sides[:1])
    ]
    return max(_one_sided(each, label, task) for each in filled)


def _one_sided(values: Vector, label: Vector, task: Task) -> float:
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(values)
    if np.ptp(ranks) == 0:
        return 0.0
    if task != Task.BINARY:
        return float(abs(np.corrcoef(ranks, rankdata(label))[0, 1]))
    n_positive = float(label.sum())
    area = (ranks[label > 0].sum() - n_positive * (n_positive + 1) / 2) / (
        n_positive * (label.size - n_positive)
    )
    return float(max(area, 1 - area))
