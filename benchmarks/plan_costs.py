"""How well plans predict their seconds and rows: 20 plans of several kinds and lengths.

``python -m benchmarks.plan_costs [--plans 20] [--history 8]`` starts its own servers, loads the
first days of 2013 of the flights night by night (that is the record that the first plans learn
from), and then makes and applies plans one after another: backfills of new days, reruns from each
stage over one to five days. The load of the machine stands next to each, since a machine that is
busier than it was takes longer than any record says.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.result import Limited, Result

if TYPE_CHECKING:
    from nightshift.contracts.partitions import Partition
    from nightshift.plans.making import Planner
    from nightshift.plans.plan import Plan
    from nightshift.settings import Settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
FIRST_DAY = "2013-01-01"
TOLERANCE = 0.25
STAGES = ("transform", "score", "monitor")


def main() -> int:
    """Run the measurement; return 1 when predictions miss too often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--history", type=int, default=8, help="nights before the first plan")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    from nightshift_local.local_env import LocalServers

    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home)) as servers:
        os.environ.update(servers.env)
        result = _measure(given.plans, given.history)
    return result.tell(given.json)


def _measure(n_plans: int, n_history: int) -> Result:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.plans.making import Planner
    from nightshift.plans.plan import store_plan
    from nightshift.settings import load_settings
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    first = PartitionRange.of(FIRST_DAY).first
    _load_history(settings, first, n_history)
    dice = random.Random(7)  # noqa: S311 - a reproducible choice of plans
    result = Result("plan_costs", f"{n_plans} plans after {n_history} nights")
    errors, row_errors = [], []
    newest = n_history
    for number in range(n_plans):
        with connect(settings, "benchmark") as conn:
            planner = Planner(settings, conn)
            make, added = _choose(dice, planner, first, newest)
            plan = make()
            newest += added
            store_plan(conn, plan, "benchmark")
        n_steps, seconds = _apply(plan)
        error = plan.cost.seconds / seconds - 1
        errors.append(abs(error))
        row_errors.append(_row_error(settings, plan))
        print(
            f"{number + 1:>2} {plan.name:<8} {n_steps} steps, expected"
            f" {plan.cost.seconds:.1f} s ({plan.cost.low:.1f} to {plan.cost.high:.1f}) from"
            f" {plan.cost.source}, took {seconds:.1f} s, {error:+.0%}; load"
            f" {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    n_good = sum(error <= TOLERANCE for error in errors)
    result.figures["median error of the seconds"] = sorted(errors)[len(errors) // 2]
    result.figures["largest error of the rows"] = max(row_errors)
    result.figures["load of the machine at the end"] = os.getloadavg()[0]
    result.limited["plans within 25 %"] = Limited(n_good, "at least", n_plans)
    return result


def _apply(plan: Plan) -> tuple[int, float]:
    """Apply a plan as a user does, in a process of its own; return what the command says."""
    command = [sys.executable, "-m", "nightshift.cli", "apply", plan.token, "--reason", "measured"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = re.search(r"(\d+) step\(s\), .* ([\d.]+) s$", done.stdout.strip())
    if summary is None:
        sys.exit(f"nightshift apply says no seconds: {done.stdout}")
    return int(summary[1]), float(summary[2])


def _load_history(settings: Settings, first: Partition, n_days: int) -> None:
    """Run the nights one by one, by the stages' own functions, without any plan."""
    from examples.flights.upstream import deliver

    from nightshift.cli.data.backfill import ingest_datasets
    from nightshift.cli.services.migrate import set_up
    from nightshift.contracts.model_spec import load_specs
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.contracts.run import RunContext
    from nightshift.monitoring.monitor import monitor
    from nightshift.scoring.pipeline import score
    from nightshift.transformation.build import build

    set_up(settings)
    run = RunContext("benchmark/history", 1, "benchmark")
    for offset in range(n_days):
        partition = PartitionRange.single(first.shift(offset))
        deliver(settings, partition, [])
        ingest_datasets(settings, partition, run)
        build(settings, partition, run)
        for spec in load_specs(settings.models_dir).values():
            score(settings, spec, partition, run)
            monitor(settings, spec, partition, run)


def _choose(
    dice: random.Random, planner: Planner, first: Partition, newest: int
) -> tuple[Callable[[], Plan], int]:
    """Return what makes the next plan, and how many new days it loads."""
    from examples.flights.upstream import deliver

    from nightshift.contracts.partitions import PartitionRange

    length = dice.randint(1, 5)
    if dice.random() < 0.3:
        days = PartitionRange(first.shift(newest), first.shift(newest + length - 1))
        deliver(planner.settings, days, [])
        return lambda: planner.backfill(days), length
    begin = dice.randrange(1, newest - length)
    days = PartitionRange(first.shift(begin), first.shift(begin + length - 1))
    stage = dice.choice(STAGES)
    return lambda: planner.rerun(days, stage, everything=True), 0


def _row_error(settings: Settings, plan: Plan) -> float:
    """Return the relative error of the expected rows."""
    from nightshift.warehouse.connection import connect

    query = """
        select coalesce(sum((detail ->> 'n_rows')::bigint), 0)::bigint from ops.plan_events
        where token = %s and event = 'step'
    """
    with connect(settings, "benchmark") as conn:
        [(n_rows,)] = conn.execute(query, [plan.token]).fetchall()
    return abs(plan.cost.n_rows / max(1, int(n_rows)) - 1)


if __name__ == "__main__":
    sys.exit(main())
