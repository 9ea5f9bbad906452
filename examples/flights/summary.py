"""Print the end of a demo: what each night did, read back from the warehouse, and what to open."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from nightshift.cli.console import print_table
from nightshift.cli.operations.critical_path import find_path, print_path
from nightshift.settings import default_home
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from examples.flights.airflow_run import PartitionTiming
    from examples.flights.stopwatch import Stopwatch
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection
    from nightshift_local.airflow_api import AirflowApi

# The days come first, so that a night without anything published has its line. The record of a
# load is joined and not its rows, so there is no `join_published`.
_NIGHTS = """
with days as (select unnest(%(days)s::date[]) as partition_date),
published as (
    select p.dataset, p.partition_date, l.n_rows
    from ops.published p join ops.loads l using (dataset, partition_date, load_id)
)
select d.partition_date,
    (select sum(p.n_rows) from published p
        where p.dataset like 'raw/%%' and p.partition_date = d.partition_date) as rows_in,
    (select count(*) from quarantine.refused_rows q
        where q.partition_date = d.partition_date) as rows_refused,
    (select p.n_rows from published p
        where p.dataset = %(predictions)s and p.partition_date = d.partition_date) as n_predictions
from days d order by d.partition_date
"""
_SOURCE = """
select string_agg(distinct coalesce('v' || model_version, score_source), ', ')
from analytics.{view} where partition_date = %s
"""
_PERFORMANCE = """
select metric, value, baseline_value, n_labels, low, high from monitoring.performance_published
where model = %s and partition_date = %s and slice_name = 'all' and metric = %s
"""
_VERDICT = """
select n_drifted || '/' || n_features || ' ' || drift_status, performance_status, has_triggered
from monitoring.verdicts_published where model = %s and partition_date = %s
"""
_HEADERS = (
    "night",
    "rows in",
    "refused",
    "predictions",
    "scored by",
    "quality of its predictions",
    "drift",
    "loss",
    "retraining",
)
_NEXT_STEPS = """
Where to look
  SQL       .venv/bin/nightshift psql --role analyst -c "{query}"
  Airflow   {url}   user admin, password: cat '{password}'
  MLflow    .venv/bin/nightshift up --with mlflow
  report    .venv/bin/nightshift report {model}
  all       .venv/bin/nightshift status        stop with: make down"""


def print_summary(
    settings: Settings,
    specs: dict[str, ModelSpec],
    timings: Sequence[PartitionTiming],
    watch: Stopwatch,
    api: AirflowApi,
) -> None:
    """Print one table per model, the timings, and the commands that a person runs next."""
    with connect(settings, "flights demo summary") as conn:
        for spec in specs.values():
            typer.echo(f"\n{spec.name}: {spec.description}")
            print_table(_HEADERS, _night_rows(conn, spec, timings))

    typer.echo("\nTimings")
    watch.print_steps()
    for timing in timings:
        typer.echo(
            f"  {timing.partition_key}: {timing.seconds_to_predictions:.0f} s from the drop to"
            f" published predictions, {timing.n_runs} DAG runs"
        )

    last_night = timings[-1].partition_key
    typer.echo(f"\nWhat the predictions of {last_night} waited for, in seconds")
    print_path(find_path(api, last_night))
    # Its path and not the password: a terminal may be recorded.
    password = default_home() / "secrets" / "airflow-admin"
    model = next(iter(specs))
    query = f"select * from analytics.{model}_current limit 5"  # noqa: S608 - shown, not run
    typer.echo(_NEXT_STEPS.format(model=model, query=query, url=api.url, password=password))


def _night_rows(
    conn: Connection, spec: ModelSpec, timings: Sequence[PartitionTiming]
) -> list[tuple[str, ...]]:
    """Return a model's table, one row a night.

    Raises:
        psycopg.Error: The warehouse cannot be read.
    """
    parameters = {
        "days": [timing.partition_key for timing in timings],
        "predictions": spec.predictions_dataset,
    }
    rows = []
    for day, rows_in, rows_refused, n_predictions in conn.execute(_NIGHTS, parameters):
        counts = (f"{rows_in or 0:,}", f"{rows_refused:,}", f"{n_predictions or 0:,}")
        rows.append((str(day), *counts, *_quality(conn, spec, day)))
    return rows


def _quality(conn: Connection, spec: ModelSpec, day: dt.date) -> tuple[str, ...]:
    """Return who scored a partition, its metric, its drift, its loss, and whether it retrains."""
    from psycopg import sql

    # From the view that analysts read: what it shows is what a person would see.
    view = sql.Identifier(f"{spec.name}_current")
    source = conn.execute(sql.SQL(_SOURCE).format(view=view), [day]).fetchone()
    metric = spec.promotion.metric
    performance = conn.execute(_PERFORMANCE, [spec.name, day, metric]).fetchone()
    verdict = conn.execute(_VERDICT, [spec.name, day]).fetchone()

    quality = "labels not mature yet"
    if performance is not None:
        name, value, of_rule, n_labels, low, high = performance
        # One night has few rows: without its interval a model and the rule seem further apart.
        interval = "" if low is None else f" ({low:.3f} to {high:.3f})"
        quality = f"{name} {value:.3f}{interval}, rule {of_rule:.3f}, {n_labels} flights"
    drift, loss, has_triggered = verdict or ("-", "-", False)
    scored_by = (source and source[0]) or "-"
    return (scored_by, quality, drift, loss, "triggered" if has_triggered else "-")
