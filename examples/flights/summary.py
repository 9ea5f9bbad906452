"""The end of a demo: what each night did, read back from the warehouse, and where to look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nightshift.cli.console import print_table, say
from nightshift.settings import default_home
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from examples.flights.airflow_night import Night
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

_NIGHTS = """
with days as (select unnest(%(days)s::date[]) as partition_date)
select d.partition_date,
    (select sum(l.n_rows) from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset like 'raw/%%' and p.partition_date = d.partition_date) as rows_in,
    (select count(*) from quarantine.refused_rows q where q.partition_date = d.partition_date) as rows_refused,
    (select l.n_rows from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        where p.dataset = %(predictions)s and p.partition_date = d.partition_date) as n_predictions
from days d order by d.partition_date
"""
_SOURCE = """
select string_agg(distinct coalesce('v' || model_version, score_source), ', ') from analytics.{view} where partition_date = %s
"""
_PERFORMANCE = """
select metric, value, baseline_value, n_labels from monitoring.performance_published
where model = %s and partition_date = %s and slice_name = 'all' and metric = %s
"""
_VERDICT = """
select n_drifted || '/' || n_features || ' ' || drift_status, performance_status, has_triggered
from monitoring.verdicts_published where model = %s and partition_date = %s
"""


def print_summary(
    settings: Settings,
    specs: dict[str, ModelSpec],
    nights: Sequence[Night],
    steps: Iterable[tuple[str, float]],
    url: str,
) -> None:
    """Print one table per model, the timings, and the places where a person looks next."""
    with connect(settings, "flights demo summary") as conn:
        for spec in specs.values():
            say(f"\n{spec.name}: {spec.description}")
            print_table(_HEADERS, [_row(conn, spec, night) for night in _rows(conn, spec, nights)])
    _print_timings(nights, steps)
    _print_path(nights[-1].partition_key)
    _print_places(url, next(iter(specs)))


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


def _rows(conn: Connection, spec: ModelSpec, nights: Sequence[Night]) -> list[tuple[Any, ...]]:
    parameters = {
        "days": [night.partition_key for night in nights],
        "predictions": spec.predictions_dataset,
    }
    return conn.execute(_NIGHTS, parameters).fetchall()


def _row(conn: Connection, spec: ModelSpec, night: tuple[Any, ...]) -> tuple[str, ...]:
    from psycopg import sql

    day, rows_in, rows_refused, n_predictions = night
    view = sql.SQL(_SOURCE).format(view=sql.Identifier(f"{spec.name}_current"))
    source = (conn.execute(view, [day]).fetchone() or ("-",))[0]
    quality = conn.execute(_PERFORMANCE, [spec.name, day, spec.promotion.metric]).fetchone()
    verdict = conn.execute(_VERDICT, [spec.name, day]).fetchone()
    shown = (
        "labels not mature yet"
        if quality is None
        else "{} {:.3f}, rule {:.3f} ({} flights)".format(*quality)
    )
    drift, loss, has_triggered = verdict or ("-", "-", False)
    retraining = "triggered" if has_triggered else "-"
    return (
        str(day),
        f"{rows_in or 0:,}",
        f"{rows_refused:,}",
        f"{n_predictions or 0:,}",
        source or "-",
        shown,
        drift,
        loss,
        retraining,
    )


def _print_timings(nights: Sequence[Night], steps: Iterable[tuple[str, float]]) -> None:
    say("\nTimings")
    rows = list(steps)
    print_table(
        ("seconds", "step"),
        [(f"{s:7.1f}", name) for name, s in [*rows, ("all", sum(s for _, s in rows))]],
    )
    for night in nights:
        say(
            f"  {night.partition_key}: {night.seconds_to_predictions:.0f} s from the drop to published predictions, {night.n_runs} DAG runs"
        )


def _print_path(night: str) -> None:
    from nightshift.cli.critical_path import find_path, print_path
    from nightshift_local.airflow_api import AirflowApi

    say(f"\nWhat the predictions of {night} waited for, in seconds")
    print_path(find_path(AirflowApi.local(default_home()), night))


def _print_places(url: str, model: str) -> None:
    password = default_home() / "secrets" / "airflow-admin"
    query = f"select * from analytics.{model}_current limit 5"  # noqa: S608 - shown, not run
    say("\nWhere to look")
    say(f'  SQL       .venv/bin/nightshift psql --role analyst -c "{query}"')
    say(f"  Airflow   {url}   user admin, password: cat '{password}'")
    say("  MLflow    .venv/bin/nightshift up --with mlflow")
    say(f"  report    .venv/bin/nightshift report {model}")
    say("  all       .venv/bin/nightshift status        stop with: make down")
