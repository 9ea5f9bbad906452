"""Gauss-Legendre quadrature on [0, 1]: exact for polynomials up to degree ``2 n - 1``.

A Shapley value of a tree is the integral of such a polynomial, so a few points give it exactly.
Source: Press et al. (2007), Numerical Recipes, 4.6; docs/adr/0023-exact-reasons.md.
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


# All trees of a model need a few different numbers of points.
@cache
def gauss_legendre(n: int) -> tuple[Vector, Vector]:
    """Return the points and weights of a quadrature.

    Args:
        n: Number of points, at least 1.

    Returns:
        Rising points within (0, 1), and weights that add up to 1; both of shape (n,).
    """
    import numpy as np

    # The precision holds within this block: other code's decimals keep theirs.
    with localcontext(prec=_DIGITS):
        pairs = [_point(n, i) for i in range(n)]
    points, weights = np.array(pairs).T
    return points, weights


def _point(n: int, i: int) -> tuple[float, float]:
    """Return a point and its weight.

    The points are the roots of the Legendre polynomial of degree ``n``, moved from [-1, 1] to
    [0, 1].

    Args:
        n: Number of points.
        i: Number of the point. The largest root is number 0, so the points rise.
    """
    # The main term of Tricomi's approximation. It is rounded, since the last digits of a cosine
    # differ between machines.
    angle = math.pi * (i + 0.75) / (n + 0.5)
    start = round(math.cos(angle), 6)
    root = Decimal(start)
    for _ in range(_NEWTON_STEPS):
        value, slope = _legendre(n, root)
        root -= value / slope
    # The slope at the root itself, not at the last approximation of it.
    _, slope = _legendre(n, root)
    # On [-1, 1] the weight is twice as large.
    weight = 1 / ((1 - root * root) * slope * slope)
    point = (1 - root) / 2
    return float(point), float(weight)


def _legendre(n: int, x: Decimal) -> tuple[Decimal, Decimal]:
    """Evaluate a Legendre polynomial.

    Args:
        n: Degree, at least 1.
        x: Within (-1, 1), where the derivative's denominator is not 0.

    Returns:
        The polynomial and its derivative at ``x``.
    """
    previous = Decimal(1)
    value = x
    # Bonnet's recurrence gives each degree from the two degrees below it.
    for k in range(2, n + 1):
        first = (2 * k - 1) * x * value
        second = (k - 1) * previous
        previous = value
        value = (first - second) / k
    numerator = n * (x * value - previous)
    slope = numerator / (x * x - 1)
    return value, slope
