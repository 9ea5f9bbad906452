"""Columns against the nights of the training: drift in usual variations, and input faults."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from nightshift.monitoring.columns.column_drift import ColumnDistances, Drift
from nightshift.monitoring.columns.input_faults import InputChecks
from nightshift.monitoring.columns.night_series import SeriesTable
from nightshift.monitoring.columns.order_relations import learn_orders
from nightshift.monitoring.columns.usual_variation import UsualVariation, normal_equivalent
from nightshift.quality.column_order import OrderCounter
from nightshift.quality.column_summary import summarize
from nightshift.quality.profiles import scan

FIRST = dt.date(2020, 1, 1)
N_NIGHTS, N_WATCHED, N_ROWS = 60, 20, 120
LIMIT = 4.0


def scanned(columns: dict[str, object]):
    counter = OrderCounter()
    sketches = scan(pa.table(columns).to_batches(), counter)
    return {name: summarize(sketch) for name, sketch in sketches.items()}, counter.order()


def weather(number: int) -> dict[str, object]:
    """Return the rows of a night: two stations share one weather, shops have their own sales."""
    random = np.random.default_rng(number)
    season = 50 + 15 * np.sin(number / 30)
    station = np.arange(N_ROWS) % 2
    temperature = np.round(season + 6 * random.normal() + random.normal(size=2), 2)[station]
    humid = np.round(np.abs(8 * random.normal(size=2)) * random.binomial(1, 0.7, size=2), 2)
    shops = random.choice(["north", "south", "west", "kiosk"], N_ROWS, p=[0.4, 0.3, 0.24, 0.06])
    minutes = random.normal(720 + 20 * (number % 7 == 0), 150, N_ROWS).clip(0, 1439)
    return {
        "temperature": temperature,
        "dew_point": temperature - humid[station],
        "rate": np.full(N_ROWS, 0.2 + 0.05 * random.normal()),
        "minute": np.floor(minutes),
        "miles": random.gamma(4, 200, N_ROWS),
        "weekday": np.full(N_ROWS, float((FIRST + dt.timedelta(days=number)).isoweekday())),
        "shop": pa.array(shops.tolist(), pa.string()),
    }


FAULTS = {
    "unit changed": {"miles": lambda rows: rows["miles"] * 1.609344},
    "missing values": {
        "miles": lambda rows: np.where(np.arange(N_ROWS) % 40, rows["miles"], np.nan)
    },
    "zeros": {"miles": lambda rows: np.zeros(N_ROWS)},
    "time zone": {"minute": lambda rows: rows["minute"] + 240},
    "inconsistent": {"temperature": lambda rows: (rows["temperature"] - 32) / 1.8},
    "constant": {"minute": lambda rows: np.full(N_ROWS, 700.0)},
    "vanished level": {
        "shop": lambda rows: pa.array(
            ["north" if shop == "west" else shop for shop in rows["shop"].to_pylist()]
        )
    },
    "new level": {
        "shop": lambda rows: pa.array(
            [shop.upper() if shop == "kiosk" else shop for shop in rows["shop"].to_pylist()]
        )
    },
}


@pytest.fixture(scope="module")
def nights():
    return [scanned(weather(number)) for number in range(N_NIGHTS + N_WATCHED)]


@pytest.fixture(scope="module")
def table(nights) -> SeriesTable:
    return SeriesTable.of({day_of(number): nights[number][0] for number in range(N_NIGHTS)})


@pytest.fixture(scope="module")
def orders(table: SeriesTable, nights):
    return learn_orders(table, {day_of(number): nights[number][1] for number in range(N_NIGHTS)})


def day_of(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


def find(table: SeriesTable, orders, nights, number: int, changed=None, before=None):
    """Return the faults of a night, of which the nights since the training are known."""
    for earlier in range(N_NIGHTS, number):
        table = table.extended(day_of(earlier), nights[earlier][0])
    rows = weather(number) | (changed(weather(number)) if changed else {})
    profile, order = scanned(rows)
    previous = nights[number - 1][0] if before is None else before
    return InputChecks(table, orders).find(day_of(number), profile, previous, order)


def test_only_the_relation_that_holds_by_nature_is_learnt(orders) -> None:
    assert orders == {("dew_point", "temperature")}


def test_clean_nights_name_no_more_than_one_column_in_a_hundred(table, orders, nights) -> None:
    watched = range(N_NIGHTS, N_NIGHTS + N_WATCHED)
    named = [fault for number in watched for fault in find(table, orders, nights, number)]
    assert len(named) <= 0.01 * N_WATCHED * len(weather(0)) + 1, Counter(map(str, named))


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_is_named_the_same_night(table, orders, nights, kind: str) -> None:
    [(column, change)] = FAULTS[kind].items()
    watched = range(N_NIGHTS, N_NIGHTS + N_WATCHED, 4)
    for number in watched:
        faults = find(table, orders, nights, number, lambda rows: {column: change(rows)})
        kinds = {fault.column: fault.kind for fault in faults}
        # A temperature in another unit may look like the dew point's neighbour or a shift as well.
        assert kinds.get(column) == kind or (kind == "inconsistent" and column in kinds), faults


def test_two_columns_that_are_swapped_are_named_both(table, orders, nights) -> None:
    def swap(rows):
        return {"miles": rows["minute"], "minute": rows["miles"]}

    faults = find(table, orders, nights, N_NIGHTS + 3, swap)
    assert {fault.column: fault.kind for fault in faults} == {
        "miles": "swapped",
        "minute": "swapped",
    }


def test_swap_within_the_usual_range_is_seen_by_the_order_of_the_columns(
    table, orders, nights
) -> None:
    found = 0
    numbers = [
        number
        for number in range(N_NIGHTS, N_NIGHTS + N_WATCHED)
        if not np.array_equal(weather(number)["temperature"], weather(number)["dew_point"])
    ]
    for number in numbers:
        faults = find(
            table,
            orders,
            nights,
            number,
            lambda rows: {"temperature": rows["dew_point"], "dew_point": rows["temperature"]},
        )
        found += {"temperature", "dew_point"} <= {fault.column for fault in faults}
    assert found == len(numbers)


@pytest.mark.parametrize("column", ["temperature", "rate", "weekday"])
def test_column_that_stands_still_is_frozen(table, orders, nights, column: str) -> None:
    number = N_NIGHTS + 5
    yesterday = weather(number - 1)
    faults = find(table, orders, nights, number, lambda _: {column: yesterday[column]})
    assert {fault.column: fault.kind for fault in faults}[column] == "frozen"


def test_jump_that_stays_a_week_is_the_world(table, orders, nights) -> None:
    def louder(rows):
        return {"miles": rows["miles"] + 900}

    moved = [scanned(weather(n) | louder(weather(n))) for n in range(N_NIGHTS, N_NIGHTS + 9)]
    since = [*nights[:N_NIGHTS], *moved]
    first = find(table, orders, since, N_NIGHTS, louder, nights[N_NIGHTS - 1][0])
    assert [fault.column for fault in first] == ["miles"]
    assert find(table, orders, since, N_NIGHTS + 8, louder) == []


def test_nothing_is_said_of_a_champion_with_few_nights(nights) -> None:
    short = SeriesTable.of({day_of(number): nights[number][0] for number in range(10)})
    profile, order = scanned(weather(11) | {"miles": np.zeros(N_ROWS)})
    assert InputChecks(short, frozenset()).find(day_of(11), profile, None, order) == []


@pytest.mark.promise("R6")
def test_same_levels_give_the_same_bits_in_every_process() -> None:
    script = """
from nightshift.monitoring.columns.night_series import SeriesTable
from nightshift.quality.column_summary import ColumnSummary
levels = {f"shop {n}": 7 * n + 1 for n in range(60)}
night = {"shop": ColumnSummary(sum(levels.values()), 0, 60, levels=levels)}
other = {"shop": ColumnSummary(90, 0, 30, levels={f"shop {n}": 3 for n in range(30)})}
print(SeriesTable.of({1: night, 2: night}).row(other, None))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(1, 4)
    }
    assert len(found) == 1


def test_equally_frequent_levels_are_ranked_by_name_in_whatever_order_they_come() -> None:
    names = [f"level {n:03d}" for n in range(300)]
    summaries = []
    for rows in (names, names[::-1]):
        columns, _ = scanned({"shop": pa.array(rows, pa.string())})
        summaries.append(list(columns["shop"].levels))
    assert summaries[0] == summaries[1] == names[:256]


def test_distance_is_in_usual_variations_from_night_to_night() -> None:
    # 41 nights of -2, -1, 0, 1, 2 around 10: the median of the deviations is 1.
    series = np.array([[10.0 + (n * 2) % 5 - 2] for n in range(41)])
    usual = UsualVariation.of(series, np.arange(41) % 7, np.zeros(1))
    assert usual.center.tolist() == [10.0]
    assert usual.scale.tolist() == [pytest.approx(1.4826)]
    [near] = usual.distances(np.array([10.0 + 1.4826]), 0)
    assert near == pytest.approx(1.0, abs=0.05)


def test_few_nights_make_a_distance_smaller() -> None:
    wide = normal_equivalent(np.full(3, 5.0), np.array([2.0, 10.0, 1000.0]))
    # The normal quantiles of Student's t at 5: P = 0.0377, 0.00054, 6.8e-7 on both sides.
    assert wide.tolist() == pytest.approx([2.08, 3.46, 4.97], abs=0.06)


def test_nights_that_repeat_each_other_are_worth_fewer() -> None:
    random = np.random.default_rng(1)
    walk = np.cumsum(random.normal(size=(100, 1)), axis=0)
    noise = random.normal(size=(100, 1))
    both = np.hstack([walk, noise])
    worth = UsualVariation.of(both, np.arange(100) % 7, np.zeros(2)).n_effective
    assert worth[0] < 10
    assert worth[1] > 60


def test_weekday_counts_where_history_allows() -> None:
    weekdays = np.arange(70) % 7
    busy = 100.0 + 50 * (weekdays == 5) + np.random.default_rng(2).normal(size=70)
    usual = UsualVariation.of(busy[:, np.newaxis], weekdays, np.zeros(1))
    on_weekday = {weekday: usual.distances(np.array([150.0]), weekday)[0] for weekday in (1, 5)}
    assert abs(on_weekday[5]) < 2
    assert on_weekday[1] > 4


N = 400
RANDOM = np.random.default_rng(3)
SPREAD = RANDOM.normal(size=N)
EMPTY = np.full(N, np.nan)
MOSTLY_ZERO = np.where(np.arange(N) < N - 1, 0.0, 4.0)
CHANGED_NUMBERS = {
    "constant, tonight greater": (np.zeros(N), np.full(N, 5e6)),
    "constant, tonight smaller": (np.full(N, 7.0), np.full(N, -7.0)),
    "constant, tonight spread": (np.zeros(N), SPREAD),
    "constant, tonight half of it": (np.full(N, 12.0), np.where(np.arange(N) % 2, 12.0, 6.0)),
    "constant, tonight empty": (np.full(N, 7.0), EMPTY),
    "empty, tonight filled": (EMPTY, np.full(N, 5e6)),
    "filled, tonight empty": (SPREAD, EMPTY),
    "spread, tonight its middle": (SPREAD, np.full(N, float(np.median(SPREAD)))),
    "nearly constant, tonight below": (MOSTLY_ZERO, np.full(N, -1.0)),
    "always no, tonight yes": (np.zeros(N), np.ones(N)),
    "percent, tonight a ratio": (50 + 10 * SPREAD, 0.5 + 0.1 * SPREAD),
}
SAME_NUMBERS = {
    "a constant": (np.full(N, 0.1), np.full(N, 0.1)),
    "a sum in another order": (np.full(N, 0.1 + 0.2 + 0.3), np.full(N, 0.3 + 0.2 + 0.1)),
    "nearly a constant": (MOSTLY_ZERO, np.roll(MOSTLY_ZERO, 7)),
    "empty": (EMPTY, EMPTY),
    "two constants": (np.where(np.arange(N) % 2, 0.0, 1.0), np.where(np.arange(N) % 2, 1.0, 0.0)),
}


def drift_of(then: pa.Array, now: pa.Array) -> Drift:
    """Return the drift of one column against twenty nights that share the rows of before."""
    parts = [then.slice(20 * number, 20) for number in range(20)]
    reference = {day_of(number): scanned({"x": part})[0] for number, part in enumerate(parts)}
    distances = ColumnDistances(SeriesTable.of(reference), LIMIT)
    [drift] = distances.measure(day_of(30), scanned({"x": now})[0])
    return drift


@pytest.mark.parametrize(("then", "now"), CHANGED_NUMBERS.values(), ids=CHANGED_NUMBERS)
def test_number_that_is_something_else_tonight_has_drifted(then, now) -> None:
    drift = drift_of(pa.array(then), pa.array(now))
    assert drift.is_drifted, drift
    assert LIMIT < drift.distance < 1000


@pytest.mark.parametrize(("then", "now"), SAME_NUMBERS.values(), ids=SAME_NUMBERS)
def test_number_that_is_the_same_tonight_has_not_drifted(then, now) -> None:
    drift = drift_of(pa.array(then), pa.array(now))
    assert not drift.is_drifted, drift
    assert drift.distance <= LIMIT


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (["A"] * N, ["B"] * N),
        (["A"] * N, [None] * N),
        ([None] * N, ["A"] * N),
        (["A", "B", "C"] * (N // 3) + ["A"], ["A"] * N),
        (["A"] * N, [f"level {number}" for number in range(N)]),
    ],
    ids=["another level", "emptied", "filled", "levels vanish", "a level per row"],
)
def test_level_that_is_something_else_tonight_has_drifted(then, now) -> None:
    drift = drift_of(pa.array(then, pa.string()), pa.array(now, pa.string()))
    assert drift.is_drifted, drift
