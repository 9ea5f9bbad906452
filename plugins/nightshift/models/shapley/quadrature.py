"""Gauss-Legendre quadrature on [0, 1]: exact for polynomials up to degree ``2 n - 1``.

Source: Press et al. (2007), Numerical Recipes, 4.6.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.models.arrays import Vector


# Decimal arithmetic, rounded once at the end: points and weights are the same bits on every
# machine, whatever its libraries, and so are the Shapley values.
_DIGITS = 40
_NEWTON_STEPS = 6
"""The start has three correct digits, and each step doubles them."""


@cache
def gauss_legendre(n: int) -> tuple[Vector, Vector]:
    """Return rising points within (0, 1) and weights that add up to 1; both of shape (n,).

    Args:
        n: Number of points, at least 1.
    """
    import numpy as np

    with localcontext() as context:
        context.prec = _DIGITS
        roots = [_root(n, i) for i in range(n)]
        # From [-1, 1] to [0, 1]; the roots fall, so the points rise.
        points = np.array([float((1 - x) / 2) for x, _ in roots])
        weights = np.array([float(weight / 2) for _, weight in roots])
    return points, weights


def _root(n: int, i: int) -> tuple[Decimal, Decimal]:
    """Return root ``i`` of the Legendre polynomial of degree ``n`` and its weight on [-1, 1].

    The largest root is number 0.
    """
    x = Decimal(round(math.cos(math.pi * (i + 0.75) / (n + 0.5)), 6))
    for _ in range(_NEWTON_STEPS):
        value, slope = _legendre(n, x)
        x -= value / slope
    _, slope = _legendre(n, x)
    return x, 2 / ((1 - x * x) * slope * slope)


def _legendre(n: int, x: Decimal) -> tuple[Decimal, Decimal]:
    """Return the Legendre polynomial of degree ``n`` and its derivative at ``x``."""
    previous, value = Decimal(1), x
    for k in range(2, n + 1):
        previous, value = value, ((2 * k - 1) * x * value - (k - 1) * previous) / k
    return value, n * (x * value - previous) / (x * x - 1)
