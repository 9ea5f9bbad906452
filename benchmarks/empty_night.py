"""The fixed cost of a night: files without rows go through the real scheduler.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.empty_night [--repeats 2] [--json FILE]

A copy of contracts, suites and feature view that allow a night without rows
(docs/adr/0030-empty-nights.md), and of specs that train on a month. History, training and one usual
night come first; then upstream delivers files without rows. The time is that of the critical path:
from the start of ``ingest`` to the end of the last task that publishes predictions, as Airflow
recorded it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.result import Limited, Result
from examples.flights.airflow_run import run_partition
from examples.flights.clock import advance_clock, delivery_time
from examples.flights.demo import expected_dags
from examples.flights.flights_2013 import read_by_partition
from examples.flights.upstream import deliver

from nightshift.cli.operations.critical_path import find_path, print_path
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import PROJECT_ROOT, Settings, load_settings
from nightshift.warehouse.connection import connect
from nightshift_local.airflow_api import AirflowApi
from nightshift_local.local_env import read_env
from nightshift_local.watchdog import ends_with_us

if TYPE_CHECKING:
    from nightshift.cli.operations.critical_path import PathTask

LONGEST_SECONDS = 45
FIRST_DAY, LAST_DAY = "2013-01-01", "2013-02-03"
DAILY = ("flight_outcomes", "flight_schedules", "weather")
HISTORY = f"""
from examples.flights.demo import load_history
from examples.flights.stopwatch import Stopwatch
from nightshift.contracts.model_spec import load_specs
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import load_admin_settings
settings = load_admin_settings()
history = PartitionRange.of("{FIRST_DAY}", "{LAST_DAY}")
run = RunContext("bench/history", actor="bench")
load_history(settings, load_specs(settings.models_dir), history, run, Stopwatch())
"""
SMALL_SPEC = {
    "minimum_days": 25,
    "cold_start_days": 24,
    "validation_days": 5,
    "holdout_days": 5,
    "num_boost_round": 30,
}


def copy_project(folder: Path) -> dict[str, str]:
    """Copy the project, edited so that a night may be empty; return the settings of the copy."""
    folders = {
        "dags": "DAGS_DIR",
        "dbt_project": "DBT_PROJECT_DIR",
        "expectations": "EXPECTATIONS_DIR",
    }
    for name in folders:
        shutil.copytree(
            PROJECT_ROOT / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__", "target", "logs"),
        )
    for name in DAILY:
        _edit(
            folder / "dags" / "datasets" / f"{name}.yaml", r"^minimum_rows: \d+", "minimum_rows: 0"
        )
    for path in (folder / "dags" / "models").glob("*.yaml"):
        for key, value in SMALL_SPEC.items():
            _edit(path, rf"^  {key}: \d+", f"  {key}: {value}")
    features = folder / "dbt_project" / "models" / "features" / "flights" / "_features.yml"
    may_be_empty = "{entity_key: flight_id, may_be_empty: true}"
    _edit(features, r"\{entity_key: flight_id\}", may_be_empty)
    for path in (folder / "expectations").glob("*/*.json"):
        _edit(
            path,
            r'("expect_table_row_count_to_be_between",\s+"kwargs": \{\s+"min_value": )1\b',
            r"\g<1>0",
        )
    return {f"NIGHTSHIFT_{variable}": str(folder / name) for name, variable in folders.items()}


def _edit(path: Path, pattern: str, value: str) -> None:
    path.write_text(
        re.sub(pattern, value, path.read_text(encoding="utf-8"), flags=re.MULTILINE),
        encoding="utf-8",
    )


def deliver_nothing(settings: Settings, day: Partition) -> None:
    """Deliver files that have a header and no row."""
    store = ObjectStore.open(settings)
    for dataset in DAILY:
        header = ",".join(next(iter(read_by_partition(dataset).values())).column_names)
        write_drop(
            store,
            NewDrop(
                dataset, day.day, delivery_time(dataset, day), f"{header}\n".encode(), 0, "bench"
            ),
        )
    advance_clock(settings, day.cutoff)


def run(env: dict[str, str], *arguments: str) -> None:
    """Run Python in the benchmark's home, and show what it said if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])


def run_nights(home: Path, n_empty: int) -> list[list[PathTask]]:
    """Run one usual night and some empty ones; return the critical path of each empty one."""
    os.environ |= read_env(home)
    settings, api = load_settings(), AirflowApi.local(home)
    dags = expected_dags(load_specs(settings.models_dir))
    usual, paths = Partition.parse(LAST_DAY).shift(1), []
    for dag_id in dags:
        api.unpause(dag_id)
    deliver(settings, PartitionRange.single(usual))
    run_partition(api, usual.key, dags)
    for number in range(1, n_empty + 1):
        day = usual.shift(number)
        deliver_nothing(settings, day)
        run_partition(api, day.key, dags)
        with connect(settings, "bench") as conn:
            rows = conn.execute(
                "select dataset, n_rows from ops.published p"
                " join ops.loads l using (dataset, partition_date, load_id)"
                " where partition_date = %s and dataset like 'predictions/%%'",
                [day.day],
            ).fetchall()
        if len(rows) != len(load_specs(settings.models_dir)) or any(n_rows for _, n_rows in rows):
            sys.exit(f"not an empty night: {rows}")
        paths.append(find_path(api, day.key))
        print_path(paths[-1])
    return paths


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")
        }
        os.environ |= {"NIGHTSHIFT_HOME": str(home), **copy_project(Path(folder))}
        env |= {name: value for name, value in os.environ.items() if name.startswith("NIGHTSHIFT_")}
        with ends_with_us(home):
            try:
                run(env, "-m", "nightshift.cli", "up", "--only", "postgres,s3,airflow")
                run(env, "-c", HISTORY)
                paths = run_nights(home, given.repeats)
            finally:
                run(env, "-m", "nightshift.cli", "down", "--delete-data", "--yes")
    seconds = [sum(step.seconds for step in path) for path in paths]
    middle = paths[seconds.index(statistics.median_low(seconds))]
    result = Result(
        "empty_night",
        f"{len(middle)} tasks on the path, {len(paths)} nights; of two models the later one",
    )
    for part in ("waiting", "starting", "importing", "working"):
        result.figures[f"{part}, s"] = sum(getattr(step, part) for step in middle)
    result.limited["from the start to published"] = Limited(
        statistics.median_low(seconds), "at most", LONGEST_SECONDS, "s"
    )
    return result.tell(given.json)


if __name__ == "__main__":
    sys.exit(main())
