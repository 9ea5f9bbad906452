"""A small world of flights in raw tables, delivered day by day through the write path."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from nightshift.contracts.datasets import DatasetContract, load_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import Settings
from nightshift.warehouse.fast_io.arrow_io import copy_in
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

FIRST = dt.date(2013, 1, 1)
LOCAL_NOON_UTC_HOUR = 17
FLEET = [
    ("UA", 1, "N1", "EWR", "ORD"),
    ("UA", 2, "N2", "EWR", "IAH"),
    ("B6", 3, "N3", "JFK", "BOS"),
    ("B6", 4, None, "JFK", "SJU"),
    ("DL", 5, "N1", "LGA", "ORD"),
]


def departure(day: dt.date, index: int) -> dt.datetime:
    return dt.datetime(
        day.year, day.month, day.day, LOCAL_NOON_UTC_HOUR + index % 3, 15, tzinfo=dt.UTC
    )


def flight(day: dt.date, index: int) -> dict[str, Any]:
    carrier, number, tail, origin, destination = FLEET[index]
    at = departure(day, index)
    return {
        "flight_date": day,
        "carrier": carrier,
        "flight_number": number,
        "tail_number": tail,
        "origin": origin,
        "destination": destination,
        "scheduled_departure_at": at,
    }


def schedules(day: dt.date) -> list[dict[str, Any]]:
    return [
        flight(day + dt.timedelta(days=1), i)
        | {"scheduled_arrival_hhmm": 1530, "distance_miles": 700}
        for i in range(len(FLEET))
    ]


def outcomes(day: dt.date, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(f"{day}{seed}")  # noqa: S311  (invented flights)
    rows = []
    for index in range(len(FLEET)):
        delay = draw.randint(-20, 60)
        status = "cancelled" if draw.random() < 0.1 else "arrived"
        has_arrived = status == "arrived"
        rows.append(
            flight(day, index)
            | {
                "status": status,
                "departure_delay_minutes": delay if has_arrived else None,
                "arrival_delay_minutes": delay if has_arrived else None,
                "air_time_minutes": 100 + delay if has_arrived else None,
                "outcome_at": departure(day, index)
                + dt.timedelta(minutes=120 + delay if has_arrived else 0),
            }
        )
    return rows


def weather(day: dt.date, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(f"weather{day}{seed}")  # noqa: S311  (invented weather)
    midnight = Partition(day).start
    return [
        {
            "origin": origin,
            "observed_at": midnight + dt.timedelta(hours=hour),
            "temperature_f": float(draw.randint(10, 60)),
            "dew_point_f": 20.0,
            "humidity_pct": 50.0,
            "wind_direction_deg": 180.0,
            "wind_speed_mph": 10.0,
            "wind_gust_mph": None,
            "precipitation_in": draw.choice([0.0, 0.1, 0.01]),
            "pressure_mb": draw.choice([None, 1010.5]),
            "visibility_miles": 10.0,
        }
        for origin in ("EWR", "JFK", "LGA")
        for hour in range(24)
    ]


@dataclass
class World:
    """Delivers rows, and remembers every version for an independent recomputation."""

    settings: Settings
    conn: Connection
    contracts: dict[str, DatasetContract]
    outcomes = staticmethod(outcomes)
    schedules = staticmethod(schedules)
    weather = staticmethod(weather)
    versions: list[tuple[str, dt.date, dt.datetime, list[dict[str, Any]]]] = field(
        default_factory=list
    )

    def deliver(
        self,
        dataset: str,
        day: dt.date,
        rows: list[dict[str, Any]],
        known_at: dt.datetime | None = None,
    ) -> None:
        """Publish one version of a raw partition.

        Known ten minutes before the cut-off if nothing else is said.
        """
        known_at = known_at or Partition(day).cutoff - dt.timedelta(minutes=10)
        contract = self.contracts[dataset]
        target = Target(contract.dataset, "raw", dataset, contract.key, is_versioned=True)
        manifest = LoadManifest(
            RunContext("test/world", 1, "test"), {"known_at": known_at.isoformat()}, known_at
        )
        write = begin(self.conn, [target], PartitionRange.single(Partition(day)), manifest)
        came = {
            "partition_date": day,
            "load_id": write.load_id,
            "known_at": known_at,
            "source_row": 1,
        }
        copy_in(self.conn, "raw", dataset, pa.Table.from_pylist([row | came for row in rows]))
        self.conn.execute(
            "insert into raw.ingested_drops values (%s, %s, %s, %s, 's3://b/k', %s, '', %s, 0, 0,"
            " '{}')",
            [contract.dataset, day, write.load_id, known_at, f"{write.load_id:064d}", len(rows)],
        )
        audit(self.conn, write)
        publish(self.conn, write)
        self.versions.append((dataset, day, known_at, rows))

    def deliver_day(
        self, day: dt.date, seed: int, known_at: dt.datetime | None = None, skip: str = ""
    ) -> None:
        """Publish one day of all daily datasets with delays drawn from the seed."""
        rows = {
            "flight_schedules": schedules(day),
            "flight_outcomes": outcomes(day, seed),
            "weather": weather(day, seed),
        }
        for dataset in sorted(rows.keys() - {skip}):
            self.deliver(dataset, day, rows[dataset], known_at)


@pytest.fixture
def settings(dbt_settings: Settings) -> Settings:
    """Return settings of a database in which dbt has made its relations."""
    return dbt_settings


@pytest.fixture
def world(settings: Settings, conn: Connection) -> World:
    """Return a world in which nothing was delivered yet."""
    return World(settings, conn, load_contracts(settings.datasets_dir))
