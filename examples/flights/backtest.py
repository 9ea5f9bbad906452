"""``python -m examples.flights backtest``: every month of 2013 from April on, in a warehouse of its own; ``backtest policy`` compares ways to retrain."""

from __future__ import annotations

import getpass
import os
import platform
import time
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import PROJECT_ROOT, load_admin_settings
from nightshift.warehouse.ledger import LOOKBACK_DAYS

if TYPE_CHECKING:
    from nightshift.backtest.walk_forward import MonthResult
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings

YEAR = PartitionRange.of("2013-01-01", "2013-12-30")
FIRST_NIGHT = Partition.parse("2013-03-31")
DATABASE = "backtest"

app = typer.Typer(invoke_without_command=True)


@app.callback()
def backtest(
    context: typer.Context,
    every_days: Annotated[
        int,
        typer.Option(min=0, help="Nights between two trainings; 0 trains once before each month."),
    ] = 0,
    report: Annotated[bool, typer.Option("--report", help="Write docs/backtest.md.")] = False,
) -> None:
    """Measure both models on each month of 2013 from April on, always scored from the evening before."""
    if context.invoked_subcommand is None:
        backtest_months(every_days, report=report)


def backtest_months(every_days: int, *, report: bool) -> None:
    """Measure each month, print it, and write the page where asked."""
    from nightshift.backtest.walk_forward import labelled_rows
    from nightshift.backtest.walk_forward import walk_forward_backtest as measure
    from nightshift.cli import services
    from nightshift.contracts.model_spec import load_specs

    services.launch(services.BASE_GROUPS, wait_for=services.BASE_GROUPS)
    settings = own_warehouse(load_admin_settings())
    run = RunContext("backtest", actor=f"cli:{getpass.getuser()}")
    timings = load_year(settings, run)
    results = {}
    for spec in load_specs(settings.models_dir).values():
        started = time.monotonic()
        say(f"{spec.name}: training {rhythm(every_days)}")
        rows = labelled_rows(settings, spec, YEAR.last, run)
        results[spec.name] = measure(
            spec, rows, FIRST_NIGHT, YEAR.last, every_days or None, lambda line: say(f"  {line}")
        )
        timings[f"backtest of {spec.name}"] = time.monotonic() - started
        print_months(spec, results[spec.name])
    print_table(
        ("seconds", "step"), [(f"{seconds:7.1f}", step) for step, seconds in timings.items()]
    )
    if report:
        write_report(load_specs(settings.models_dir), results, timings, every_days)


def rhythm(every_days: int) -> str:
    """Return the rhythm of trainings in words."""
    return f"every {every_days} nights" if every_days else "once before each month"


def own_warehouse(settings: Settings) -> Settings:
    """Return settings of a database and bucket of the backtest's own on the same servers, created and migrated."""
    import psycopg

    from nightshift.cli.setup import set_up
    from nightshift.warehouse.connection import conninfo

    admin = settings.model_copy(
        update={
            "warehouse_database": "postgres",
            "warehouse_user": settings.warehouse_admin_user or settings.warehouse_user,
            "warehouse_password": settings.warehouse_admin_password
            if settings.warehouse_admin_user
            else settings.warehouse_password,
        }
    )
    with psycopg.connect(**conninfo(admin, "flights backtest"), autocommit=True) as conn:
        if (
            conn.execute("select from pg_database where datname = %s", [DATABASE]).fetchone()
            is None
        ):
            conn.execute(f"create database {DATABASE} owner {settings.warehouse_user}".encode())
    own = settings.model_copy(
        update={"warehouse_database": DATABASE, "s3_bucket": f"{settings.s3_bucket}-{DATABASE}"}
    )
    set_up(own)
    return own


def load_year(settings: Settings, run: RunContext, days: PartitionRange = YEAR) -> dict[str, float]:
    """Deliver, ingest and transform the whole year, or a part of it, in one range; return the seconds of each step.

    The outcomes of the day after the last one are delivered too: they are the labels of its
    predictions. A part gets features from the night on whose look-back is whole.
    """
    from examples.flights.replay import deliver_range
    from nightshift.cli.history import ingest_range, transform_range
    from nightshift.ingestion.load import ingest

    timings: dict[str, float] = {}

    def timed(step: str, started: float) -> None:
        timings[step] = time.monotonic() - started
        say(f"  {step}: {timings[step]:.1f} s")

    last_outcomes = PartitionRange.single(days.last.shift(1))
    started = time.monotonic()
    deliver_range(settings, days)
    deliver_range(settings, last_outcomes, ("flight_outcomes",))
    timed(f"upstream delivers {len(days)} days", started)
    started = time.monotonic()
    ingest_range(settings, days, run)
    ingest(settings, "flight_outcomes", last_outcomes, run)
    timed(f"ingest of {len(days)} days in one range", started)
    started = time.monotonic()
    nights = (
        days
        if days.first == YEAR.first
        else PartitionRange(days.first.shift(LOOKBACK_DAYS), days.last)
    )
    transform_range(settings, nights, run)
    timed(f"features of {len(nights)} nights in one range", started)
    return timings


def print_months(spec: ModelSpec, results: list[MonthResult]) -> None:
    """Print one line per month: the model, and the rule in brackets."""
    from nightshift.backtest.walk_forward import shown_metrics

    metrics = shown_metrics(spec)
    print_table(("month", "flights", *metrics), [_cells(result, metrics) for result in results])


def _cells(result: MonthResult, metrics: tuple[str, ...]) -> list[str]:
    values = [f"{result.model[name]:.3f} ({result.baseline[name]:.3f})" for name in metrics]
    return [f"{result.month:%Y-%m}", f"{result.n_rows:,}", *values]


def write_report(
    specs: dict[str, ModelSpec],
    results: dict[str, list[MonthResult]],
    timings: dict[str, float],
    every_days: int,
) -> None:
    """Write ``docs/backtest.md`` from what this run measured."""
    from nightshift.backtest.walk_forward import shown_metrics

    lines = [
        "# Backtest on 2013",
        "",
        f"Written by `python -m examples.flights backtest --every-days {every_days} --report`: {os.cpu_count()} cores, Python {platform.python_version()}.",
        f"Each model is trained {rhythm(every_days)} on the 120 days before, with labels that were mature on that night, and scores",
        "every flight from the evening before. In brackets: the spec's rule on the same flights.",
        "Cancelled and diverted flights have no label. The specs' settings were chosen among a few on these same months, so the",
        "figures are slightly optimistic.",
    ]
    for name, spec in specs.items():
        metrics = shown_metrics(spec)
        lines += [
            "",
            f"## {name}",
            "",
            f"| month | flights | {' | '.join(metrics)} |",
            "|---" * (len(metrics) + 2) + "|",
        ]
        lines += [f"| {' | '.join(_cells(result, metrics))} |" for result in results[name]]
    lines += ["", "## Time", "", "| step | seconds |", "|---|---|"]
    lines += [f"| {step} | {seconds:.1f} |" for step, seconds in timings.items()] + [""]
    (PROJECT_ROOT / "docs" / "backtest.md").write_text("\n".join(lines))
