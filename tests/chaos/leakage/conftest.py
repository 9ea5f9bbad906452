"""A raw history that is random in every way that the two clocks allow.

Late, corrected, corrected again.
"""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import pyarrow as pa
from tests.integration.transformation.conftest import FIRST, World, settings, weather, world

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.warehouse.fast_io.arrow_io import copy_in
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

__all__ = ["RandomHistory", "settings", "world"]

CARRIERS, TAILS = ["UA", "B6", "DL", "EV"], ["N1", "N2", "N3", "N4", "N5", None]
ROUTES = [(origin, to) for origin in ("EWR", "JFK", "LGA") for to in ("ORD", "BOS", "SJU")]
N_FLIGHTS = 8


class RandomHistory:
    """Fill a world: drops of all days by one load a dataset, then corrections one by one.

    Args:
        world: An empty world.
        n_days: Operating days from the first on.
        n_corrections: Later versions of random drops.
        seed: Of everything.
    """

    def __init__(self, world: World, n_days: int, n_corrections: int, seed: int) -> None:
        self.world, self.seed = world, seed
        self.dice = random.Random(seed)  # noqa: S311  (invented flights)
        self.days = [FIRST + dt.timedelta(days=i) for i in range(n_days)]
        self._deliver_all()
        for _ in range(n_corrections):
            dataset, day = (
                self.dice.choice(
                    ["flight_outcomes", "flight_outcomes", "weather", "flight_schedules"]
                ),
                self.dice.choice(self.days),
            )
            world.deliver(
                dataset,
                day,
                self.rows(dataset, day),
                Partition(day).cutoff + dt.timedelta(minutes=self.dice.randint(1, 60 * 24 * 9)),
            )

    def rows(self, dataset: str, day: dt.date) -> list[dict[str, Any]]:
        """Draw a drop; every call gives another version."""
        if dataset == "weather":
            return weather(day, self.dice.randint(0, 10**9))
        flown = day if dataset == "flight_outcomes" else day + dt.timedelta(days=1)
        return [
            self._outcome(flight) if dataset == "flight_outcomes" else self._schedule(flight)
            for flight in self._flights(flown)
        ]

    def _flights(self, day: dt.date) -> list[dict[str, Any]]:
        flights = []
        for number in range(1, N_FLIGHTS + 1):
            origin, destination = self.dice.choice(ROUTES)
            at = dt.datetime(
                day.year,
                day.month,
                day.day,
                15 + self.dice.randint(0, 6),
                self.dice.choice([0, 15, 40]),
                tzinfo=dt.UTC,
            )
            flights.append(
                {
                    "flight_date": day,
                    "carrier": self.dice.choice(CARRIERS),
                    "flight_number": number,
                    "tail_number": self.dice.choice(TAILS),
                }
                | {"origin": origin, "destination": destination, "scheduled_departure_at": at}
            )
        return flights

    def _schedule(self, flight: dict[str, Any]) -> dict[str, Any]:
        return flight | {"scheduled_arrival_hhmm": 1530, "distance_miles": 700}

    def _outcome(self, flight: dict[str, Any]) -> dict[str, Any]:
        delay = self.dice.choice([self.dice.randint(-20, 70), None])
        minutes = 120 + (delay or 0) + flight["flight_number"] / 100
        return flight | {
            "status": "cancelled" if delay is None else "arrived",
            "departure_delay_minutes": delay,
            "arrival_delay_minutes": delay,
            "air_time_minutes": None if delay is None else 100 + delay,
            "outcome_at": flight["scheduled_departure_at"] + dt.timedelta(minutes=minutes),
        }

    def _deliver_all(self) -> None:
        """Publish the first version of every drop; one in six comes up to five days late."""
        for dataset in ("flight_schedules", "flight_outcomes", "weather"):
            known_at = {day: self._first_known(day) for day in self.days}
            contract, span = (
                self.world.contracts[dataset],
                PartitionRange(Partition(self.days[0]), Partition(self.days[-1])),
            )
            target = Target(contract.dataset, "raw", dataset, contract.key, is_versioned=True)
            manifest = LoadManifest(
                RunContext("test/history", 1, "test"), {"seed": str(self.seed)}, known_at
            )
            write = begin(self.world.conn, [target], span, manifest)
            drops = {day: self.rows(dataset, day) for day in self.days}
            came = {"load_id": write.load_id, "source_row": 1}
            rows = [
                row | came | {"partition_date": day, "known_at": known_at[day]}
                for day in self.days
                for row in drops[day]
            ]
            copy_in(self.world.conn, "raw", dataset, pa.Table.from_pylist(rows))
            audit(self.world.conn, write)
            publish(self.world.conn, write)
            self.world.versions += [(dataset, day, known_at[day], drops[day]) for day in self.days]

    def _first_known(self, day: dt.date) -> dt.datetime:
        is_late = self.dice.random() < 1 / 6
        return Partition(day).cutoff + dt.timedelta(
            minutes=self.dice.randint(1, 60 * 24 * 5) if is_late else -10
        )
