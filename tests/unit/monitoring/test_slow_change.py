"""Small deviations add up: a slow change is told with its first night, and nothing else is."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from nightshift.contracts.partitions import Partition
from nightshift.monitoring.columns.change_sums import (
    SlowChanges,
    UsualSums,
    boundary,
    long_run_scale,
)
from nightshift.monitoring.columns.column_drift import ColumnDistances
from nightshift.monitoring.columns.fault_history import FaultHistory
from nightshift.monitoring.columns.faults import PublishedFault
from nightshift.monitoring.columns.night_series import SeriesTable
from nightshift.monitoring.columns.slow_change import MAX_SLOW_DAYS
from nightshift.monitoring.columns.usual_variation import UsualVariation
from nightshift.quality.column_summary import QUANTILES, ColumnSummary

FIRST = dt.date(2020, 1, 1)
N_NIGHTS, N_WATCHED, N_ROWS = 112, 42, 400


def day_of(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


def summary_of(values: np.ndarray) -> ColumnSummary:
    known = values[~np.isnan(values)]
    return ColumnSummary(
        n_rows=values.size,
        n_missing=int(np.isnan(values).sum()),
        n_distinct=int(np.unique(known).size),
        mean=float(known.mean()),
        std=float(known.std()),
        minimum=float(known.min()),
        maximum=float(known.max()),
        quantiles=tuple(np.quantile(known, QUANTILES).tolist()),
        zero_share=float((known == 0).mean()),
    )


def night(number: int) -> np.ndarray:
    """Return the rows of a night: its mean varies by 1 from night to night."""
    random = np.random.default_rng(number)
    return 100 + random.normal() + 10 * random.normal(size=N_ROWS)


@pytest.fixture(scope="module")
def reference() -> SeriesTable:
    return SeriesTable.of(
        {day_of(number): {"miles": summary_of(night(number))} for number in range(N_NIGHTS)}
    )


def watched(reference: SeriesTable, change, broken=None, n_nights: int = N_WATCHED):
    """Return what is told of the column after each night since the training."""
    changes = SlowChanges(reference, ColumnDistances(reference, 4.0).usual)
    told, loads = [], {}
    for number in range(1, n_nights + 1):
        day = day_of(N_NIGHTS + number - 1)
        loads[day] = 1000 + number
        values = change(night(N_NIGHTS + number - 1), number)
        changes.learn(loads, {day: {"miles": summary_of(values)}})
        told.append(changes.find(loads, broken or {}).get("miles"))
    return told


def first_told(told) -> int | None:
    return next((n for n, change in enumerate(told, 1) if change and change.is_told), None)


def test_nothing_is_told_when_nothing_changes(reference: SeriesTable) -> None:
    told = watched(reference, lambda values, _: values)
    assert first_told(told) is None
    assert max(change.evidence for change in told) < 0.6


@pytest.mark.parametrize(
    ("change", "statistics", "latest"),
    [
        # A third of the nightly variation more each night.
        (lambda values, n: values + 0.3 * n, {"mean", "q25", "q50", "q75"}, 25),
        (lambda values, n: values * (1 + 0.005 * n), {"mean", "q50", "q75", "std"}, 20),
        (lambda values, n: 100 + (values - 100) * (1 + 0.01 * n), {"std", "q05", "q95"}, 25),
        (
            lambda values, n: np.where(np.arange(N_ROWS) < 0.2 * n, np.nan, values),
            {"missing_share"},
            20,
        ),
        (lambda values, n: np.round(values / (0.1 * n)) * (0.1 * n), {"n_distinct"}, 14),
    ],
    ids=["offset", "unit", "spread", "nulls", "resolution"],
)
def test_slow_change_is_told_with_its_statistic_and_its_first_night(
    reference: SeriesTable, change, statistics, latest
) -> None:
    # Ten quiet nights come first.
    told = watched(reference, lambda values, n: change(values, n - 10) if n > 10 else values)
    n = first_told(told)
    assert n is not None
    assert 10 < n <= 10 + latest
    assert told[n - 1].statistic in statistics
    begun = (told[n - 1].since - day_of(N_NIGHTS + 10)).days
    assert abs(begun) <= 8


def test_a_storm_of_three_nights_is_no_slow_change(reference: SeriesTable) -> None:
    told = watched(reference, lambda values, n: values + (500 if 5 <= n <= 7 else 0))
    assert first_told(told) is None


def test_a_broken_night_tells_nothing_until_it_has_stayed_a_week() -> None:
    def fault(since: int) -> PublishedFault:
        return PublishedFault("miles", "shifted", 9.0, "", day_of(since), [])

    faults = {day_of(number): [fault(0)] for number in range(10)}
    history = FaultHistory.of(Partition(day_of(10)), faults, MAX_SLOW_DAYS)
    broken = history.broken_nights([fault(10)])
    assert [bool(broken[day_of(number)]) for number in range(11)] == 7 * [True] + 3 * [False] + [
        True
    ]


def test_broken_nights_are_left_out_of_the_sum(reference: SeriesTable) -> None:
    def louder(values, n):
        return values + (4 if n <= 25 else 0)

    assert first_told(watched(reference, louder)) is not None
    broken = {day_of(N_NIGHTS + n): frozenset({"miles"}) for n in range(25)}
    assert first_told(watched(reference, louder, broken)) is None


def test_a_training_on_the_change_ends_it(reference: SeriesTable) -> None:
    def moved(values, _):
        return values + 4

    assert first_told(watched(reference, moved)) is not None
    later = SeriesTable.of(
        {day_of(n): {"miles": summary_of(moved(night(n), 0))} for n in range(N_NIGHTS)}
    )
    assert first_told(watched(later, moved)) is None


def test_a_rerun_adds_up_the_same_in_whatever_order_the_loads_were_read(
    reference: SeriesTable,
) -> None:
    loads = {day_of(N_NIGHTS + n): n for n in range(20)}
    profiles = {day: {"miles": summary_of(night(N_NIGHTS + n) + 1)} for day, n in loads.items()}
    usual = ColumnDistances(reference, 4.0).usual
    at_once, one_by_one = SlowChanges(reference, usual), SlowChanges(reference, usual)
    at_once.learn(loads, profiles)
    for day in reversed(loads):
        one_by_one.learn(loads, {day: profiles[day]})
    assert one_by_one.unread(loads) == {}
    assert at_once.find(loads, {}) == one_by_one.find(loads, {})


def test_a_champion_of_few_nights_says_nothing(reference: SeriesTable) -> None:
    short = SeriesTable.of(
        {day_of(n): {"miles": summary_of(night(n))} for n in range(N_NIGHTS - 27, N_NIGHTS)}
    )
    changes = SlowChanges(short, ColumnDistances(short, 4.0).usual)
    loads = {day_of(N_NIGHTS): 1}
    changes.learn(loads, {day_of(N_NIGHTS): {"miles": summary_of(night(1) + 50)}})
    assert changes.find(loads, {}) == {}


def test_sums_are_pages_and_signed_by_hand() -> None:
    # Training nights of -1 and 1 in turn: center 0, scale 1, no offset.
    series = np.tile([[-1.0], [1.0]], (14, 1))
    weekdays = np.zeros(28, np.int64)
    usual = UsualVariation(np.zeros(1), np.zeros((7, 1)), np.ones(1), np.full(1, 28.0))
    sums = UsualSums.of(series, weekdays, usual, np.full(1, 0.01))
    # Single nights vary most: the mean square of 28 ones is 28, by 27 degrees of freedom.
    assert sums.scale == pytest.approx(np.sqrt(28 / 27))
    limit = boundary(np.full(1, 28.0), np.full(1, 5.0))[0]
    values = np.array([[-2.0], [-1.0], [2.0], [3.0], [99.0]])
    evidence, first = sums.add_up(values, np.zeros(5, np.int64))
    # The walk turns after two nights; 99 counts as 3.5.
    assert evidence[0] == pytest.approx((2 + 3 + 3.5) / sums.scale[0] / limit)
    assert first[0] == 2
    below, _ = sums.add_up(-values, np.zeros(5, np.int64))
    assert below[0] == pytest.approx(-evidence[0])


def test_sums_of_nights_that_resemble_each_other_vary_more() -> None:
    random = np.random.default_rng(4)
    noise = random.normal(size=(112, 1))
    season = 2 * np.sin(np.arange(112) / 20)[:, np.newaxis]
    both = long_run_scale(np.hstack([noise - noise.mean(), season - season.mean()]))
    assert both[0] < 2
    assert both[1] > 4
