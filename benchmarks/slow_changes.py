"""After how many nights a slow change is told, and how many columns are told for nothing.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.slow_changes [--rows FILE] [--json FILE]

Three measurements, each through the monitor's own code. Simulated columns of 200 rows a night, in
which nothing changes, of several shapes and dependences. The year 2013 of flights, watched by
champions of several dates, in which nothing is broken. And every kind of ``planted_faults``'
``slow_faults``, planted from the third night after each training on. Told is a column that has
drifted, is broken, or changes slowly. Without a Parquet file of published feature rows, own
servers are started and the year is replayed: eight minutes.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from benchmarks.input_faults import (
    CHAMPIONS,
    LAG_DAYS,
    ONE_DAY,
    WINDOW_DAYS,
    Nights,
    by_day,
    replayed_year,
)
from benchmarks.planted_faults import slow_faults
from benchmarks.result import Limited, Result
from pyarrow import parquet

from nightshift.contracts.model_spec import load_spec
from nightshift.contracts.partitions import Partition
from nightshift.monitoring.columns.change_sums import SlowChanges
from nightshift.monitoring.columns.column_drift import ColumnDistances
from nightshift.monitoring.columns.fault_history import FaultHistory
from nightshift.monitoring.columns.input_faults import InputChecks
from nightshift.monitoring.columns.night_series import Profile, SeriesTable
from nightshift.monitoring.columns.order_relations import learn_orders
from nightshift.monitoring.columns.slow_change import MAX_SLOW_DAYS, SlowChange
from nightshift.quality.column_summary import QUANTILES, ColumnSummary, summarize
from nightshift.quality.profiles import scan
from nightshift.settings import PROJECT_ROOT

if TYPE_CHECKING:
    import numpy.typing as npt
    from benchmarks.planted_faults import SlowFault

    from nightshift.monitoring.columns.column_drift import Drift
    from nightshift.monitoring.columns.faults import PublishedFault

    Doubles = npt.NDArray[np.float64]

WATCHED_DAYS, FIRST_PLANTED = 42, 3
FIRST = dt.date(2020, 1, 1)
SIMULATED = (
    ("independent", 0.0, "normal"),
    ("correlation 0.3", 0.3, "normal"),
    ("correlation 0.6", 0.6, "normal"),
    ("correlation 0.9", 0.9, "normal"),
    ("heavy tails (t, 3 degrees)", 0.0, "t3"),
    ("skewed", 0.3, "skewed"),
    ("nine nights of ten are zero", 0.0, "rare"),
    ("weekdays", 0.3, "weekday"),
    ("a year's season", 0.3, "season"),
    ("constant", 0.0, "constant"),
)
LIMIT = 0.01


@dataclass
class Tally:
    """Columns that were told on nights on which nothing was wrong.

    Attributes:
        nightly: Column nights with drift or an input fault.
        slow: With a slow change.
        either: With either.
        began: Columns whose slow change was told for the first time.
        n: All column nights.
        by_column: Slow ones, by column.
    """

    nightly: int = 0
    slow: int = 0
    either: int = 0
    began: int = 0
    n: int = 0
    by_column: Counter[str] = field(default_factory=Counter)

    def count(self, nightly: set[str], slow: set[str], before: set[str], n: int) -> None:
        """Count a night; ``before`` are the columns whose slow change was told already."""
        self.nightly += len(nightly)
        self.slow += len(slow)
        self.either += len(nightly | slow)
        self.began += len(slow - before)
        self.n += n
        self.by_column.update(slow)

    def share(self, name: str) -> float:
        """Return one of the counts as a share of all column nights."""
        return float(getattr(self, name)) / max(self.n, 1)


@dataclass
class Watch:
    """One champion's columns, watched night after night as the monitor does.

    Attributes:
        table: The training nights.
        limit: Distance of a drifted column.
        orders: Relations that the training nights never broke.
        profiles: The nights since, by day.
        faults: What was found on them.
    """

    table: SeriesTable
    limit: float
    orders: frozenset[tuple[str, str]] = frozenset()
    profiles: dict[dt.date, Profile] = field(default_factory=dict)
    faults: dict[dt.date, list[PublishedFault]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.distances = ColumnDistances(self.table, self.limit)
        self.changes = SlowChanges(self.table, self.distances.usual)
        self.recent = self.table

    def partition(
        self, day: dt.date, profile: Profile, order: object = None, *, checks_input: bool = True
    ) -> tuple[set[str], dict[str, SlowChange]]:
        """Watch one night; return the columns that it alone names, and the sums of all nights."""
        history = FaultHistory.of(Partition(day), self.faults, MAX_SLOW_DAYS)
        if checks_input:
            checks = InputChecks(self.recent, self.orders)
            before = self.profiles.get(day - ONE_DAY) or self.table.profiles[-1]
            matches = checks.find(day, profile, before, order)  # type: ignore[arg-type]
            short = FaultHistory.of(Partition(day), self.faults)
            self.faults[day] = short.publish(matches, {})
        tonight = self.faults.get(day, [])
        self.profiles[day] = profile
        # The day stands for the load that it is.
        loads = {known: known.toordinal() for known in sorted(self.profiles)}
        self.changes.learn(loads, {day: profile})
        slow = self.changes.find(loads, history.broken_nights(tonight))
        broken = frozenset(fault.feature for fault in tonight)
        self.recent = self.recent.extended(day, profile, broken)
        drifted = {drift.feature for drift in self._drifts(day, profile) if drift.is_drifted}
        return drifted | broken, slow

    def _drifts(self, day: dt.date, profile: Profile) -> list[Drift]:
        return self.distances.measure(day, profile)


def slow_columns(slow: Mapping[str, SlowChange]) -> set[str]:
    """Return the columns whose slow change is told."""
    return {column for column, change in slow.items() if change.is_told}


def main() -> int:
    """Run the benchmark; return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, help="Parquet file of published feature rows")
    parser.add_argument("--champions", type=int, default=len(CHAMPIONS))
    parser.add_argument("--columns", type=int, default=200, help="simulated ones of each kind")
    parser.add_argument("--only", choices=("simulated", "year", "planted"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    parts = (given.only,) if given.only else ("simulated", "year", "planted")
    result = Result("slow_changes", f"{given.champions} champions, {WATCHED_DAYS} nights each")
    if "simulated" in parts:
        measure_simulated(given.columns, result)
    if {"year", "planted"} & set(parts):
        spec = load_spec(PROJECT_ROOT / "dags" / "models", "flight_delayed")
        table = parquet.read_table(given.rows) if given.rows else replayed_year()
        year = Nights(spec, by_day(table, spec))
        champions = [dt.date.fromisoformat(f"2013-{day}") for day in CHAMPIONS[: given.champions]]
        if "year" in parts:
            measure_year(year, champions, result)
        if "planted" in parts:
            measure_planted(year, champions, result)
    return result.tell(given.json)


def measure_simulated(n_columns: int, result: Result) -> None:
    """Watch columns in which nothing changes, and nothing depends on another column."""
    for name, correlation, shape in SIMULATED:
        dice = np.random.default_rng(len(name))
        partitions = simulate(dice, n_columns, correlation, shape)
        watch = Watch(SeriesTable.of(dict(partitions[:WINDOW_DAYS])), 4.0)
        tally, before = Tally(), set[str]()
        for day, profile in partitions[WINDOW_DAYS:]:
            nightly, slow = watch.partition(day, profile, checks_input=False)
            tally.count(nightly, slow_columns(slow), before, n_columns)
            before |= slow_columns(slow)
        result.figures[f"{name}: columns ever told slowly, of {n_columns}"] = len(before)
        result.limited[f"{name}: told for nothing"] = Limited(
            round(tally.share("either"), 5), "at most", LIMIT, "a column and night"
        )
        print(f"simulated, {name}: {tally.share('slow'):.5f} slow", flush=True)


def simulate(
    dice: np.random.Generator, n_columns: int, correlation: float, shape: str
) -> list[tuple[dt.date, Profile]]:
    """Return nights of 200 rows in columns that share nothing, whose nights have an effect."""
    n_nights = WINDOW_DAYS + WATCHED_DAYS
    effect = dice.standard_normal((n_nights + 50, n_columns))
    if shape == "t3":
        effect = dice.standard_t(3, effect.shape) / np.sqrt(3)
    if shape == "skewed":
        effect = dice.exponential(1.0, effect.shape) - 1
    for partition in range(1, len(effect)):
        fresh = np.sqrt(1 - correlation**2) * effect[partition]
        effect[partition] = correlation * effect[partition - 1] + fresh
    effect = effect[50:]
    number = np.arange(n_nights)[:, np.newaxis]
    if shape == "weekday":
        effect = effect + 3 * (number % 7 == 5)
    if shape == "season":
        # Each column stands at another day of its year.
        effect = effect + 2 * np.sin(2 * np.pi * (number / 365 + dice.random(n_columns)))
    if shape == "rare":
        effect = np.where(dice.random(effect.shape) < 0.1, np.abs(effect), 0.0)
    if shape == "constant":
        effect = np.zeros(effect.shape)
    partitions = []
    for partition in range(n_nights):
        spread = 0.0 if shape in ("rare", "constant") else 1.0
        rows = effect[partition] + spread * dice.standard_normal((200, n_columns))
        day = FIRST + partition * ONE_DAY
        partitions.append((day, summaries(rows)))
    return partitions


def summaries(rows: Doubles) -> Profile:
    """Return the summaries of a night's columns; shape (rows, columns)."""
    quantiles = np.quantile(rows, QUANTILES, axis=0).T
    profile = {}
    for column in range(rows.shape[1]):
        values = rows[:, column]
        profile[f"c{column:04d}"] = ColumnSummary(
            n_rows=len(values),
            n_missing=0,
            n_distinct=len(np.unique(values)),
            mean=float(values.mean()),
            std=float(values.std()),
            minimum=float(values.min()),
            maximum=float(values.max()),
            quantiles=tuple(quantiles[column].tolist()),
            zero_share=float((values == 0).mean()),
        )
    return profile


def training_days(year: Nights, trained_on: dt.date) -> list[dt.date]:
    """Return the days that a champion was trained on."""
    last = trained_on - LAG_DAYS * ONE_DAY
    window = [last - n * ONE_DAY for n in reversed(range(WINDOW_DAYS))]
    return [day for day in window if day in year.rows]


def watched_days(year: Nights, trained_on: dt.date) -> list[dt.date]:
    """Return the nights since the training that a champion is watched on."""
    first = trained_on - (LAG_DAYS - 1) * ONE_DAY
    days = [first + n * ONE_DAY for n in range(WATCHED_DAYS)]
    return [day for day in days if day in year.rows]


def measure_year(year: Nights, champions: list[dt.date], result: Result) -> None:
    """Watch the year as it was."""
    tally = Tally()
    for trained_on in champions:
        scans = {day: year.scan(day) for day in training_days(year, trained_on)}
        table = SeriesTable.of({day: profile for day, (profile, _) in scans.items()})
        orders = learn_orders(table, {day: order for day, (_, order) in scans.items()})
        watch = Watch(table, year.spec.monitoring.drift_limit, orders)
        before: set[str] = set()
        for day in watched_days(year, trained_on):
            nightly, slow = watch.partition(day, *year.scan(day))
            tally.count(nightly, slow_columns(slow), before, len(year.spec.features.names))
            before |= slow_columns(slow)
        print(f"champion of {trained_on}: {sorted(before)}", flush=True)
    print(f"slow columns of the year: {dict(tally.by_column)}", flush=True)
    result.figures |= {
        "2013: named by a night alone, a column and night": round(tally.share("nightly"), 5),
        "2013: told slowly, a column and night": round(tally.share("slow"), 5),
        "2013: slow changes that begin, a column and night": round(tally.share("began"), 5),
    }
    result.limited["2013: told for nothing"] = Limited(
        round(tally.share("either"), 5), "at most", LIMIT, "a column and night"
    )


@dataclass
class Found:
    """On which night since its beginning a planted change was told; None for never.

    Attributes:
        nightly: By one night alone.
        slow: By the sums.
        off: Nights between the true beginning and the one that the sum names.
    """

    nightly: int | None = None
    slow: int | None = None
    off: int | None = None

    @property
    def first(self) -> int | None:
        """Return the night on which it was told one way or the other."""
        return min((n for n in (self.nightly, self.slow) if n is not None), default=None)


def measure_planted(year: Nights, champions: list[dt.date], result: Result) -> None:
    """Plant every slow change into the nights of every champion."""
    matches: dict[str, list[Found]] = defaultdict(list)
    for trained_on in champions:
        for fault in slow_faults():
            matches[fault.name].append(plant(year, trained_on, fault))
        print(f"planted after {trained_on}", flush=True)
    n_found, n_planted = 0, 0
    for name, each in sorted(matches.items()):
        partitions = [life.first for life in each if life.first is not None]
        n_found, n_planted = n_found + len(partitions), n_planted + len(each)
        result.figures[f"{name}: told of {len(each)}"] = len(partitions)
        print(
            f"{name:60} told {len(partitions)}/{len(each)}, night {_median(partitions)};"
            f" by one night "
            f"{_shown([life.nightly for life in each])}; by sums "
            f"{_shown([life.slow for life in each])}; begin off by "
            f"{_median([life.off for life in each if life.off is not None])}",
            flush=True,
        )
        if partitions:
            result.figures[f"{name}: night, median"] = float(np.median(partitions))
    result.figures["planted changes"] = n_planted
    result.figures["of them told"] = n_found


def plant(year: Nights, trained_on: dt.date, fault: SlowFault) -> Found:
    """Watch one column through a slow change of it."""
    dice = np.random.default_rng(trained_on.toordinal())
    reference = {}
    for day in training_days(year, trained_on):
        reference[day] = {fault.column: year.scan(day)[0][fault.column]}
    watch = Watch(SeriesTable.of(reference), year.spec.monitoring.drift_limit)
    matches = Found()
    days = watched_days(year, trained_on)
    for number, day in enumerate(days, 1 - FIRST_PLANTED):
        summary = year.scan(day)[0][fault.column]
        if number > 0:
            summary = scan_column(year, fault, fault.plant(year.rows[day], number, dice))
        nightly, slow = watch.partition(day, {fault.column: summary})
        if number <= 0:
            continue
        if nightly and matches.nightly is None:
            matches.nightly = number
        if slow_columns(slow) and matches.slow is None:
            begun = days[FIRST_PLANTED]
            matches.slow, matches.off = number, abs((slow[fault.column].since - begun).days)
    return matches


def scan_column(year: Nights, fault: SlowFault, values: np.ndarray) -> ColumnSummary:
    """Return the summary of a changed column."""
    is_number = fault.column in year.spec.features.numeric
    array = pa.array(np.asarray(values, np.float64)) if is_number else pa.array(values, pa.string())
    return summarize(scan(pa.table({fault.column: array}).to_batches())[fault.column])


def _median(partitions: list[int]) -> str:
    return f"{np.median(partitions):g}" if partitions else "-"


def _shown(partitions: list[int | None]) -> str:
    known = [partition for partition in partitions if partition is not None]
    return f"{len(known)} on night {_median(known)}"


if __name__ == "__main__":
    sys.exit(main())
