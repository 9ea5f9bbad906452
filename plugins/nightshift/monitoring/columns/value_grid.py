"""The grid of a column's numbers: whole multiples of one step, as instruments and tables have them.

Another unit keeps the order of the numbers and often their range, but not their grid. So knots that
were converted to miles an hour lie on multiples of 1.15, and no wind in metres per second does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.quality.column_summary import ColumnSummary

    Doubles = npt.NDArray[np.float64]

MIN_NUMBERS = 8
"""Fewer different numbers may have a common step by chance."""
ROUNDING = 1e-7
"""Share of the largest number by which a stored multiple may be off."""
COARSE = 50.0
"""A step of fewer roundings than this could be one of any numbers."""
OFF_GRID = 0.02
"""Share of a step from which a number lies between the multiples."""


@dataclass(frozen=True)
class ValueGrid:
    """Numbers ``origin + k * step`` with whole ``k``.

    Attributes:
        origin: A number on it.
        step: Largest step that all of them share.
    """

    origin: float
    step: float

    def distance(self, number: float) -> float:
        """Return how far a number is from the grid, in steps: 0 to 0.5."""
        if not math.isfinite(number):
            return 0.5
        position = (number - self.origin) / self.step
        nearest = round(position)
        return abs(position - nearest)

    def holds(self, summary: ColumnSummary) -> bool:
        """Return whether the smallest and the largest number of a column are on the grid."""
        for end in (summary.minimum, summary.maximum):
            if end is None:
                continue
            distance = self.distance(end)
            if distance > OFF_GRID:
                return False
        return True


def agreed_grid(nightly: Doubles) -> ValueGrid | None:
    """Return the grid of some nights' numbers; None if they have none, or are too few to tell.

    Args:
        nightly: Numbers of each night; shape (nights, numbers). Infinite ones are on no grid.
    """
    # A rare number in between is no surprise once half of the nights did not know it.
    first = find_grid(nightly[::2])
    second = find_grid(nightly[1::2])
    if first is None or second is None:
        return None
    difference = abs(first.step - second.step)
    if difference > OFF_GRID * first.step:
        return None
    if first.distance(second.origin) > OFF_GRID:
        return None
    return first


def find_grid(numbers: Doubles) -> ValueGrid | None:
    """Return the grid that all numbers lie on; None if they have none, or are too few to tell.

    Args:
        numbers: In any order and shape.
    """
    unique = np.unique(numbers)
    n_numbers = unique.size
    if n_numbers < MIN_NUMBERS:
        return None
    largest = float(np.abs(unique).max())
    tolerance = ROUNDING * largest
    step = 0.0
    gaps = np.diff(unique)
    for gap in gaps.tolist():
        step = _common_step(step, gap, tolerance)
        # Numbers without a grid end here after a few gaps.
        if step <= COARSE * tolerance:
            return None
    grid = ValueGrid(float(unique[0]), step)
    # Errors add up over the gaps, so the numbers have the last word.
    furthest = max(map(grid.distance, unique.tolist()))
    return grid if furthest <= OFF_GRID else None


def _common_step(first: float, second: float, tolerance: float) -> float:
    """Return the largest step that divides both, by Euclid's algorithm for inexact numbers."""
    while second > tolerance:
        rest = first % second
        # Just below a multiple is a multiple as well.
        rest = min(rest, second - rest)
        first = second
        second = rest
    return first
