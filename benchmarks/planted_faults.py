"""Faults planted into a night's feature rows, as broken feeds of flights and weather make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Rows = dict[str, npt.NDArray[np.generic]]
    Plant = Callable[[Rows, Rows, np.random.Generator], Rows]

MINUTES_A_DAY = 1440


@dataclass(frozen=True)
class PlantedFault:
    """One kind of fault.

    Attributes:
        name: What is planted, and where.
        columns: The columns of which one must be named.
        plant: Returns the changed columns of a night, given its rows and those of the night from
            which a frozen feed has its values.
        is_frozen: Whether the night before carries the same fault.
    """

    name: str
    columns: tuple[str, ...]
    plant: Plant
    is_frozen: bool = False


def faults() -> list[PlantedFault]:
    """Return all kinds."""
    kinds = [
        _changed("km for miles", "distance_miles", lambda x: x * 1.609344),
        _changed("celsius for fahrenheit", "temperature_f_last", lambda x: (x - 32) / 1.8),
        _changed("fraction for percent", "humidity_pct_last", lambda x: x / 100),
        _changed("metres per second for mph", "wind_speed_mph_last", lambda x: x * 0.44704),
        _changed("inches of mercury for millibars", "pressure_mb_last", lambda x: x / 33.8639),
        _vanished("UA"),
        _vanished("VX"),
        _changed("time zone +1 h", "departure_minute_of_day", lambda x: (x + 60) % MINUTES_A_DAY),
        _changed("time zone +4 h", "departure_minute_of_day", lambda x: (x + 240) % MINUTES_A_DAY),
        _swapped("temperature_f_last", "dew_point_f_last"),
        _swapped("carrier_delay_rate_7d", "origin_delay_rate_7d"),
        _swapped("departure_minute_of_day", "arrival_minute_of_day"),
        _swapped("wind_speed_mph_last", "wind_speed_mph_max_6h"),
        _swapped("all_delay_rate_1d", "all_not_arrived_rate_1d"),
    ]
    for column in ("distance_miles", "carrier_delay_rate_7d", "temperature_f_last"):
        kinds += [_nulls(share, column) for share in (0.01, 0.05, 0.1, 0.2)]
    for column in (
        "carrier_delay_rate_7d",
        "precipitation_in_sum_24h",
        "aircraft_legs_before_count",
        "temperature_f_last",
        "pressure_mb_last",
    ):
        kinds.append(_changed("all zeros", column, lambda x: np.where(np.isnan(x), x, 0.0)))
    for column, key in (
        ("temperature_f_last", "origin"),
        ("pressure_mb_last", "origin"),
        ("all_delay_rate_1d", None),
        ("carrier_delay_rate_7d", "carrier"),
        ("origin_delay_rate_28d", "origin"),
        ("day_of_week", None),
    ):
        kinds += [_frozen(column, key, since_last=True), _frozen(column, key, since_last=False)]
    return kinds


def as_rows(table: pa.Table) -> Rows:
    """Return the columns of a table as arrays."""
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


def _changed(name: str, column: str, change: Callable[[np.ndarray], np.ndarray]) -> PlantedFault:
    def plant(rows: Rows, _: Rows, __: np.random.Generator) -> Rows:
        return {column: change(rows[column])}

    return PlantedFault(f"{name}: {column}", (column,), plant)


def _vanished(level: str) -> PlantedFault:
    def plant(rows: Rows, _: Rows, __: np.random.Generator) -> Rows:
        kept = rows["carrier"] != level
        return {name: values[kept] for name, values in rows.items()}

    return PlantedFault(f"vanished level: {level}", ("carrier",), plant)


def _swapped(first: str, second: str) -> PlantedFault:
    def plant(rows: Rows, _: Rows, __: np.random.Generator) -> Rows:
        return {first: rows[second], second: rows[first]}

    return PlantedFault(f"swapped: {first}, {second}", (first, second), plant)


def _nulls(share: float, column: str) -> PlantedFault:
    def plant(rows: Rows, _: Rows, random: np.random.Generator) -> Rows:
        values = rows[column].astype(np.float64)
        values[random.random(values.size) < share] = np.nan
        return {column: values}

    return PlantedFault(f"{share:.0%} nulls: {column}", (column,), plant)


def _frozen(column: str, key: str | None, *, since_last: bool) -> PlantedFault:
    def plant(rows: Rows, earlier: Rows, _: np.random.Generator) -> Rows:
        old = earlier[column]
        if key is None:
            return {column: np.full(rows[column].size, old[0])}
        # A feed that stands still gives each carrier or airport its last value.
        values = dict(zip(earlier[key].tolist(), old.tolist(), strict=True))
        return {column: np.array([values.get(name, np.nan) for name in rows[key].tolist()])}

    since = "last night" if since_last else "the first night"
    return PlantedFault(f"frozen since {since}: {column}", (column,), plant, not since_last)


@dataclass(frozen=True)
class SlowFault:
    """One kind of slow change, which is a little worse each night.

    Attributes:
        name: What is planted, and where.
        column: The column that must be named.
        plant: Returns the changed column of a night, given its rows and the number of the night,
            1 for the first one.
    """

    name: str
    column: str
    plant: Callable[[Rows, int, np.random.Generator], np.ndarray]


def slow_faults() -> list[SlowFault]:
    """Return all kinds of slow change."""
    kinds = [_drifting("distance_miles", 0.003)]
    for column in (
        "distance_miles",
        "departure_minute_of_day",
        "pressure_mb_last",
        "temperature_f_last",
        "wind_speed_mph_last",
    ):
        kinds += [_drifting(column, 0.01)]
    for column in ("distance_miles", "temperature_f_last", "carrier_delay_rate_7d"):
        kinds += [_rising_nulls(column, share) for share in (0.0002, 0.001)]
    kinds += [_moving_level("UA", "DL"), _moving_level("EV", "MQ"), _moving_level("VX", "AA")]
    for column, step in (
        ("distance_miles", 5.0),
        ("departure_minute_of_day", 1.0),
        ("temperature_f_last", 0.5),
        ("carrier_delay_rate_28d", 0.002),
    ):
        kinds.append(_coarser(column, step))
    for column, a_night in (
        ("carrier_delay_rate_28d", 0.003),
        ("origin_delay_rate_28d", 0.003),
        ("pressure_mb_last", 0.3),
        ("aircraft_legs_before_count", 0.02),
    ):
        kinds.append(_rising(column, a_night))
    return kinds


def _drifting(column: str, share: float) -> SlowFault:
    def plant(rows: Rows, number: int, _: np.random.Generator) -> np.ndarray:
        return rows[column] * (1 + share * number)

    return SlowFault(f"unit drifts by {share:.1%} a night: {column}", column, plant)


def _rising_nulls(column: str, share: float) -> SlowFault:
    def plant(rows: Rows, number: int, random: np.random.Generator) -> np.ndarray:
        values = rows[column].astype(np.float64)
        values[random.random(values.size) < share * number] = np.nan
        return values

    return SlowFault(f"nulls rise by {share:.2%} a night: {column}", column, plant)


def _moving_level(level: str, other: str) -> SlowFault:
    def plant(rows: Rows, number: int, random: np.random.Generator) -> np.ndarray:
        values = rows["carrier"].copy()
        is_moved = (values == level) & (random.random(values.size) < 0.01 * number)
        values[is_moved] = other
        return values

    return SlowFault(f"1 % more a night of {level} is called {other}", "carrier", plant)


def _coarser(column: str, step: float) -> SlowFault:
    def plant(rows: Rows, number: int, _: np.random.Generator) -> np.ndarray:
        return np.round(rows[column].astype(np.float64) / (step * number)) * (step * number)

    return SlowFault(f"rounded to {step:g} more each night: {column}", column, plant)


def _rising(column: str, a_night: float) -> SlowFault:
    def plant(rows: Rows, number: int, _: np.random.Generator) -> np.ndarray:
        return rows[column] + a_night * number

    return SlowFault(f"rises by {a_night:g} a night: {column}", column, plant)
