"""Gauss-Legendre quadrature on [0, 1]: exact for polynomials up to degree ``2 n - 1`` with ``n`` points.

Computed in decimal arithmetic and rounded once, so that points and weights are the same bits on
every machine, whatever its libraries. Source: Press et al. (2007), Numerical Recipes, 4.6.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float64]

_DIGITS = 40
_STEPS = 6
"""Newton's steps: the start has three right digits, and each step doubles them."""


@cache
def gauss_legendre(n: int) -> tuple[Vector, Vector]:
    """Return points within (0, 1), rising, and weights that add up to 1; both of shape (n,).

    Args:
        n: Number of points, at least 1.
    """
    import numpy as np

    with localcontext() as context:
        context.prec = _DIGITS
        rule = [_point(n, i) for i in range(n)]
        points = np.array([float((1 - x) / 2) for x, _ in rule])
        weights = np.array([float(weight / 2) for _, weight in rule])
    return points, weights


def _point(n: int, i: int) -> tuple[Decimal, Decimal]:
    """Return the root number ``i`` of the Legendre polynomial of degree ``n``, the largest first, and its weight on [-1, 1]."""
    x = Decimal(round(math.cos(math.pi * (i + 0.75) / (n + 0.5)), 6))
    for _ in range(_STEPS):
        value, slope = _legendre(n, x)
        x -= value / slope
    _, slope = _legendre(n, x)
    return x, 2 / ((1 - x * x) * slope * slope)


def _legendre(n: int, x: Decimal) -> tuple[Decimal, Decimal]:
    """Return the Legendre polynomial of degree ``n`` and its derivative at ``x``."""
    before, value = Decimal(1), x
    for k in range(2, n + 1):
        before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
    return value, n * (x * value - before) / (x * x - 1)
