"""How far two summaries of a column are apart: the stability index, Jensen-Shannon and Wasserstein distances."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nightshift.quality.sketches.sketch import NumberSketch, TextSketch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.quality.sketches.sketch import Sketch

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

FEW_VALUES = 20
"""Up to so many distinct numbers of the reference count one by one, like levels."""
SMALLEST_SHARE = 1e-4
"""A bin that is empty on one side counts as this much, so that its logarithm is finite."""
SAME_NUMBER = 1e-13
"""Distance, as a share of a column's greatest number, up to which sums in another order differ."""


def stability_index(reference: Sketch, current: Sketch) -> float:
    """Return the population stability index in nats, 0 is best; bins as ``jensen_shannon`` has them.

    Missing values are a bin, as in ``monitoring.drift``: a column that is filled for the first time
    is far from an empty one.

    Source: Siddiqi, Credit Risk Scorecards (2006).
    """
    import numpy as np

    counts = _counts(reference, current)
    sides = zip(counts, (reference, current), strict=True)
    shares = [np.append(known, side.n_missing) / max(side.n_rows, 1) for known, side in sides]
    expected, found = (np.maximum(side, SMALLEST_SHARE) for side in shares)
    return float(np.sum((found - expected) * np.log(found / expected)))


def jensen_shannon(reference: Sketch, current: Sketch) -> float:
    """Return the Jensen-Shannon distance with natural logarithms, 0 (equal) to 0.833 (disjoint).

    Numbers fall into equally wide bins, as many as Sturges' rule says, as in Evidently; texts into
    their levels.
    """
    import numpy as np

    first, second = _shares(reference, current)
    middle = (first + second) / 2
    divergence = (
        sum(
            np.sum(side[side > 0] * np.log(side[side > 0] / middle[side > 0]))
            for side in (first, second)
        )
        / 2
    )
    return math.sqrt(max(float(divergence), 0.0))


def wasserstein(reference: NumberSketch, current: NumberSketch) -> float:
    """Return the area between both distribution functions, in standard deviations of the reference; 0 is best.

    A number is off by half a bin at most, so the distance is off by 1/128 of the mean absolute
    value at most, in the same unit.

    Raises:
        ValueError: A side has no number.
    """
    import numpy as np

    first, second = reference.middles(), current.middles()
    if not first[0].size or not second[0].size:
        raise ValueError("a distance to no numbers")
    edges = np.union1d(first[0], second[0])
    below = [
        np.concatenate([[0], np.cumsum(n)])[np.searchsorted(x, edges, side="right")] / n.sum()
        for x, n in (first, second)
    ]
    area = float(np.sum(np.abs(below[0] - below[1])[:-1] * np.diff(edges)))
    return area / max(reference.std or 0.0, 1e-12)


def _shares(reference: Sketch, current: Sketch) -> tuple[Doubles, Doubles]:
    first, second = _counts(reference, current)
    if not first.sum() or not second.sum():
        raise ValueError("a distance to no values")
    return first / first.sum(), second / second.sum()


def _counts(reference: Sketch, current: Sketch) -> tuple[Doubles, Doubles]:
    """Return the values of both sides by bin or level, missing ones left out."""
    import numpy as np

    if isinstance(reference, TextSketch) and isinstance(current, TextSketch):
        levels = sorted(set(reference.levels) | set(current.levels))
        texts = [[sketch.levels[level] for level in levels] for sketch in (reference, current)]
        return np.array(texts[0], np.float64), np.array(texts[1], np.float64)
    if isinstance(reference, NumberSketch) and isinstance(current, NumberSketch):
        edges = _edges(reference, current)
        numbers = [sketch.histogram(edges).astype(np.float64) for sketch in (reference, current)]
        return numbers[0], numbers[1]
    raise TypeError("a number beside a text")


def _edges(reference: NumberSketch, current: NumberSketch) -> Doubles:
    """Return the inner edges of the bins that both sides fall into."""
    import numpy as np

    if reference.n_distinct <= FEW_VALUES:
        middles = np.union1d(reference.middles()[0], current.middles()[0])
        reach = SAME_NUMBER * np.abs(middles[np.isfinite(middles)]).max(initial=0.0)
        distinct = middles[np.diff(middles, prepend=-np.inf) > reach]
        return np.asarray((distinct[1:] + distinct[:-1]) / 2)
    finite = np.concatenate([side.middles()[0] for side in (reference, current)])
    finite = finite[np.isfinite(finite)]
    n_bins = math.ceil(math.log2(reference.n_known + current.n_known) + 1)
    return np.linspace(finite.min(), finite.max(), n_bins + 1)[1:-1]
