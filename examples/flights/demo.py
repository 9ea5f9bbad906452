"""``make demo``: a history in one range, then real nights through the real scheduler, on real flights."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from examples.flights.airflow_night import Night, run_night
from examples.flights.replay import REFERENCE_DATASETS, deliver_range
from nightshift.cli.console import say
from nightshift.cli.history import ingest_range, train_once, transform_range
from nightshift.cli.setup import set_up
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import ServiceError
from nightshift.settings import default_home, load_admin_settings

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift_local.airflow_api import AirflowApi

REFERENCE_DAY = PartitionRange.of("2013-01-01")
"""Upstream delivers airports, aircraft and carriers once."""
HISTORY_DAYS = 66
"""Nights of features before the first night in Airflow."""
FIRST_NIGHT = "2013-09-05"
N_NIGHTS = 3
"""The end of the summer season: real drift on the second night. Source: docs/adr/0010-demo.md."""
AIRFLOW_TIMEOUT_SECONDS = 300


@dataclass
class Stopwatch:
    """Name and seconds of each step, in order."""

    steps: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say that a step begins, and how long it took."""
        say(f"[{len(self.steps) + 1}] {name}")
        started = time.monotonic()
        yield
        self.steps.append((name, time.monotonic() - started))
        say(f"      done in {self.steps[-1][1]:.1f} s")


def demo(
    first_night: Annotated[
        str, typer.Option(help="First night that runs through Airflow, YYYY-MM-DD.")
    ] = FIRST_NIGHT,
    nights: Annotated[int, typer.Option(min=1, help="Number of nights.")] = N_NIGHTS,
) -> None:
    """Run the whole loop on real flights: load a history, train, then nights through Airflow. Leaves the services up."""
    from examples.flights.summary import print_summary
    from nightshift.cli import services
    from nightshift.contracts.model_spec import load_specs
    from nightshift_local.stack import DEFAULT_GROUPS

    watch = Stopwatch()
    begin = Partition.parse(first_night)
    history = PartitionRange(begin.shift(-HISTORY_DAYS), begin.shift(-1))
    with watch.step("Start PostgreSQL and the S3 server; Airflow starts beside what follows"):
        services.launch(DEFAULT_GROUPS, wait_for=services.BASE_GROUPS)
    settings = load_admin_settings()
    specs = load_specs(settings.models_dir)
    run = RunContext(f"demo/{first_night}", actor=f"cli:{getpass.getuser()}")
    load_history(settings, specs, history, run, watch)
    api = _wait_for_airflow(default_home(), specs, watch)
    done: list[Night] = []
    for key in [begin.shift(i).key for i in range(nights)]:
        with watch.step(f"Night {key}: upstream delivers, Airflow does the rest"):
            deliver_range(settings, PartitionRange.of(key))
            done.append(run_night(api, key, expected_dags(specs)))
    print_summary(settings, specs, done, watch.steps, api.url)


def load_history(
    settings: Settings,
    specs: dict[str, ModelSpec],
    history: PartitionRange,
    run: RunContext,
    watch: Stopwatch,
) -> None:
    """Bring a warehouse from nothing to one trained champion per model, everything in one range."""
    from nightshift.warehouse.ledger import LOOKBACK_DAYS

    raw = PartitionRange(
        max(history.first.shift(-LOOKBACK_DAYS), REFERENCE_DAY.first), history.last
    )
    with watch.step("Create the warehouse and the bucket"):
        set_up(settings)
    with watch.step(f"Upstream delivers {len(raw)} days ({raw})"):
        deliver_range(settings, REFERENCE_DAY, REFERENCE_DATASETS)
        deliver_range(settings, raw)
    with watch.step("Ingest them in one range: contract, COPY, gate, publish"):
        ingest_range(settings, raw, run)
    with watch.step(
        f"Build the features of {len(history)} nights in one range: dbt, gate, publish"
    ):
        transform_range(settings, history, run)
    for spec in specs.values():
        with watch.step(f"Train {spec.name} on what was known on {history.last}"):
            say(f"      {train_once(settings, spec, history.last, run)}")


def expected_dags(specs: dict[str, ModelSpec]) -> set[str]:
    """Return the DAGs that each night wakes."""
    return {"ingest", "transform"} | {
        f"{stage}__{name}" for name in specs for stage in ("score", "monitor", "train")
    }


def _wait_for_airflow(home: Path, specs: dict[str, ModelSpec], watch: Stopwatch) -> AirflowApi:
    from nightshift.cli import services
    from nightshift_local.airflow_api import AirflowApi
    from nightshift_local.stack import DEFAULT_GROUPS

    with watch.step("Wait until Airflow is healthy and has read the DAGs"):
        services.launch(DEFAULT_GROUPS, wait_for=("airflow",))
        api, started = AirflowApi.local(home), time.monotonic()
        while missing := expected_dags(specs) - api.dag_ids():
            if time.monotonic() - started > AIRFLOW_TIMEOUT_SECONDS:
                raise ServiceError(
                    f"Airflow did not read: {', '.join(sorted(missing))}.",
                    got="; ".join(api.import_errors()) or "no import error",
                    todo="Run `nightshift doctor`.",
                    code="NS-SERVICE-012",
                )
            time.sleep(1)
        for dag_id in expected_dags(specs):
            api.unpause(dag_id)
    return api
