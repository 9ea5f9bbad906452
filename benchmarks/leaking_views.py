"""How many leaking feature views pass the point-in-time probe: three sizes, two clocks, 7 nights.

``python -m benchmarks.leaking_views [--nights 7]`` starts its own servers, loads the first days of
2013 of the flights, and builds copies of the flights' feature view. In each copy one feature gets a
part of the outcome that it must predict: of the flight itself by the clock of events (the next
day's partition is read), or of its carrier by the clock of deliveries (the newest version is read).
The probe must refuse every night of each, and none of the honest view. A view that the probe
refuses trains no model, so nothing of it is promoted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from benchmarks.result import Limited, Result

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.settings import Settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
SIZES = (0.03, 0.08, 0.2)
FIRST_DAY = "2013-01-01"
MODEL, FEATURE = "flight_delayed", "carrier_delay_rate_28d"
HONEST = "flight"
_LATE = "(o.arrival_delay_minutes >= 15)::integer"
_CLOCKS = {
    "happened": f"""select o.flight_id as leaked_key, avg({_LATE}) as leaked
        from {{{{ ref("fct_flight_outcomes") }}}} o group by 1""",
    "delivered": f"""select o.carrier as leaked_key, avg({_LATE}) as leaked
        from {{{{ ref("fct_flight_outcomes") }}}} o where o.superseded_at is null group by 1""",
}
_KEYS = {"happened": "flight_id", "delivered": "carrier"}


def main() -> int:
    """Run the measurement; return 1 when a leak passed or an honest night was refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    from nightshift_local.local_env import LocalServers

    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home)) as servers:
        os.environ.update(servers.env)
        result = _measure(Path(home), given.nights)
    return result.tell(given.json)


def _measure(home: Path, n_nights: int) -> Result:
    from nightshift.contracts.model_spec import load_spec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.settings import load_settings

    views = [HONEST]
    project = home / "dbt_project"
    plain = load_settings()
    shutil.copytree(plain.dbt_project_dir, project, ignore=shutil.ignore_patterns("target", "logs"))
    for clock in _CLOCKS:
        views += [_plant(project, clock, size) for size in SIZES]
    settings = plain.model_copy(update={"dbt_project_dir": project})
    spec = load_spec(settings.models_dir, MODEL)

    first = PartitionRange.of(FIRST_DAY).first
    # One more day on each side: a look-back, and the outcomes of the last night's flights.
    days = PartitionRange(first, first.shift(n_nights + 1))
    partitions = PartitionRange(first.shift(1), first.shift(n_nights))
    _load(settings, days)
    _build(settings, views, partitions)

    result = Result("leaking_views", f"{n_nights} nights, sizes {SIZES}, two clocks")
    seconds: list[float] = []
    for view in views:
        n_refused, n_seconds = _probe(settings, _of_view(spec, view), partitions)
        seconds += n_seconds
        worth, without = _separations(settings, view)
        result.figures[f"{view}: {FEATURE} alone, AUC"] = worth
        if view == HONEST:
            result.limited["honest nights refused"] = Limited(n_refused, "at most", 0)
            continue
        result.figures[f"{view}: the same without the leak"] = without
        passed = n_nights - n_refused
        result.limited[f"{view}: nights that pass"] = Limited(passed, "at most", 0)
    result.figures["seconds of a probe, median"] = sorted(seconds)[len(seconds) // 2]
    return result


def _plant(project: Path, clock: str, size: float) -> str:
    """Write a copy of the feature view whose feature holds a part of the outcome."""
    folder = project / "models" / "features" / "flights"
    described = yaml.safe_load((folder / "_features.yml").read_text())
    [model] = [part for part in described["models"] if part["name"] == "feat_flight"]
    columns = [part["name"] for part in model["columns"]]
    selected = []
    for column in columns:
        expression = f"base.{column}"
        if column == FEATURE:
            expression += f" + {size} * coalesce(leak.leaked, 0)::double precision"
        selected.append(f"{expression} as {column}")
    head = (folder / "feat_flight.sql").read_text()
    name = f"{clock}_{round(size * 100):03}"
    (folder / f"feat_{name}.sql").write_text(
        f"with base as (\n{head}\n),\nleak as (\n{_CLOCKS[clock]}\n)\n"
        f"select {', '.join(selected)} from base\n"
        f"left join leak on leak.leaked_key = base.{_KEYS[clock]}\n"
    )
    copy = {**model, "name": f"feat_{name}"}
    (folder / f"_{name}.yml").write_text(yaml.safe_dump({"version": 2, "models": [copy]}))
    return name


def _load(settings: Settings, days: PartitionRange) -> None:
    """Migrate, deliver and ingest the days."""
    from examples.flights.upstream import deliver

    from nightshift.cli.data.backfill import ingest_datasets
    from nightshift.cli.services.migrate import set_up
    from nightshift.contracts.run import RunContext

    set_up(settings)
    deliver(settings, days, [])
    ingest_datasets(settings, days, RunContext("benchmark/ingest", 1, "benchmark"))


def _build(settings: Settings, views: list[str], partitions: PartitionRange) -> None:
    """Build and publish all views by dbt, without the gate: the copies have no suites."""
    from nightshift.contracts.datasets import load_contracts
    from nightshift.contracts.run import RunContext
    from nightshift.warehouse import ledger
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.dbt.runner import ensure_relations, run_models
    from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

    ensure_relations(settings)
    targets = [Target(f"features/{v}", "features", f"feat_{v}", ("flight_id",)) for v in views]
    run = RunContext("benchmark/features", 1, "benchmark")
    with connect(settings, run.application_name) as conn:
        contracts = load_contracts(settings.datasets_dir).values()
        by_name = {contract.name: contract for contract in contracts}
        versions = ledger.raw_versions(conn, contracts, partitions.last)
        as_of = ledger.as_of_by_partition(by_name, versions, partitions)
        write = begin(
            conn, targets, partitions, LoadManifest(run, ledger.input_digests(versions, as_of))
        )
    variables = {
        "load_id": write.load_id,
        "as_of": {partition.key: instant.isoformat() for partition, instant in as_of.items()},
    }
    run_models(settings, [f"feat_{view}" for view in views], variables, "benchmark")
    with connect(settings, run.application_name) as conn:
        audit(conn, write)
        publish(conn, write)


def _of_view(spec: ModelSpec, view: str) -> ModelSpec:
    return spec.model_copy(update={"feature_view": view})


def _probe(
    settings: Settings, spec: ModelSpec, partitions: PartitionRange
) -> tuple[int, list[float]]:
    """Probe each night; return how many are refused, and the seconds of each."""
    from nightshift.contracts.run import RunContext
    from nightshift.training.point_in_time_probe import probe_partition
    from nightshift.warehouse.connection import connect

    run = RunContext("benchmark/probe", 1, "benchmark")
    n_refused = 0
    seconds = []
    for partition in partitions:
        with connect(settings, run.application_name) as conn:
            probe = probe_partition(conn, settings, spec, partition.day, run)
        if probe.leaks or probe.skewed:
            n_refused += 1
            print(f"{spec.feature_view} {partition}: refused, {dict(probe.leaks)} {probe.skewed}")
        seconds.append(probe.seconds)
    return n_refused, seconds


def _separations(settings: Settings, view: str) -> tuple[float, float]:
    """Return how well the feature alone separates late flights, with and without the leak."""
    import numpy as np

    from nightshift.contracts.metrics import Task
    from nightshift.training.single_feature_leakage import separation
    from nightshift.warehouse.connection import connect

    query = f"""
        select v.{FEATURE}, h.{FEATURE}, (o.arrival_delay_minutes >= 15)::integer
        from features.feat_{view} v
        join features.feat_{HONEST} h using (flight_id, partition_date, load_id)
        join marts.fct_flight_outcomes o using (flight_id)
        where o.arrival_delay_minutes is not null
    """
    with connect(settings, "benchmark") as conn:
        rows = np.array(conn.execute(query.encode()).fetchall(), dtype=float)
    label = rows[:, 2]
    return separation(rows[:, 0], label, Task.BINARY), separation(rows[:, 1], label, Task.BINARY)


if __name__ == "__main__":
    sys.exit(main())
