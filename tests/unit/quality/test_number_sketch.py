"""A sketch of numbers: exact where it says so, the same bytes in any cut and order, small."""

from __future__ import annotations

import math
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from nightshift.quality.sketches import log_linear_histogram
from nightshift.quality.sketches.number_sketch import NumberSketch


def column(kind: str, n: int = 4_000) -> np.ndarray:
    dice = np.random.default_rng(7)
    return {
        "both signs": dice.normal(size=n),
        "whole, many zeros": np.round(dice.normal(size=n)),
        "all magnitudes": dice.normal(size=n) * 10.0 ** dice.integers(-150, 150, n),
        "ends": np.array(
            [0.0, -0.0, 5e-324, -5e-324, sys.float_info.max, -sys.float_info.max, np.nan] * 10
        ),
        "infinite": np.array([1.0, np.inf, -np.inf, np.nan]),
        "constant": np.full(n, 0.1),
        "nothing": np.full(5, np.nan),
    }[kind]


KINDS = (
    "both signs",
    "whole, many zeros",
    "all magnitudes",
    "ends",
    "infinite",
    "constant",
    "nothing",
)


def sketched(*parts: np.ndarray) -> NumberSketch:
    sketch = NumberSketch()
    for part in parts:
        sketch.add(part)
    return sketch


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_to_the_byte_in_any_cut_and_order(kind, monkeypatch):
    values = column(kind)
    whole = sketched(values).as_bytes()
    shuffled = np.array_split(np.random.default_rng(1).permutation(values), 7)
    merged = sketched(*shuffled[:2])
    for part in shuffled[2:4]:
        merged.merge(sketched(part))
    _ = merged.mean
    for part in shuffled[4:]:
        merged.add(part)

    assert sketched(*shuffled).as_bytes() == whole
    assert merged.as_bytes() == whole
    monkeypatch.setattr(log_linear_histogram, "MAX_ROWS", 500)
    assert sketched(*shuffled).as_bytes() == whole


@pytest.mark.parametrize(
    "kind", ["both signs", "whole, many zeros", "all magnitudes", "ends", "constant"]
)
def test_mean_is_exactly_rounded_and_deviation_nearly(kind):
    values = column(kind)
    known = [Fraction(float(value)) for value in values[~np.isnan(values)]]
    mean = sum(known) / len(known)
    variance = sum((value - mean) ** 2 for value in known) / len(known)
    power = max(variance.numerator.bit_length() - variance.denominator.bit_length(), 0) // 2
    expected = math.ldexp(math.sqrt(variance / Fraction(4) ** power), power)

    found = sketched(values)

    assert found.mean == float(mean)
    assert found.std == pytest.approx(expected, rel=1e-5, abs=1e-5 * abs(float(mean)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_counted_in_a_bin_that_holds_it(kind):
    values = column(kind)
    known = np.sort(values[~np.isnan(values)])

    edges, counts = sketched(values).bins()

    assert counts.sum() == known.size
    assert np.all(edges[1:] > edges[:-1])
    places = np.repeat(np.arange(edges.size), counts)
    assert np.all(edges[places] <= known)
    behind = np.append(edges, np.inf)[places + 1]
    assert np.all((known < behind) | (known == np.inf))


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_give_it_back(kind):
    found = sketched(column(kind))
    again = NumberSketch.from_bytes(
        found.as_bytes(), found.n_rows, found.n_missing, found.minimum, found.maximum
    )

    assert again.as_bytes() == found.as_bytes()
    assert (again.mean, again.std, again.n_distinct) == (found.mean, found.std, found.n_distinct)


def test_numbers_of_both_signs_and_zero_take_little_memory():
    """A bin for each possible number between them would take 4 MB per column."""
    values = np.append(column("both signs", 50_000), 0.0)
    tracemalloc.start()
    sketch = sketched(values)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert sketch.n_rows == values.size
    assert held < 300_000
