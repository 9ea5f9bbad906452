"""``python -m examples.flights backtest policy``: ways to retrain over the same nights."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from examples.flights.backtest import FIRST_NIGHT, YEAR, load_year, open_backtest_warehouse
from examples.flights.policy_report import headers, policy_cells, staleness_rows, write_report
from examples.flights.stopwatch import Stopwatch
from nightshift.cli.arguments import command_run
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.backtest.policy_backtest import PolicyBacktest
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings


def policy(
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Name of a model; all by default.")
    ] = None,
    first: Annotated[
        str, typer.Option("--from", help="First night that is scored, YYYY-MM-DD.")
    ] = FIRST_NIGHT.key,
    last: Annotated[str, typer.Option("--to", help="Last night that is scored.")] = YEAR.last.key,
    report: Annotated[
        bool, typer.Option("--report", help="Write docs/policy-backtest.md and its figures.")
    ] = False,
) -> None:
    """Compare when to retrain: quality, trainings and cost of each policy, and the cost of age.

    A killed run continues where it ended: every finished training is kept.
    """
    from nightshift.contracts.model_spec import load_spec, load_specs

    partitions = PartitionRange.of(first, last)
    settings = open_backtest_warehouse()
    specs = list(load_specs(settings.models_dir).values())
    if model:
        specs = [load_spec(settings.models_dir, name) for name in model]
    run = command_run("backtest policy")
    watch = Stopwatch()
    load_year(settings, run, watch, needed_days(specs, partitions))
    fleets = [open_fleet(settings, spec, partitions, run) for spec in specs]
    backtests = compare_fleets(settings, fleets, partitions, watch)
    for result in backtests:
        print_backtest(result)
    watch.print_steps()
    if report:
        command = " ".join(["python -m examples.flights", *sys.argv[1:]])
        typer.echo(f"written: {write_report(backtests, watch, command)}")


def compare_fleets(
    settings: Settings,
    fleets: Sequence[NightlyModels],
    partitions: PartitionRange,
    watch: Stopwatch,
) -> list[PolicyBacktest]:
    """Train the models of each fleet, and compare its policies while the next fleet trains."""
    from nightshift.backtest.policy_backtest import compare_policies, plan_work, train_models
    from nightshift.backtest.progress_log import ProgressLog

    progress = ProgressLog(plan_work(fleets, partitions), lambda line: typer.echo(f"  {line}"))

    def compare(fleet: NightlyModels) -> PolicyBacktest:
        with watch.step(f"{fleet.spec.name}: policies and ages"):
            return compare_policies(
                settings,
                fleet,
                partitions,
                progress,
                lambda result: typer.echo(f"    {', '.join(policy_cells(result))}"),
            )

    jobs = []
    with ThreadPoolExecutor(len(fleets)) as pool:
        for fleet in fleets:
            with watch.step(
                f"{fleet.spec.name}: trainings for {len(partitions)} nights, {partitions}"
            ):
                n_kept = train_models(fleet, partitions, progress)
                typer.echo(f"      {n_kept} trainings kept from an earlier run")
            jobs.append(pool.submit(compare, fleet))
    return [job.result() for job in jobs]


def needed_days(specs: Sequence[ModelSpec], partitions: PartitionRange) -> PartitionRange:
    """Return the days that the nights need: the first model's window and its look-back."""
    windows = [spec.training.window_days + spec.label.maturity_days for spec in specs]
    n_days = max(windows) + 2 + lookback_days()
    # Upstream has no flights of an earlier year.
    first = max(YEAR.first, partitions.first.shift(-n_days))
    return PartitionRange(first, partitions.last)


def open_fleet(
    settings: Settings, spec: ModelSpec, partitions: PartitionRange, run: RunContext
) -> NightlyModels:
    """Return the labelled rows of a spec and the folder of its nightly models.

    An earlier run of the same rows, spec and code has left its models in that folder.
    """
    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.backtest.policy_backtest import models_folder
    from nightshift.backtest.walk_forward import labelled_set
    from nightshift.lake.object_store import ObjectStore
    from nightshift.training.training_set import read_rows

    training_set = labelled_set(settings, spec, partitions.last, run)
    rows = read_rows(ObjectStore.open(settings), training_set)
    return NightlyModels(spec, rows, models_folder(settings.home, spec, training_set.sha256))


def print_backtest(backtest: PolicyBacktest) -> None:
    """Print one line per policy and one per age."""
    print_table(headers(backtest), [policy_cells(result) for result in backtest.results])
    typer.echo("")
    print_table(*staleness_rows(backtest))
    typer.echo("")
