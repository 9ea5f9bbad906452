"""Which retrain requests the monitor opens in years of several kinds, and which are right.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.retrain_decisions [--years N] [--json FILE]

Eleven kinds of simulated year, each with several seeds. The monitor and its trigger are the
product's, with the default triggers, and so are model, level of the night and schedule: the model
of a request serves from the next night on. Only tables and files are left out.

A request is right if its model then gains 0.005 log loss on the 28 nights after it, against the
model that it replaces and the true probabilities; in a year of a shock or of broken input none is.
A change needs a retraining from the night on which the old relation costs more than the spec's
``maximum_metric_loss``, and is found by the first right request of the 28 nights after that.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from benchmarks.input_faults import ONE_DAY, Nights
from benchmarks.result import Limited, Result
from benchmarks.simulated_years import (
    BEFORE_DAYS,
    FIRST,
    KINDS,
    NUMERIC,
    ROWS,
    SPEC,
    YEAR_DAYS,
    log_loss,
    simulate,
)

from nightshift.backtest.nightly_models import NightlyModel, NightlyModels, train_as_of
from nightshift.backtest.policies import Policy, PolicyRun, Schedule, run_policy
from nightshift.backtest.replayed_columns import ReplayedColumns
from nightshift.backtest.replayed_context import ReplayedContext
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.contracts.training_spec import Weekday
from nightshift.monitoring.columns.night_series import SCORE, Profile
from nightshift.monitoring.columns.reference_reader import MAX_RECENT_DAYS, PublishedColumns
from nightshift.monitoring.columns.slow_change import MAX_SLOW_DAYS
from nightshift.monitoring.context import MaturedResult
from nightshift.monitoring.monitor import decide_retrain, make_verdict, measure
from nightshift.monitoring.performance import ALL_ROWS, Performance
from nightshift.monitoring.trigger import loss_lag_days
from nightshift.quality.column_summary import summarize
from nightshift.quality.sketches.number_sketch import NumberSketch
from nightshift.training.evaluation import rule_predictions

if TYPE_CHECKING:
    import numpy.typing as npt
    from benchmarks.simulated_years import World, YearType

    from nightshift.monitoring.champion import Champion
    from nightshift.monitoring.columns.faults import PublishedFault
    from nightshift.monitoring.columns.reference_reader import ReferenceReader
    from nightshift.monitoring.verdict import Verdict
    from nightshift.quality.column_order import ColumnOrder

    Doubles = npt.NDArray[np.float64]

FOLLOWED_DAYS, NEEDED_GAIN = 28, 0.005
LAG_DAYS = loss_lag_days(SPEC)


@dataclass
class FittedModels(NightlyModels):
    """The models of a year, each trained when first asked for and kept in memory."""

    _fitted: dict[dt.date, NightlyModel] = field(default_factory=dict)

    def of(self, day: dt.date) -> NightlyModel:
        """Return the model of a day."""
        if day not in self._fitted:
            training = train_as_of(self.spec, self.rows, day)
            evaluated = training.evaluated or training.served
            self._fitted[day] = NightlyModel(training.served, evaluated, 0.0)
        return self._fitted[day]


@dataclass
class SimulatedReader:
    """Summaries of simulated nights, as ``ReferenceReader`` reads them; a day is its own load."""

    partitions: Nights

    def recent_loads(self, partition: Partition) -> dict[dt.date, int]:
        return self._loads(partition.shift(-MAX_RECENT_DAYS).day, partition.shift(-1).day)

    def loads_since(self, window: PartitionRange, partition: Partition) -> dict[dt.date, int]:
        first = max(window.last.shift(1).day, partition.shift(-MAX_SLOW_DAYS).day)
        return self._loads(first, partition.day)

    def summaries(self, loads: dict[dt.date, int]) -> dict[dt.date, Profile]:
        return {day: self.partitions.scan(day)[0] for day in loads}

    def orders(self, loads: dict[dt.date, int]) -> dict[dt.date, ColumnOrder]:
        return {day: self.partitions.scan(day)[1] for day in loads}

    def published(self, partition: Partition) -> PublishedColumns:
        return PublishedColumns(*self.partitions.scan(partition.day))

    def _loads(self, first: dt.date, last: dt.date) -> dict[dt.date, int]:
        return {day: day.toordinal() for day in self.partitions.rows if first <= day <= last}


@dataclass(kw_only=True)
class SimulatedColumns(ReplayedColumns):
    """The columns of a simulated night."""

    partitions: Nights
    models: NightlyModels

    @cached_property
    def reader(self) -> ReferenceReader:
        return cast("ReferenceReader", SimulatedReader(self.partitions))

    def training_loads(self, champion: Champion) -> dict[dt.date, int]:
        # A load of these nights is the number of its day.
        return {day: day.toordinal() for day in champion.window.days}

    def feeds(self) -> dict[str, list[str]]:
        return {}

    def score_profile(self) -> Profile:
        if self.champion is None:
            return {}
        sketch = NumberSketch()
        rows = self.models.rows_on(self.partition.day)
        sketch.add(self.champion.trained.predictions(rows).score)
        return {SCORE: summarize(sketch)}


@dataclass(kw_only=True)
class SimulatedContext(ReplayedContext):
    """The inputs of a simulated night."""

    partitions: Nights

    @cached_property
    def columns(self) -> SimulatedColumns:
        return SimulatedColumns(
            settings=self.settings, conn=self.conn, spec=self.spec, partition=self.partition,
            run=self.run, scans=cast("Any", None), champion=self.champion, is_scored=True,
            found_faults=self.faults, partitions=self.partitions, models=self.models,
        )  # fmt: skip

    def measure_matured(self) -> MaturedResult:
        # The watched metric alone: intervals and other metrics decide nothing, and take longest.
        day = self.evaluated.day
        if day not in self.served:
            return MaturedResult([], None)
        rows = self.models.rows_on(day)
        label = rows.column(SPEC.label.column).to_numpy().astype(np.float64)
        known = self.models.predictions(self.served[day], day).probability
        rule = rule_predictions(SPEC.task, SPEC.scoring.fallback, rows).probability
        losses = [log_loss(label, cast("Doubles", made)).mean() for made in (known, rule)]
        watched = Performance(ALL_ROWS, "", "log_loss", *map(float, losses), label.size)
        return MaturedResult([watched], self.served[day].toordinal())

    @cached_property
    def data_quality_problems(self) -> list[str]:
        return self.columns.faults_since(self.evaluated)


def watch(models: NightlyModels, n_days: int) -> tuple[PolicyRun, dict[dt.date, Verdict]]:
    """Let the product's monitor decide on every night of a year; return what it did."""
    by_day: dict[dt.date, dict[str, Any]] = {}
    days = np.unique(models.rows.column("partition_date").to_numpy().astype("datetime64[D]"))
    for day in days:
        rows = models.rows_on(day.item())
        by_day[day.item()] = {name: rows.column(name).to_numpy() for name in NUMERIC}
    partitions = Nights(models.spec, by_day)
    verdicts: dict[dt.date, Verdict] = {}
    faults: dict[dt.date, list[PublishedFault]] = {}
    champions: dict[int, Champion] = {}

    def trigger(day: dt.date, run: PolicyRun) -> bool:
        nowhere = cast("Any", None)
        context = SimulatedContext(
            settings=nowhere, conn=nowhere, spec=models.spec, partition=Partition(day),
            run=RunContext("benchmark"), champions=champions, models=models, served=run.served,
            triggered=tuple(run.triggered), verdicts=verdicts, faults=faults, partitions=partitions,
        )  # fmt: skip
        measurement = measure(context)
        decision = decide_retrain(context, measurement, context.retrain_history())
        verdicts[day] = make_verdict(context, measurement, decision)
        faults[day] = measurement.columns.faults
        return verdicts[day].has_triggered

    first = Partition(FIRST + BEFORE_DAYS * ONE_DAY)
    year = PartitionRange(first, first.shift(n_days - 1))
    run = run_policy(Policy(Schedule.TRIGGERED), year, Weekday.SUNDAY, trigger, lambda *_: "")
    return run, verdicts


@dataclass
class Tally:
    """What the monitor did in some years.

    Attributes:
        right: Gains of the models of right requests.
        wrong: Gains of the models of wrong requests.
        n_needs: Changes that need a retraining.
        delays: Matured nights from each need that was found to its request.
        lost: Lost advantage over the rule of each night.
    """

    right: list[float] = field(default_factory=list)
    wrong: list[float] = field(default_factory=list)
    n_needs: int = 0
    delays: list[int] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.right += other.right
        self.wrong += other.wrong
        self.n_needs += other.n_needs
        self.delays += other.delays
        self.lost += other.lost


def measure_year(year: YearType, seed: int, n_rows: int = ROWS, n_days: int = YEAR_DAYS) -> Tally:
    """Simulate and watch a year; judge each request."""
    world = simulate(year, seed, n_rows, n_days)
    models = FittedModels(SPEC, world.rows, Path())
    run, verdicts = watch(models, n_days)
    tally = Tally(n_needs=len(world.needs))
    tally.lost = [verdict.loss for verdict in verdicts.values() if verdict.loss is not None]
    right = []
    for day in run.triggered:
        gain = gain_of(models, world, run.served[day], day)
        is_right = gain > NEEDED_GAIN and not year.is_fault
        (tally.right if is_right else tally.wrong).append(gain)
        right += [day] if is_right else []
    for need in world.needs:
        last = need.needed + (FOLLOWED_DAYS + LAG_DAYS) * ONE_DAY
        requests = [day for day in right if need.begin <= day <= last]
        if requests:
            # The night that matured for the request counts: its labels were the evidence.
            tally.delays.append(max(0, (requests[0] - need.needed).days - LAG_DAYS + 1))
    return tally


def gain_of(models: NightlyModels, world: World, old: dt.date, new: dt.date) -> float:
    """Return the expected log loss that a newer model saves on the nights after its training."""
    days = [new + n * ONE_DAY for n in range(1, FOLLOWED_DAYS + 1)]
    gains = []
    for day in days:
        rows = models.rows_on(day)
        if rows.num_rows:
            begin = (day - FIRST).days * rows.num_rows
            truth = world.truth[begin : begin + rows.num_rows]
            made = [models.predictions(by, day).probability for by in (old, new)]
            before, after = (log_loss(truth, cast("Doubles", each)).mean() for each in made)
            gains.append(float(before - after))
    return float(np.mean(gains)) if gains else 0.0


def main() -> int:
    """Run the benchmark; return 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=int, default=3, help="of each kind")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=ROWS, help="a night")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    tallies = {year.name: Tally() for year in KINDS}
    with ProcessPoolExecutor(given.processes) as pool:
        jobs = {}
        for seed in range(given.first_seed, given.first_seed + given.years):
            for year in KINDS:
                jobs[pool.submit(measure_year, year, seed, given.rows)] = (year.name, seed)
        for job in as_completed(jobs):
            name, seed = jobs[job]
            tallies[name].add(job.result())
            print(f"{name}, seed {seed}: {shown(job.result())}", flush=True)
    print("| year | needed | found | delays, matured nights | requests right | wrong |")
    for name, tally in tallies.items():
        print(f"| {name} | {shown(tally)} |")
    sizes = f"{given.years} years of each of {len(KINDS)} kinds, {given.rows} rows a night"
    return result_of(tallies, sizes).tell(given.json)


def shown(tally: Tally) -> str:
    """Return the cells of a table."""
    delays = ", ".join(map(str, sorted(tally.delays))) or "-"
    cells = (tally.n_needs, len(tally.delays), delays, len(tally.right), len(tally.wrong))
    return " | ".join(map(str, cells))


def result_of(tallies: Mapping[str, Tally], sizes: str) -> Result:
    """Return the figures and their limits."""
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    n_right, n_wrong = len(total.right), len(total.wrong)
    faults = [tallies[year.name] for year in KINDS if year.is_fault]
    result = Result("retrain_decisions", sizes)
    if total.delays:
        result.figures["delay, median of matured nights"] = float(np.median(total.delays))
    if total.lost:
        limit = SPEC.monitoring.maximum_metric_loss
        stable = np.std(tallies["stable"].lost or total.lost)
        result.figures["limit, in deviations of a stable night"] = float(limit / stable)
    result.limited |= {
        "precision": Limited(n_right / max(n_right + n_wrong, 1), "at least", 0.9),
        "recall": Limited(len(total.delays) / max(total.n_needs, 1), "at least", 0.9),
        "delay, longest": Limited(max(total.delays, default=0), "at most", 7, "matured nights"),
        "requests in years of a fault": Limited(
            sum(len(tally.wrong) for tally in faults), "at most", 0
        ),
    }
    return result


if __name__ == "__main__":
    sys.exit(main())
