"""How far two summaries of a column are apart: the stability index, Jensen-Shannon and Wasserstein distances."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nightshift.quality.sketch import NumberSketch, TextSketch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.quality.sketch import Sketch

    Doubles = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]

FEW_VALUES = 20
"""Up to so many distinct numbers of the reference count one by one, like levels."""
SMALLEST_SHARE = 1e-4
"""A bin that is empty on one side counts as this much, so that its logarithm is finite."""


def stability_index(reference: Sketch, current: Sketch) -> float:
    """Return the population stability index in nats, 0 is best; bins as ``jensen_shannon`` has them.

    Source: Siddiqi, Credit Risk Scorecards (2006), chapter 9.
    """
    import numpy as np

    expected, found = (np.maximum(side, SMALLEST_SHARE) for side in _shares(reference, current))
    return float(np.sum((found - expected) * np.log(found / expected)))


def jensen_shannon(reference: Sketch, current: Sketch) -> float:
    """Return the Jensen-Shannon distance with natural logarithms, 0 (equal) to 0.833 (disjoint).

    Numbers fall into equally wide bins, as many as Sturges' rule says, as in Evidently; texts into their levels.
    """
    import numpy as np

    first, second = _shares(reference, current)
    middle = (first + second) / 2
    divergence = sum(np.sum(side[side > 0] * np.log(side[side > 0] / middle[side > 0])) for side in (first, second)) / 2
    return math.sqrt(max(float(divergence), 0.0))


def wasserstein(reference: NumberSketch, current: NumberSketch) -> float:
    """Return the area between both distribution functions, in standard deviations of the reference; 0 is best.

    A number is off by half a bin at most, so the distance is off by 1/128 of the mean absolute value at most, in the same unit.

    Raises:
        ValueError: A side has no number.
    """
    import numpy as np

    first, second = reference.middles(), current.middles()
    if not first[0].size or not second[0].size:
        raise ValueError("a distance to no numbers")
    edges = np.union1d(first[0], second[0])
    below = [np.concatenate([[0], np.cumsum(n)])[np.searchsorted(x, edges, side="right")] / n.sum() for x, n in (first, second)]
    area = float(np.sum(np.abs(below[0] - below[1])[:-1] * np.diff(edges)))
    return area / max(reference.std or 0.0, 1e-12)


def _shares(reference: Sketch, current: Sketch) -> tuple[Doubles, Doubles]:
    import numpy as np

    if isinstance(reference, TextSketch) and isinstance(current, TextSketch):
        levels = sorted(set(reference.levels) | set(current.levels))
        counts = [np.array([sketch.levels[level] for level in levels], dtype=np.float64) for sketch in (reference, current)]
    elif isinstance(reference, NumberSketch) and isinstance(current, NumberSketch):
        edges = _edges(reference, current)
        counts = [sketch.histogram(edges).astype(np.float64) for sketch in (reference, current)]
    else:
        raise TypeError("a number beside a text")
    if not all(one.sum() for one in counts):
        raise ValueError("a distance to no values")
    return counts[0] / counts[0].sum(), counts[1] / counts[1].sum()


def _edges(reference: NumberSketch, current: NumberSketch) -> Doubles:
    """Return the inner edges of the bins that both sides fall into."""
    import numpy as np

    if reference.n_distinct <= FEW_VALUES:
        middles = np.union1d(reference.middles()[0], current.middles()[0])
        return (middles[1:] + middles[:-1]) / 2
    finite = np.concatenate([side.middles()[0] for side in (reference, current)])
    finite = finite[np.isfinite(finite)]
    n_bins = math.ceil(math.log2(reference.n_known + current.n_known) + 1)
    return np.linspace(finite.min(), finite.max(), n_bins + 1)[1:-1]
