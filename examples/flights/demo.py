"""``python -m examples.flights demo``: a history in one range, then nights through Airflow."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from examples.flights.airflow_run import run_partition
from examples.flights.replay import REFERENCE_DATASETS, deliver_range
from examples.flights.stopwatch import Stopwatch
from nightshift.cli.arguments import command_run
from nightshift.cli.data.backfill import build_features, ingest_datasets
from nightshift.cli.models.train import train_and_decide
from nightshift.cli.services.migrate import set_up
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import ServiceError
from nightshift.settings import default_home, load_admin_settings
from nightshift.warehouse.ledger import lookback_days

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift_local.airflow_api import AirflowApi

REFERENCE_DAY = PartitionRange.of("2013-01-01")
"""Upstream delivers airports, aircraft and carriers once."""
HISTORY_DAYS = 66
"""Partitions of features before the first night in Airflow."""
FIRST_NIGHT = "2013-09-05"
N_NIGHTS = 3
"""The end of the summer season: real drift on the second night. Source: docs/adr/0010-demo.md."""
AIRFLOW_TIMEOUT_SECONDS = 300


def demo(
    first_night: Annotated[
        str,
        typer.Option(help="First night that runs through Airflow, YYYY-MM-DD."),
    ] = FIRST_NIGHT,
    n_nights: Annotated[
        int,
        typer.Option("--nights", min=1, help="Number of nights."),
    ] = N_NIGHTS,
) -> None:
    """Load a history of real flights, train, and run nights through Airflow; services stay up."""
    from examples.flights.summary import print_summary
    from nightshift.contracts.model_spec import load_specs
    from nightshift_local.launch import launch
    from nightshift_local.stack import BASE_GROUPS, DEFAULT_GROUPS

    watch = Stopwatch()
    begin = Partition.parse(first_night)
    # Airflow is waited for only after the history, which is loaded without it.
    with watch.step("Start PostgreSQL and the S3 server; Airflow starts in the background"):
        launch(
            DEFAULT_GROUPS,
            wait_for=BASE_GROUPS,
            report=typer.echo,
        )
    settings = load_admin_settings()
    specs = load_specs(settings.models_dir)
    history = PartitionRange(begin.shift(-HISTORY_DAYS), begin.shift(-1))
    run = command_run(f"demo/{first_night}")
    load_history(settings, specs, history, run, watch)

    api = _wait_for_airflow(specs, watch)
    timings = []
    partitions = PartitionRange(begin, begin.shift(n_nights - 1))
    # One after another, as real nights: a night's drop is delivered when the last one is over.
    for partition in partitions:
        with watch.step(f"Night {partition}: upstream delivers, Airflow does the rest"):
            deliver_range(settings, PartitionRange.single(partition))
            timing = run_partition(api, partition.key, expected_dags(specs))
            timings.append(timing)
    print_summary(settings, specs, timings, watch, api)


def load_history(
    settings: Settings,
    specs: dict[str, ModelSpec],
    history: PartitionRange,
    run: RunContext,
    watch: Stopwatch,
) -> None:
    """Create a warehouse and load a history into it, up to one trained champion per model.

    A repeated or killed demo does it again: what is published with equal content stays.

    Raises:
        NightshiftError: A step failed; the steps before it are done.
    """
    # The first features need the look-back before them, as far as there are flights.
    first_raw_day = max(history.first.shift(-lookback_days()), REFERENCE_DAY.first)
    raw = PartitionRange(first_raw_day, history.last)
    # The same command that an operator runs: `nightshift migrate`.
    with watch.step("Create the warehouse and the bucket"):
        set_up(settings)
    with watch.step(f"Upstream delivers {len(raw)} days ({raw})"):
        deliver_range(settings, REFERENCE_DAY, REFERENCE_DATASETS)
        deliver_range(settings, raw)
    with watch.step("Ingest them in one range: contract, COPY, gate, publish"):
        ingest_datasets(settings, raw, run)
    n_nights = len(history)
    with watch.step(f"Build the features of {n_nights} nights in one range: dbt, gate, publish"):
        build_features(settings, history, run)
    for spec in specs.values():
        with watch.step(f"Train {spec.name} on what was known on {history.last}"):
            outcome = train_and_decide(settings, spec, history.last, run)
            typer.echo(f"      {outcome}")


def expected_dags(specs: dict[str, ModelSpec]) -> set[str]:
    """Return the DAGs that run for each partition.

    Training runs too, and is skipped within its run when it is not due.
    """
    dags = {"ingest", "transform"}
    for name in specs:
        dags |= {
            f"score__{name}",
            f"monitor__{name}",
            f"train__{name}",
        }
    return dags


def _wait_for_airflow(specs: dict[str, ModelSpec], watch: Stopwatch) -> AirflowApi:
    """Wait until Airflow knows the DAGs, and unpause them.

    The supervisor has started it already; a second launch only waits.

    Raises:
        ServiceError: A DAG was not read in time.
    """
    from nightshift_local.airflow_api import AirflowApi
    from nightshift_local.launch import launch
    from nightshift_local.stack import DEFAULT_GROUPS

    dags = expected_dags(specs)
    with watch.step("Wait until Airflow is healthy and has read the DAGs"):
        launch(
            DEFAULT_GROUPS,
            wait_for=("airflow",),
            report=typer.echo,
        )
        api = AirflowApi.local(default_home())
        deadline = time.monotonic() + AIRFLOW_TIMEOUT_SECONDS
        # A healthy Airflow may not have read every file of DAGs yet.
        while missing := dags - api.dag_ids():
            if time.monotonic() > deadline:
                raise _not_read(api, missing)
            time.sleep(1)
        # A DAG that a person has paused would make the demo wait until its limit.
        for dag_id in dags:
            api.unpause(dag_id)
    return api


def _not_read(api: AirflowApi, missing: Collection[str]) -> ServiceError:
    names = ", ".join(sorted(missing))
    return ServiceError(
        f"Airflow did not read: {names}.",
        got="; ".join(api.import_errors()) or "no import error",
        todo="Run `nightshift doctor`.",
        code="NS-SERVICE-012",
    )
