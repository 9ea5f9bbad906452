"""Profile a partition and compare it with another: one scan against pandas and Evidently.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.profiles [--rows 10000000] [--peer-rows
    500000] [--repeats 3]

Ours: stream the partition, summarise its columns, count them in the bins of a model as the night's
drift does, keep the profile, check ranges and missing shares, and three distances of every column
to another partition that is profiled already. The peer: read as many rows of both partitions as it
can take by ``pandas.read_sql``, and let Evidently compare every column by its stability index. Each
side in a process of its own, A B A B, medians, peak memory as the kernel counted it. Last, 30 kept
days are added up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.result import Limited, Result, peak_mib
from benchmarks.scoring.made_up import DAY, make_features
from benchmarks.scoring.ways import sql_engine
from benchmarks.shape import CATEGORICAL, NUMERIC, SHAPE

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings
from nightshift_local.local_env import LocalServers

if TYPE_CHECKING:
    from nightshift.quality.profiles import LoadTable

LIMIT_SECONDS, LIMIT_MIB, LIMIT_MERGE_SECONDS = 60, 500, 1
OTHER_LOAD, N_DAYS = 1_000_001, 30
RUN = RunContext("bench/profiles", 1, "bench")


def prepare(n_rows: int) -> None:
    """Publish a partition, and add a second load, whose first column is shifted."""
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.migrate import migrate

    with connect(load_settings()) as conn:
        migrate(conn, {})
        make_features(conn, n_rows)
        conn.execute("set statement_timeout = 0")
        columns = ", ".join([*NUMERIC[1:], *CATEGORICAL])
        conn.execute(
            "insert into features.feat_bench"
            f" (partition_date, load_id, thing_id, event_timestamp, as_of, n00, {columns})"
            f" select partition_date, {OTHER_LOAD}, thing_id, event_timestamp, as_of,"
            f" n00 + 0.4, {columns}"
            f" from features.feat_bench limit {min(n_rows, 1_000_000)}".encode()
        )
        conn.execute("analyze features.feat_bench")


def _load(load_id: int) -> LoadTable:
    from nightshift.quality.profiles import LoadTable

    return LoadTable("features/bench", "features", "feat_bench", load_id, DAY.first.day)


def nightshift(_: int) -> dict[str, Any]:
    """Profile, check and compare."""

    from nightshift.quality.column_order import OrderCounter
    from nightshift.quality.drift_statistics import jensen_shannon, stability_index, wasserstein
    from nightshift.quality.profiles import keep_profile, own_stream, profile_load, scan_load
    from nightshift.quality.sketches.number_sketch import NumberSketch
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    with connect(settings, "bench") as conn:
        counter = OrderCounter()
        reference = profile_load(settings, conn, _load(OTHER_LOAD), RUN)
        row = conn.execute(
            "select load_id from ops.published where dataset = 'features/bench'"
        ).fetchone()
        assert row is not None
        conn.execute("delete from monitoring.profiles where load_id = %s", row)
        started = time.perf_counter()
        sketches = scan_load(conn, _load(row[0]), own_stream(settings, RUN), counter)
        keep_profile(conn, _load(row[0]), sketches, RUN)
        in_range = [
            sketch.minimum is None or (sketch.minimum > -10 and sketch.maximum < 1e10)
            for sketch in sketches.values()
        ]
        few_missing = [
            sketch.n_missing <= (SHAPE.missing + 0.05) * sketch.n_rows
            for sketch in sketches.values()
        ]
        drift = {
            name: (
                stability_index(reference[name], sketch),
                jensen_shannon(reference[name], sketch),
            )
            for name, sketch in sketches.items()
            if name in NUMERIC
        }
        moved = {
            name: wasserstein(reference[name], sketch)
            for name, sketch in sketches.items()
            if isinstance(sketch, NumberSketch) and name in NUMERIC
        }
        seconds = time.perf_counter() - started
    assert set(NUMERIC) <= set(counter.order().columns)
    assert all(in_range)
    assert all(few_missing)
    assert [name for name, (index, _) in drift.items() if index > 0.1] == ["n00"]
    assert max(moved, key=lambda name: moved[name]) == "n00"
    return {"seconds": seconds, "rows": sketches["n00"].n_rows}


def evidently(peer_rows: int) -> dict[str, Any]:
    """Read rows of both loads and compare every column."""
    import pandas as pd
    import sqlalchemy as sa
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    engine, names = sql_engine(load_settings()), ", ".join([*NUMERIC, *CATEGORICAL])
    started = time.perf_counter()
    definition = DataDefinition(numerical_columns=NUMERIC, categorical_columns=CATEGORICAL)
    sides = [
        Dataset.from_pandas(
            pd.read_sql(
                sa.text(
                    f"select {names} from features.feat_bench"
                    f" where load_id {which} {OTHER_LOAD} limit {peer_rows}"
                ),
                engine,
            ),
            definition,
        )
        for which in ("<>", "=")
    ]
    report = Report(
        [ValueDrift(column=name, method="psi") for name in [*NUMERIC, *CATEGORICAL]]
    ).run(*sides)
    drifted = [metric for metric in report.dict()["metrics"] if float(metric["value"]) > 0.1]
    assert len(drifted) == 1
    return {"seconds": time.perf_counter() - started, "rows": peer_rows}


def merging(_: int) -> dict[str, Any]:
    """Add up thirty copies of the kept profile."""
    from nightshift.quality.profiles import read_profiles
    from nightshift.warehouse.connection import connect

    days = PartitionRange(DAY.first.shift(1), DAY.first.shift(N_DAYS))
    with connect(load_settings(), "bench") as conn:
        span = [days.first.day, days.last.day]
        columns = (
            "place, column_name, kind, n_rows, n_missing, minimum, maximum, mean, std,"
            " n_distinct, sketch, run_id"
        )
        conn.execute(
            "insert into ops.published (dataset, partition_date, load_id, token)"
            " select dataset, d::date, load_id, token"
            " from ops.published, generate_series(%s::date, %s, '1 day') d"
            " where dataset = 'features/bench' on conflict do nothing",
            span,
        )
        conn.execute(
            f"insert into monitoring.profiles (dataset, partition_date, load_id, {columns})"
            f" select dataset, d::date, load_id, {columns}"
            " from monitoring.profiles p, generate_series(%s::date, %s, '1 day') d"
            f" where p.load_id <> {OTHER_LOAD}"
            f" and p.partition_date = '{DAY.first.day}' on conflict do nothing".encode(),
            span,
        )
        started = time.perf_counter()
        merged = read_profiles(conn, "features/bench", days)
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "rows": merged["n00"].n_rows}


WAYS = {"pandas and Evidently": evidently, "nightshift": nightshift, "merge": merging}


def run_way(way: str, peer_rows: int) -> dict[str, Any]:
    """Run one way in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.profiles",
        "--child",
        way,
        "--peer-rows",
        str(peer_rows),
    ]
    measured: dict[str, Any] = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[
            -1
        ]
    )
    return measured


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument(
        "--peer-rows", type=int, default=500_000, help="of each side; more do not fit everywhere"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        measured = WAYS[given.child](given.peer_rows)
        print(json.dumps({**measured, "peak_mib": peak_mib()}))
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder, LocalServers(Path(folder)) as servers:
        os.environ.update(servers.env)
        prepare(given.rows)
        for number in range(given.repeats):
            for way in WAYS:
                runs[way].append(run_way(way, given.peer_rows))
                print(f"round {number + 1} {way:22} {runs[way][-1]}", flush=True)
    return report(runs, given)


def report(runs: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> int:
    """Print and store medians and limits."""
    seconds = {
        way: statistics.median(run["seconds"] for run in repeats) for way, repeats in runs.items()
    }
    peaks = {way: max(run["peak_mib"] for run in repeats) for way, repeats in runs.items()}
    speed = {
        way: runs[way][0]["rows"] / seconds[way] for way in ("pandas and Evidently", "nightshift")
    }
    sizes = (
        f"{given.rows:,} rows, {SHAPE}; Evidently on {given.peer_rows:,} rows of each side;"
        f" {given.repeats} rounds"
    )
    result = Result("profiles", sizes)
    result.figures = {f"{way}, s": value for way, value in seconds.items()} | {
        f"{way}, peak MiB": value for way, value in peaks.items()
    }
    result.figures["rows/s, nightshift / pandas and Evidently"] = (
        speed["nightshift"] / speed["pandas and Evidently"]
    )
    result.limited = {
        "profile, checks and drift": Limited(seconds["nightshift"], "at most", LIMIT_SECONDS, "s"),
        "peak memory in Python": Limited(peaks["nightshift"], "at most", LIMIT_MIB, "MiB"),
        f"{N_DAYS} days added up": Limited(seconds["merge"], "at most", LIMIT_MERGE_SECONDS, "s"),
    }
    result.bars, result.unit = speed, "rows profiled and compared a second"
    return result.tell(given.json)


if __name__ == "__main__":
    sys.exit(main())
