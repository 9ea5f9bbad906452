"""The policy backtest of one model: train every night once, live through the year under each policy, and compare ages."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.backtest.model_age import AgeComparison, compare_ages
from nightshift.backtest.monitor_replay import MonitorReplay
from nightshift.backtest.nightly_models import NightlyModels, SharedModels, worker_processes
from nightshift.backtest.policies import POLICIES, Policy, PolicyRun, Schedule, run_policy
from nightshift.backtest.policy_results import PolicyResult, PolicyScoring, estimated_metrics
from nightshift.backtest.progress_log import ProgressLog, RemainingWork
from nightshift.backtest.promotion_replay import passes_gate
from nightshift.backtest.walk_forward import shown_metrics
from nightshift.contracts.run import code_version
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.settings import Settings

_GUESSED_SECONDS = {
    "training": 1.6,
    "monitored night": 0.4,
    "gate": 0.3,
    "policy": 8.0,
    "ages": 15.0,
}
"""Of one unit on two quiet cores, for the time left before a unit is done. Source:
docs/policy-backtest.md.
"""

_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class PolicyBacktest:
    """What the nights say about one model.

    Attributes:
        spec: The model.
        nights: Scored nights.
        n_rows: Their labelled rows.
        results: By policy, ``never`` first.
        staleness: Metrics by age of the model; None where there are too few nights.
        n_kept: Trainings that an earlier run had left.
        mean_training_seconds: Processor seconds of one training.
    """

    spec: ModelSpec
    nights: PartitionRange
    n_rows: int
    results: list[PolicyResult]
    staleness: AgeComparison | None
    n_kept: int
    mean_training_seconds: float


def training_nights(nights: PartitionRange) -> list[dt.date]:
    """Return the nights that train: the evening before the first, and every night."""
    return [nights.first.shift(-1).day, *nights.days]


def plan_work(fleets: Sequence[NightlyModels], nights: PartitionRange) -> dict[str, RemainingWork]:
    """Return the work that lies ahead, by kind; a triggered policy's gate is asked too seldom to count."""
    n_models, n = len(fleets), len(nights)
    units = {
        "training": sum(len(fleet.missing(training_nights(nights))) for fleet in fleets),
        "monitored night": n_models
        * n
        * sum(policy.rhythm is Schedule.TRIGGERED for policy in POLICIES),
        "gate": n_models
        * sum(
            {Schedule.NIGHTLY: n, Schedule.WEEKLY: n // 7}.get(p.rhythm, 0)
            for p in POLICIES
            if p.is_gated
        ),
        "policy": n_models * len(POLICIES),
        "ages": n_models,
    }
    return {kind: RemainingWork(n_units, _GUESSED_SECONDS[kind]) for kind, n_units in units.items()}


def models_folder(home: Path, spec: ModelSpec, rows_sha256: str) -> Path:
    """Return where a spec's models are kept: another spec, other rows or other code never meet them."""
    identity = sha256(f"{spec.digest} {rows_sha256} {code_version()}".encode()).hexdigest()
    return home / "policy_backtest" / f"{spec.name}-{identity[:16]}"


def train_models(fleet: NightlyModels, nights: PartitionRange, progress: ProgressLog) -> int:
    """Train the model of every night that an earlier run has not kept, on all processors; return how many were kept."""
    trained = training_nights(nights)
    n_missing = len(fleet.missing(trained))
    for night, _ in fleet.train(trained, len(os.sched_getaffinity(0))):
        progress.done("training", f"{fleet.spec.name} learns what was known on {night}")
    return len(trained) - n_missing


def compare_policies(
    settings: Settings,
    fleet: NightlyModels,
    nights: PartitionRange,
    progress: ProgressLog,
    tell: Callable[[PolicyResult], None],
    n_kept: int = 0,
) -> PolicyBacktest:
    """Compare all policies on the nights, whose models are trained.

    Args:
        settings: The backtest's own warehouse, with the features of the nights and of the first
            window.
        fleet: Where the models are.
        nights: Scored nights.
        progress: What was ``planned``.
        tell: Called with each policy's result.
        n_kept: Models that an earlier run had kept.

    Raises:
        FeaturesNotPublishedError: The features of a night are not published.
        WarehouseError: The warehouse cannot be reached.
    """
    name = fleet.spec.name
    staleness = compare_ages(
        fleet, nights, shown_metrics(fleet.spec), estimated_metrics(fleet.spec)
    )
    progress.done("ages", f"{name} was measured at every age")
    scoreboard, results = PolicyScoring(fleet, nights, shown_metrics(fleet.spec)), []
    for course in _courses(settings, fleet, nights, progress):
        results.append(scoreboard.result(course))
        progress.done("policy", f"{name} under {course.policy} was measured")
        tell(results[-1])
    seconds = [fleet.of(night).processor_seconds for night in training_nights(nights)]
    return PolicyBacktest(
        fleet.spec,
        nights,
        scoreboard.n_rows,
        results,
        staleness,
        n_kept,
        sum(seconds) / len(seconds),
    )


def _courses(
    settings: Settings, fleet: NightlyModels, nights: PartitionRange, progress: ProgressLog
) -> list[PolicyRun]:
    """Live through the nights under every policy, in as many processes as there are processors; policies know nothing of each other."""
    import multiprocessing

    by_work = sorted(
        POLICIES,
        key=lambda policy: (policy.is_gated, list(Schedule).index(policy.rhythm)),
        reverse=True,
    )
    with (
        fleet.shared() as shared,
        multiprocessing.get_context("spawn").Manager() as manager,
        worker_processes(len(os.sched_getaffinity(0))) as pool,
    ):
        told = manager.Queue()
        jobs = {
            policy: pool.submit(_live, settings, shared, nights, policy, told.put)
            for policy in by_work
        }
        left = set(jobs.values())
        while left:
            done, left = wait(left, _LOOK_SECONDS, FIRST_EXCEPTION)
            while not told.empty():
                progress.done(*told.get())
            for job in done:
                job.result()
        return [jobs[policy].result() for policy in POLICIES]


def _live(
    settings: Settings,
    shared: SharedModels,
    nights: PartitionRange,
    policy: Policy,
    tell: Callable[[tuple[str, str]], None],
) -> PolicyRun:
    fleet = shared.open()
    name = fleet.spec.name
    with connect(settings, f"nightshift backtest {name}"[:63]) as conn:
        watch = MonitorReplay(settings, conn, fleet)

        def trigger(night: dt.date, course: PolicyRun) -> bool:
            has_triggered = watch.has_triggered(night, course)
            tell(("monitored night", f"{name} under {policy} is watched on {night}"))
            return has_triggered

        def gate(challenger: dt.date, champion: dt.date) -> bool:
            has_passed = passes_gate(settings, fleet, challenger, champion)
            tell(("gate", f"{name} under {policy} judges the model of {challenger}"))
            return has_passed

        return run_policy(policy, nights, fleet.spec.training.weekday, trigger, gate)
