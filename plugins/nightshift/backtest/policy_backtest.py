"""Backtest retraining policies: train the model of every day once, then simulate each policy."""

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
from nightshift.backtest.nightly_models import NightlyModels, SharedModels, refuse_other_tasks
from nightshift.backtest.policies import POLICIES, Policy, PolicyRun, Schedule, run_policy
from nightshift.backtest.policy_results import PolicyResult, PolicyScoring, estimated_metrics
from nightshift.backtest.progress_log import ProgressLog, RemainingWork
from nightshift.backtest.promotion_replay import PromotionReplay
from nightshift.backtest.walk_forward import shown_metrics
from nightshift.backtest.worker_processes import worker_processes
from nightshift.contracts.run import code_version
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.settings import Settings

_UNIT_SECONDS = {
    "training": 6.0,
    "monitoring": 0.4,
    "gate": 0.3,
    "policy": 8.0,
    "ages": 15.0,
}
"""Expected seconds of a unit on two quiet cores. Source: docs/policy-backtest.md."""
_POLL_SECONDS = 0.5
_LONGEST_APPLICATION_NAME = 63
"""Source: PostgreSQL's ``application_name``."""


@dataclass(frozen=True)
class PolicyBacktest:
    """Results of all policies for one model.

    Attributes:
        spec: The model.
        partitions: The scored ones.
        n_rows: Their labelled rows.
        results: By policy, ``never`` first.
        age_comparison: Metrics by age of the model; None where there are too few partitions.
        mean_training_seconds: Processor seconds of one training.
    """

    spec: ModelSpec
    partitions: PartitionRange
    n_rows: int
    results: list[PolicyResult]
    age_comparison: AgeComparison | None
    mean_training_seconds: float


def training_days(partitions: PartitionRange) -> list[dt.date]:
    """Return the days that train: the one before the first partition, and every partition."""
    return [partitions.first.shift(-1).day, *partitions.days]


def plan_work(
    models_by_spec: Sequence[NightlyModels], partitions: PartitionRange
) -> dict[str, RemainingWork]:
    """Return the work of a backtest by type, without the rare gates of triggered policies.

    Raises:
        SpecError: A model predicts classes, or is a ranking.
    """
    for models in models_by_spec:
        refuse_other_tasks(models.spec)
    days = training_days(partitions)
    n = len(partitions)
    # Streams are looked at every night on which a newer model than the champion exists.
    n_gates = {Schedule.NIGHTLY: n, Schedule.WEEKLY: n}
    gated = [policy.schedule for policy in POLICIES if policy.is_gated]
    n_triggered = sum(policy.schedule is Schedule.TRIGGERED for policy in POLICIES)
    units_per_model = {
        "monitoring": n * n_triggered,
        "gate": sum(n_gates.get(schedule, 0) for schedule in gated),
        "policy": len(POLICIES),
        "ages": 1,
    }
    n_units = {name: len(models_by_spec) * units for name, units in units_per_model.items()}
    n_units["training"] = sum(len(models.missing(days)) for models in models_by_spec)
    return {name: RemainingWork(n_units[name], guess) for name, guess in _UNIT_SECONDS.items()}


def models_folder(home: Path, spec: ModelSpec, rows_sha256: str) -> Path:
    """Return the folder of a spec's models; another spec, other rows or code have another one."""
    identity = sha256(f"{spec.digest} {rows_sha256} {code_version()}".encode()).hexdigest()
    return home / "policy_backtest" / f"{spec.name}-{identity[:16]}"


def train_models(models: NightlyModels, partitions: PartitionRange, progress: ProgressLog) -> int:
    """Train the missing models on all processors; return how many an earlier run had trained."""
    days = training_days(partitions)
    n_missing = len(models.missing(days))
    for day in models.train(days, _n_processors()):
        progress.done("training", f"{models.spec.name} was trained as of {day}")
    return len(days) - n_missing


def compare_policies(
    settings: Settings,
    models: NightlyModels,
    partitions: PartitionRange,
    progress: ProgressLog,
    report: Callable[[PolicyResult], None],
) -> PolicyBacktest:
    """Compare all policies on partitions whose models are trained.

    Args:
        settings: The backtest's own warehouse, with the features of the partitions and of the first
            window.
        models: The models.
        partitions: The scored ones.
        progress: With the work of ``plan_work``.
        report: Called with each policy's result.

    Raises:
        FeaturesNotPublishedError: The features of a partition are not published.
        WarehouseError: The warehouse cannot be reached.
    """
    spec = models.spec
    metrics = shown_metrics(spec)
    age_comparison = compare_ages(models, partitions, metrics, estimated_metrics(spec))
    progress.done("ages", f"{spec.name} was measured at every age")
    scoring = PolicyScoring(models, partitions, metrics)
    results = []
    for run in _run_policies(settings, models, partitions, progress):
        result = scoring.result(run)
        results.append(result)
        progress.done("policy", f"{spec.name} under {run.policy} was measured")
        report(result)
    days = training_days(partitions)
    seconds = sum(models.of(day).processor_seconds for day in days)
    return PolicyBacktest(
        spec=spec,
        partitions=partitions,
        n_rows=len(scoring.comparison.label),
        results=results,
        age_comparison=age_comparison,
        mean_training_seconds=seconds / len(days),
    )


def _run_policies(
    settings: Settings, models: NightlyModels, partitions: PartitionRange, progress: ProgressLog
) -> list[PolicyRun]:
    """Simulate every policy in parallel processes; policies do not depend on each other."""
    import multiprocessing

    # The longest first, so that no processor waits for it at the end.
    schedules = list(Schedule)
    longest_first = sorted(
        POLICIES,
        key=lambda policy: (policy.is_gated, schedules.index(policy.schedule)),
        reverse=True,
    )
    with (
        models.shared() as shared,
        multiprocessing.get_context("spawn").Manager() as manager,
        worker_processes(_n_processors()) as pool,
    ):
        events = manager.Queue()
        jobs = {
            policy: pool.submit(run_in_process, settings, shared, partitions, policy, events.put)
            for policy in longest_first
        }
        running = set(jobs.values())
        while running:
            # Short waits, so that the log follows the workers' events.
            finished, running = wait(running, _POLL_SECONDS, FIRST_EXCEPTION)
            while not events.empty():
                progress.done(*events.get())
            for job in finished:
                job.result()  # raises the job's error
        return [jobs[policy].result() for policy in POLICIES]


def run_in_process(
    settings: Settings,
    shared: SharedModels,
    partitions: PartitionRange,
    policy: Policy,
    notify: Callable[[tuple[str, str]], None],
) -> PolicyRun:
    """Run one policy over its nights, alone."""
    models = shared.open()
    name = models.spec.name
    application = f"nightshift backtest {name}"[:_LONGEST_APPLICATION_NAME]
    with connect(settings, application) as conn:
        monitor = MonitorReplay(settings, conn, models)
        promotion = PromotionReplay(settings, models, partitions.first.day)

        def trigger(day: dt.date, run: PolicyRun) -> bool:
            has_triggered = monitor.has_triggered(day, run)
            notify(("monitoring", f"{name} under {policy} was monitored on {day}"))
            return has_triggered

        def gate(day: dt.date, challenger: dt.date, run: PolicyRun) -> str:
            verdict = promotion.verdict(day, challenger, run)
            notify(("gate", f"{name} under {policy} was gated on {day}"))
            return verdict

        return run_policy(policy, partitions, models.spec.training.weekday, trigger, gate)


def _n_processors() -> int:
    return len(os.sched_getaffinity(0))
