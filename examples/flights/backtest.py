"""``python -m examples.flights backtest``: both models on each month of 2013 from April on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from examples.flights.stopwatch import Stopwatch
from nightshift.cli.arguments import command_run
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import PROJECT_ROOT, load_admin_settings
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    from nightshift.backtest.walk_forward import MonthResult
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings

YEAR = PartitionRange.of("2013-01-01", "2013-12-30")
FIRST_NIGHT = Partition.parse("2013-03-31")
DATABASE = "backtest"
_ABOUT = """\
# Backtest on 2013

Written by `python -m examples.flights backtest --every-days {every_days} --report`: {cores}
cores, Python {python}. Each model is trained {rhythm} on the 120 days before, with labels that
were mature on that night, and scores every flight from the evening before. In brackets: the
spec's rule on the same flights. Cancelled and diverted flights have no label. The specs'
settings were chosen among a few on these same months, so the figures are slightly optimistic.
The replayed schedule makes them optimistic too: its `tail_number` is the aircraft that flew, and
an airline may still change it after the evening before ([ADR 5](adr/0005-raw-versions.md)).
Areas under curves are of the score, which has neither calibration nor the level of a night: within
a night the probability has the same order, over the nights of a month another one.
"""

WANTED = {"binary": ("calibration error", 0.03), "regression": ("bias", 3.0)}
"""Largest error of a month that is wanted, by task: its name, and the limit."""
_ABOUT_NOISE = """\
What no forecast of the evening before can avoid: the rows of a night have its weather in common.
Its effect is estimated from the differences of neighbouring nights, and 2,000 months are
drawn in which a forecast knows everything else. "As large" is the share of them whose {error} is
as large as the measured one: near 0 more was wrong than the weather.
"""

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
    """Measure both models on each month of 2013 from April on, scored from the evening before."""
    if context.invoked_subcommand is None:
        backtest_months(every_days, report=report)


def backtest_months(every_days: int, *, report: bool) -> None:
    """Measure each month, print it, and write the page on request."""
    from nightshift.backtest.walk_forward import labelled_rows
    from nightshift.backtest.walk_forward import walk_forward_backtest as measure
    from nightshift.contracts.model_spec import load_specs

    settings = open_backtest_warehouse()
    run = command_run("backtest")
    watch = Stopwatch()
    load_year(settings, run, watch)
    specs = load_specs(settings.models_dir)
    results = {}
    for spec in specs.values():
        with watch.step(f"backtest of {spec.name}, training {describe_rhythm(every_days)}"):
            rows = labelled_rows(settings, spec, YEAR.last, run)
            results[spec.name] = measure(
                spec, rows, FIRST_NIGHT, YEAR.last, every_days or None, typer.echo
            )
        print_table(*month_table(spec, results[spec.name]))
        if spec.task in WANTED:
            print_table(*noise_table(spec, results[spec.name]))
    watch.print_steps()
    if report:
        write_report(specs, results, watch, every_days)


def describe_rhythm(every_days: int) -> str:
    """Return the rhythm of trainings in words."""
    return f"every {every_days} nights" if every_days else "once before each month"


def open_backtest_warehouse() -> Settings:
    """Start the servers, and return settings of a database and bucket for the backtest alone."""
    import psycopg
    from psycopg import sql

    from nightshift.cli.services.migrate import as_admin, set_up
    from nightshift.warehouse.connection import conninfo
    from nightshift_local.launch import launch
    from nightshift_local.stack import BASE_GROUPS

    launch(BASE_GROUPS, wait_for=BASE_GROUPS, report=typer.echo)
    settings = load_admin_settings()
    admin = as_admin(settings).model_copy(update={"warehouse_database": "postgres"})
    with psycopg.connect(**conninfo(admin, "flights backtest"), autocommit=True) as conn:
        query = "select 1 from pg_database where datname = %s"
        if conn.execute(query, [DATABASE]).fetchone() is None:
            create = sql.SQL("create database {} owner {}")
            owner = sql.Identifier(settings.warehouse_user)
            conn.execute(create.format(sql.Identifier(DATABASE), owner))
    names = {"warehouse_database": DATABASE, "s3_bucket": f"{settings.s3_bucket}-{DATABASE}"}
    own = settings.model_copy(update=names)
    set_up(own)
    return own


def load_year(
    settings: Settings, run: RunContext, watch: Stopwatch, days: PartitionRange = YEAR
) -> None:
    """Deliver, ingest and transform the whole year, or a part of it, in one range each.

    A part gets features from the first day whose look-back is complete.
    """
    from examples.flights.replay import deliver_range
    from nightshift.cli.data.backfill import build_features, ingest_datasets
    from nightshift.ingestion.load import ingest

    # The outcomes of the day after the last one are the labels of its predictions.
    last_outcomes = PartitionRange.single(days.last.shift(1))
    with watch.step(f"upstream delivers {len(days)} days"):
        deliver_range(settings, days)
        deliver_range(settings, last_outcomes, ("flight_outcomes",))
    with watch.step(f"ingest of {len(days)} days in one range"):
        ingest_datasets(settings, days, run)
        ingest(settings, "flight_outcomes", last_outcomes, run)
    partitions = days
    if days.first != YEAR.first:
        partitions = PartitionRange(days.first.shift(lookback_days()), days.last)
    with watch.step(f"features of {len(partitions)} nights in one range"):
        build_features(settings, partitions, run)


def month_table(
    spec: ModelSpec, results: Sequence[MonthResult]
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return headers and one line per month: the model, and the rule in brackets."""
    from nightshift.backtest.walk_forward import shown_metrics

    metrics = shown_metrics(spec)
    lines = []
    for result in results:
        values = [f"{result.model[name]:.3f} ({result.baseline[name]:.3f})" for name in metrics]
        values += [f"{value:.3f}" for value in result.intervals.values()]
        lines.append([f"{result.month:%Y-%m}", f"{result.n_rows:,}", *values])
    # No month has other metrics than the first.
    intervals = results[0].intervals if results else {}
    return ("month", "flights", *metrics, *intervals), lines


def noise_table(
    spec: ModelSpec, results: Sequence[MonthResult]
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return headers and one line per month: its error, and that of a perfect forecast.

    The last line has all months: how many are within the limit, and how many perfect ones are.
    """
    import numpy as np

    error, limit = WANTED[spec.task]
    headers = (
        "month",
        "deviation of a night",
        error,
        "as large",
        "perfect: median",
        "95 %",
        f"within {limit:g}",
    )
    noises = [(result.month, result.noise) for result in results if result.noise is not None]
    lines = []
    for month, noise in noises:
        median, high = np.quantile(noise.errors, [0.5, 0.95])
        values = [f"{noise.deviation:.3g}", f"{noise.measured:.3g}", f"{noise.share_as_large:.2f}"]
        values += [f"{median:.3g}", f"{high:.3g}", f"{noise.share_within(limit):.0%}"]
        lines.append([f"{month:%Y-%m}", *values])
    if noises:
        shares = np.array([noise.share_within(limit) for _, noise in noises])
        n_within = sum(noise.measured <= limit for _, noise in noises)
        mean = f"{shares.sum():.1f} of {shares.size}; all: {shares.prod():.0%}"
        within = f"{n_within} of {shares.size}"
        lines.append(["all", "", within, "", "", "", mean])
    return headers, lines


def markdown_table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; short lines are filled up."""
    rows = [f"| {' | '.join(headers)} |", "|---" * len(headers) + "|"]
    for line in lines:
        missing = [""] * (len(headers) - len(line))
        rows.append(f"| {' | '.join([*line, *missing])} |")
    return rows


def steps_section(watch: Stopwatch) -> list[str]:
    """Return the section of a page that shows how long each step took."""
    steps = [[name, f"{seconds:.1f}"] for name, seconds in watch.steps]
    return ["", "## Time", "", *markdown_table(("step", "seconds"), steps), ""]


def write_report(
    specs: dict[str, ModelSpec],
    results: dict[str, list[MonthResult]],
    watch: Stopwatch,
    every_days: int,
) -> None:
    """Write ``docs/backtest.md`` from what this run measured."""
    about = _ABOUT.format(
        every_days=every_days,
        rhythm=describe_rhythm(every_days),
        cores=os.cpu_count(),
        python=platform.python_version(),
    )
    lines = [about]
    for name, spec in specs.items():
        lines += [f"## {name}", "", *markdown_table(*month_table(spec, results[name])), ""]
        if spec.task in WANTED:
            error, _ = WANTED[spec.task]
            lines += [_ABOUT_NOISE.format(error=error)]
            lines += [*markdown_table(*noise_table(spec, results[name])), ""]
    lines[-1:] = steps_section(watch)
    (PROJECT_ROOT / "docs" / "backtest.md").write_text("\n".join(lines))
