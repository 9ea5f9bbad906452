"""Quadrature: exact to the degree that it promises."""

from __future__ import annotations

import numpy as np
import pytest

from nightshift.models.shapley.quadrature import gauss_legendre


def test_two_points_are_those_of_the_textbook():
    points, weights = gauss_legendre(2)

    assert np.abs(points - [0.5 - 3**0.5 / 6, 0.5 + 3**0.5 / 6]).max() < 1e-16
    assert weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 40])
def test_a_polynomial_is_integrated_exactly_when_its_degree_is_less_than_twice_the_points(n):
    points, weights = gauss_legendre(n)

    for degree in (2 * n - 1, 2 * n - 2, 0):
        assert abs((weights * points**degree).sum() - 1 / (degree + 1)) < 1e-15
    assert n > 8 or abs((weights * points ** (2 * n)).sum() - 1 / (2 * n + 1)) > 1e-12
    assert (np.diff(points) > 0).all()
    assert ((points > 0) & (points < 1)).all()
