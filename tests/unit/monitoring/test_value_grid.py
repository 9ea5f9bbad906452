"""The grid of a column's numbers, and columns that leave it."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from nightshift.monitoring.columns.input_faults import InputChecks
from nightshift.monitoring.columns.night_series import SeriesTable
from nightshift.monitoring.columns.value_grid import OFF_GRID, agreed_grid, find_grid
from nightshift.quality.column_summary import summarize
from nightshift.quality.profiles import scan

FIRST = dt.date(2020, 1, 1)
N_NIGHTS = 40
KNOT = 1.15078


@pytest.mark.parametrize("step", [1.0, 0.1, 0.18, KNOT, 0.25, 500.0, 1e-3])
@pytest.mark.parametrize("origin", [0.0, 32.0, -7.3])
def test_step_of_numbers_is_found(step: float, origin: float) -> None:
    random = np.random.default_rng(int(step * 1000))
    numbers = origin + step * random.integers(0, 60, 80)
    grid = find_grid(numbers)
    assert grid is not None
    assert grid.step == pytest.approx(step)
    assert grid.distance(origin + 61 * step) == pytest.approx(0, abs=1e-3)
    assert grid.distance(origin + 60.5 * step) == pytest.approx(0.5, abs=1e-3)


def test_multiples_of_a_multiple_share_the_smaller_step() -> None:
    grid = find_grid(np.array([0, 6, 12, 18, 24, 30, 40, 46, 10], float))
    assert grid is not None
    assert grid.step == pytest.approx(2)


@pytest.mark.parametrize(
    "numbers",
    [
        np.random.default_rng(1).normal(size=200),
        1 / np.arange(1.0, 60.0),
        np.full(50, 3.0),
        np.arange(5.0),
        np.empty(0),
    ],
    ids=["any", "shares", "one", "few", "none"],
)
def test_other_numbers_have_no_grid(numbers: np.ndarray) -> None:
    assert find_grid(numbers) is None


def test_half_of_the_nights_must_know_the_step() -> None:
    whole = np.arange(40.0).reshape(20, 2)
    assert agreed_grid(whole) is not None
    with_one_half = whole.copy()
    with_one_half[6, 1] += 0.5
    assert agreed_grid(with_one_half) is None


def gusts(number: int) -> np.ndarray:
    random = np.random.default_rng(number)
    return KNOT * random.integers(0, 400, size=3)[np.arange(90) % 3]


def of_column(values: np.ndarray):
    return {"wind": summarize(scan(pa.table({"wind": values}).to_batches())["wind"])}


def checks() -> InputChecks:
    nights = range(N_NIGHTS)
    reference = {FIRST + dt.timedelta(days=n): of_column(gusts(n)) for n in nights}
    return InputChecks(SeriesTable.of(reference), frozenset())


def kinds(values: np.ndarray) -> list[str]:
    before = of_column(gusts(N_NIGHTS - 1))
    day = FIRST + dt.timedelta(days=N_NIGHTS)
    return [fault.kind for fault in checks().find(day, of_column(values), before, None)]


@pytest.mark.parametrize("ratio", [0.44704, 1.609344, 0.868976])
def test_other_unit_within_the_usual_range_is_named(ratio: float) -> None:
    tonight = gusts(N_NIGHTS + 3)
    assert kinds(tonight) == []
    assert kinds(ratio * tonight) == ["unknown values"]


@pytest.mark.parametrize("infinite", [np.inf, -np.inf])
def test_infinite_number_is_on_no_grid_and_ends_no_night(infinite: float) -> None:
    assert find_grid(np.append(KNOT * np.arange(30.0), infinite)) is None
    tonight = np.where(np.arange(90) == 7, infinite, gusts(N_NIGHTS + 3))
    assert kinds(tonight) != []


def test_number_that_never_was_but_is_on_the_grid_is_none() -> None:
    assert kinds(np.where(np.arange(90) % 3, gusts(N_NIGHTS + 3), 401 * KNOT)) == []


def test_limit_is_far_from_rounding() -> None:
    grid = agreed_grid(np.array([gusts(n)[:2] for n in range(N_NIGHTS)]))
    assert grid is not None
    rounded = [round(value, 2) for value in gusts(N_NIGHTS).tolist()]
    assert max(map(grid.distance, rounded)) <= OFF_GRID
