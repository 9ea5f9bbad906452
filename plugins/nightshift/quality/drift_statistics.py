"""Drift statistics: how far two distributions of a column are apart.

Profiles are compared as two sketches, whose bins both sides share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.quality.sketches.text_sketch import TextSketch

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from nightshift.quality.sketches.sketch import Sketch

    Doubles = npt.NDArray[np.float64]

FEW_VALUES = 20
"""Up to so many distinct numbers of the reference count one by one, like levels."""
SMALLEST_SHARE = 1e-4
"""A bin that is empty on one side counts as this much, so that its logarithm is finite."""
SAME_NUMBER = 1e-13
"""Distance, as a share of a column's greatest number, up to which sums in another order differ."""
_SMALLEST_STD = 1e-12


def stability_index(reference: Sketch, current: Sketch) -> float:
    """Return the population stability index of two sketches in nats; 0 is best.

    The bins are those of ``jensen_shannon``.
    """
    known = _shared_counts(reference, current)
    sides = []
    for counts, sketch in zip(known, (reference, current), strict=True):
        # Missing values are a bin too: a column that is filled for the first time is far from an
        # empty one.
        shares = np.append(counts, sketch.n_missing) / max(sketch.n_rows, 1)
        sides.append(np.maximum(shares, SMALLEST_SHARE))
    return _stability_index(*sides)


def _stability_index(reference: Iterable[float], current: Iterable[float]) -> float:
    """Return the index of positive shares.

    Source: Siddiqi, Credit Risk Scorecards (2006), chapter 9.
    """
    pairs = zip(reference, current, strict=True)
    return math.fsum((after - before) * math.log(after / before) for before, after in pairs)


def jensen_shannon(reference: Sketch, current: Sketch) -> float:
    """Return the Jensen-Shannon distance with natural logarithms; 0 (equal) to 0.833 (disjoint).

    Numbers fall into equally wide bins, as many as Sturges' rule gives, as in Evidently; strings
    into their levels.

    Raises:
        ValueError: A side has no values.
    """
    from scipy.spatial.distance import jensenshannon

    first, second = _shared_counts(reference, current)
    if not first.sum() or not second.sum():
        raise ValueError("a distance to no values")
    return float(jensenshannon(first, second))


def wasserstein(reference: NumberSketch, current: NumberSketch) -> float:
    """Return the area between both distribution functions, in standard deviations of the reference.

    0 is best. A number is off by half a bin at most, so the distance is off by 1/128 of the mean
    absolute value at most, in the same unit.

    Raises:
        ValueError: A side has no number.
    """
    from scipy.stats import wasserstein_distance

    numbers, counts = reference.midpoints()
    current_numbers, current_counts = current.midpoints()
    if not numbers.size or not current_numbers.size:
        raise ValueError("a distance to no numbers")
    area = float(wasserstein_distance(numbers, current_numbers, counts, current_counts))
    # A constant column has no spread, and any change of it is far.
    return area / max(reference.std or 0.0, _SMALLEST_STD)


def _shared_counts(reference: Sketch, current: Sketch) -> tuple[Doubles, Doubles]:
    """Return the values of both sides by bin or level, missing ones left out."""
    if isinstance(reference, TextSketch) and isinstance(current, TextSketch):
        levels = sorted({*reference.levels, *current.levels})
        counts = [[sketch.levels[level] for level in levels] for sketch in (reference, current)]
        return np.array(counts[0], np.float64), np.array(counts[1], np.float64)
    if isinstance(reference, NumberSketch) and isinstance(current, NumberSketch):
        edges = _shared_edges(reference, current)
        first, second = reference.histogram(edges), current.histogram(edges)
        return first.astype(np.float64), second.astype(np.float64)
    raise TypeError("a column of numbers cannot be compared with a column of strings")


def _shared_edges(reference: NumberSketch, current: NumberSketch) -> Doubles:
    """Return the inner edges of the bins that both sides fall into."""
    numbers = np.union1d(reference.midpoints()[0], current.midpoints()[0])
    finite = numbers[np.isfinite(numbers)]
    if reference.n_distinct <= FEW_VALUES:
        # Sums in another order differ in their last bits, and are one value.
        tolerance = SAME_NUMBER * np.abs(finite).max(initial=0.0)
        distinct = numbers[np.diff(numbers, prepend=-np.inf) > tolerance]
        return np.asarray((distinct[1:] + distinct[:-1]) / 2)
    # Sturges' rule.
    n_bins = math.ceil(math.log2(reference.n_known + current.n_known) + 1)
    return np.linspace(finite.min(), finite.max(), n_bins + 1)[1:-1]
