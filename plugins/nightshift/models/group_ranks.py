"""Groups of rows that are ordered by score: ranks, and how good the order is.

Rows of equal score count as their mean over all orders of them, so no order of the rows can flatter
a constant score. Source: Järvelin & Kekäläinen (2002), Cumulated gain-based evaluation of IR
techniques; McSherry & Najork (2008), Computing information retrieval performance measures
efficiently in the presence of tied scores; docs/adr/0062-ranking.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.models.arrays import Integers, Mask, Vector
    from nightshift.models.predictions import Predictions


def ranks_of(predictions: Predictions) -> Integers:
    """Return the rank of each row in its group, from 1; of equal scores the first row first.

    Args:
        predictions: With their groups.
    """
    import numpy as np

    score, groups = predictions.score, predictions.groups
    assert groups is not None  # noqa: S101 - predictions of a ranking
    order = np.lexsort((-score, groups.codes))
    rank = np.empty(score.size, dtype=np.int64)
    rank[order] = _positions(groups.codes[order]) + 1
    return rank


def relative_positions(predictions: Predictions) -> Vector:
    """Return the position of each row in its group: 1 for the first row, 0 for the last."""
    import numpy as np

    groups = predictions.groups
    assert groups is not None  # noqa: S101 - predictions of a ranking
    _, codes, sizes = np.unique(groups.codes, return_inverse=True, return_counts=True)
    return np.asarray(1 - (ranks_of(predictions) - 1) / np.maximum(sizes[codes] - 1, 1))


def _positions(codes: Integers) -> Integers:
    """Return the position of each row within its group, from 0; rows of a group stand together."""
    import numpy as np

    _, starts, counts = np.unique(codes, return_index=True, return_counts=True)
    positions: Integers = np.arange(codes.size) - np.repeat(starts, counts)
    return positions


@dataclass(frozen=True)
class GroupMetrics:
    """The metrics of the groups that have an order to judge.

    A group whose rows are all equally relevant, such as a group of one row or without a relevant
    one, has no better and no worse order: it is left out.

    Attributes:
        first_row: Number of the first row of each judged group; shape (groups,).
        values: By metric its value for each judged group; shape (groups,).
        n_groups: All groups.
    """

    first_row: Integers
    values: dict[str, Vector]
    n_groups: int

    def means(self) -> dict[str, float]:
        """Return the mean of each metric; NaN where no group is judged."""
        import numpy as np

        if not self.first_row.size:
            return dict.fromkeys(self.values, float("nan"))
        return {name: float(np.mean(values)) for name, values in self.values.items()}


def measure_groups(label: Vector, predictions: Predictions) -> GroupMetrics:
    """Measure the order of each group.

    Args:
        label: Relevance of each row, a whole number from 0; shape (n,).
        predictions: With their groups.
    """
    import numpy as np

    groups = predictions.groups
    assert groups is not None  # noqa: S101 - predictions of a ranking
    is_judged = judged_rows(label, groups.codes)
    # Groups by number, and the rows of each from the highest score to the lowest.
    rows = np.flatnonzero(is_judged)
    rows = rows[np.lexsort((-predictions.score[rows], groups.codes[rows]))]
    names, codes = np.unique(groups.codes[rows], return_inverse=True)
    position = _positions(codes)
    score = predictions.score[rows]
    is_first_of_equals = np.append(True, (np.diff(score) != 0) | (np.diff(codes) != 0))
    ties = np.cumsum(is_first_of_equals[: rows.size]) - 1

    is_top = position < groups.top_k
    discount = np.where(is_top, 1 / np.log2(position + 2), 0.0)
    gain: Vector = np.exp2(label[rows]) - 1
    best = gain[np.lexsort((-gain, codes))]
    relevant = (label[rows] > 0).astype(np.float64)
    n_groups = names.size

    def total(values: Vector) -> Vector:
        return np.bincount(codes, weights=values, minlength=n_groups).astype(np.float64)

    hits = total(_mean_of(ties, relevant) * is_top)
    gained = total(_mean_of(ties, gain) * discount)
    first_row = np.full(n_groups, label.size, dtype=np.int64)
    np.minimum.at(first_row, codes, rows)
    return GroupMetrics(
        first_row=first_row,
        values={
            "ndcg": gained / total(best * discount),
            "precision_at_k": hits / total(is_top.astype(np.float64)),
            "recall_at_k": hits / total(relevant),
        },
        n_groups=np.unique(groups.codes).size,
    )


def judged_rows(label: Vector, codes: Integers) -> Mask:
    """Return which rows are of a group that has an order to judge; shape (n,).

    Args:
        label: Relevance of each row; shape (n,).
        codes: The group of each row, from 0; shape (n,).
    """
    import numpy as np

    n_groups = int(codes.max(initial=-1)) + 1
    lowest, highest = np.full(n_groups, np.inf), np.full(n_groups, -np.inf)
    np.minimum.at(lowest, codes, label)
    np.maximum.at(highest, codes, label)
    return np.asarray((lowest < highest)[codes])


def count_groups(label: Vector, codes: Integers) -> dict[str, int]:
    """Return how many groups there are, and why some tell nothing of an order.

    Args:
        label: Relevance of each row; shape (n,).
        codes: The group of each row, from 0; shape (n,).

    Returns:
        ``n_groups``, ``n_judged``, ``n_single`` (of one row), ``n_irrelevant`` (of several rows,
            none of them relevant).
    """
    import numpy as np

    _, codes = np.unique(codes, return_inverse=True)
    sizes = np.bincount(codes)
    n_relevant = np.bincount(codes, weights=label > 0)
    return {
        "n_groups": sizes.size,
        "n_judged": np.unique(codes[judged_rows(label, codes)]).size,
        "n_single": int((sizes == 1).sum()),
        "n_irrelevant": int(((sizes > 1) & (n_relevant == 0)).sum()),
    }


def _mean_of(ties: Integers, values: Vector) -> Vector:
    """Return for each row the mean of all rows of its group that have its score."""
    import numpy as np

    means = np.bincount(ties, weights=values) / np.bincount(ties)
    return np.asarray(means[ties])
