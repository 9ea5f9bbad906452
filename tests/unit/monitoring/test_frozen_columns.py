"""Columns whose values are those of the night before, and columns that repeat a value by chance."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa

from nightshift.monitoring.columns.input_faults import InputChecks
from nightshift.monitoring.columns.night_series import SeriesTable
from nightshift.quality.column_summary import summarize
from nightshift.quality.profiles import scan

FIRST = dt.date(2020, 1, 1)
N_NIGHTS = 60


def stations(number: int) -> np.ndarray:
    """Return the temperatures of three stations; on two nights of ten they share one."""
    # Of a pair of nights the second one repeats the first.
    pair = number - 1 if number % 10 == 1 else number
    random = np.random.default_rng(pair)
    values = np.round(random.normal(50, 15, 3), 1)
    if pair % 10 == 0:
        values[:] = values[0]
    return values[np.arange(90) % 3]


def of_column(values: np.ndarray):
    table = pa.table({"temperature": values})
    return {"temperature": summarize(scan(table.to_batches())["temperature"])}


def kinds(values: np.ndarray, yesterday: np.ndarray) -> list[str]:
    nights = range(N_NIGHTS)
    reference = {FIRST + dt.timedelta(days=n): of_column(stations(n)) for n in nights}
    checks = InputChecks(SeriesTable.of(reference), frozenset())
    day = FIRST + dt.timedelta(days=N_NIGHTS)
    faults = checks.find(day, of_column(values), of_column(yesterday), None)
    return [fault.kind for fault in faults]


def test_three_values_at_once_are_frozen_though_one_alone_repeats_itself() -> None:
    yesterday = stations(N_NIGHTS - 1)
    assert kinds(yesterday, yesterday) == ["frozen"]


def test_one_value_that_repeats_itself_as_before_is_none() -> None:
    both = stations(70)
    assert np.unique(both).size == 1
    assert kinds(both, both) == []


def test_new_values_are_none() -> None:
    assert kinds(stations(N_NIGHTS + 2), stations(N_NIGHTS - 1)) == []
