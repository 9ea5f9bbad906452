"""``python -m examples.flights backtest policy``: nightly, weekly, drift-triggered and never, over the same nights of 2013, without Airflow."""

from __future__ import annotations

import getpass
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from examples.flights.backtest import FIRST_NIGHT, YEAR, load_year, own_warehouse
from examples.flights.policy_report import headers, policy_cells, staleness_rows, write_report
from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings
from nightshift.warehouse.ledger import LOOKBACK_DAYS

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
    """Compare when to retrain: quality, trainings and cost of each policy, and what a model loses with age.

    A killed run goes on where it was: every finished training is kept.
    """
    from nightshift.backtest.policy_backtest import compare_policies, plan_work, train_models
    from nightshift.backtest.progress_log import ProgressLog
    from nightshift.cli import services
    from nightshift.contracts.model_spec import load_spec, load_specs

    began = time.monotonic()
    nights = PartitionRange.of(first, last)
    services.launch(services.BASE_GROUPS, wait_for=services.BASE_GROUPS)
    settings = load_settings()
    specs = (
        [load_spec(settings.models_dir, name) for name in model]
        if model
        else list(load_specs(settings.models_dir).values())
    )
    settings = own_warehouse(settings)
    run = RunContext("backtest policy", actor=f"cli:{getpass.getuser()}")
    timings = load_year(settings, run, needed_days(specs, nights))
    all_models = [open_models(settings, spec, nights, run) for spec in specs]
    progress = ProgressLog(plan_work(all_models, nights), lambda line: say(f"  {line}"))

    def compare(models: NightlyModels) -> PolicyBacktest:
        started = time.monotonic()
        try:
            return compare_policies(
                settings,
                models,
                nights,
                progress,
                lambda result: say(f"    {', '.join(policy_cells(result))}"),
            )
        finally:
            timings[f"{models.spec.name}: policies and ages, beside the next model's trainings"] = (
                time.monotonic() - started
            )

    with ThreadPoolExecutor(len(all_models)) as pool:
        jobs = []
        for models in all_models:
            say(f"{models.spec.name}: {len(nights)} nights, {nights}")
            started = time.monotonic()
            n_kept = train_models(models, nights, progress)
            timings[f"{models.spec.name}: trainings, {n_kept} kept from an earlier run"] = (
                time.monotonic() - started
            )
            jobs.append(pool.submit(compare, models))
        found = [job.result() for job in jobs]
    for one in found:
        print_backtest(one)
    timings["all"] = time.monotonic() - began
    print_table(
        ("seconds", "step"), [(f"{seconds:7.1f}", step) for step, seconds in timings.items()]
    )
    if report:
        say(f"written: {write_report(found, timings, ' '.join(['nightshift', *sys.argv[1:]]))}")


def needed_days(specs: list[ModelSpec], nights: PartitionRange) -> PartitionRange:
    """Return the days whose data the nights need: the window of the first model, and what its features look back on."""
    reach = (
        max(spec.training.window_days + spec.label.maturity_days for spec in specs)
        + 2
        + LOOKBACK_DAYS
    )
    return PartitionRange(max(YEAR.first, nights.first.shift(-reach)), nights.last)


def open_models(
    settings: Settings, spec: ModelSpec, nights: PartitionRange, run: RunContext
) -> NightlyModels:
    """Read the labelled rows of a spec; its models stand where an earlier run of the same rows, spec and code left them."""
    from nightshift.backtest.nightly_models import NightlyModels
    from nightshift.backtest.policy_backtest import models_folder
    from nightshift.backtest.walk_forward import labelled_set
    from nightshift.lake.object_store import ObjectStore
    from nightshift.training.training_set import read_rows

    rows = labelled_set(settings, spec, nights.last, run)
    return NightlyModels(
        spec,
        read_rows(ObjectStore.open(settings), rows),
        models_folder(settings.home, spec, rows.sha256),
    )


def print_backtest(found: PolicyBacktest) -> None:
    """Print one line per policy and one per age."""
    print_table(headers(found), [policy_cells(result) for result in found.results])
    say("")
    print_table(*staleness_rows(found))
    say("")
