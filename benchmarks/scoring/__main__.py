"""Score and publish a partition: nightshift against what a person would write instead.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.scoring [--rows 5000000] [--trees 300]
    [--leaves 63] [--repeats 3] [--json FILE]

Ways, each in a process of its own, A B C A B C …, medians:

- ``predict only``: ``LightGBM.predict`` on an array that is in memory already; the floor.
- ``pandas``: ``read_sql`` → ``predict`` → ``to_sql`` in chunks of 10,000 rows, the script that one
  writes first, and the faster one of its ways to write; it publishes nothing safely.
- ``spark_udf``: MLflow's, on local PySpark (``spark_peer.py``), in an environment of its own that
  is made for it, from and to the warehouse by JDBC (Debian's ``libpostgresql-jdbc-java``, or
  ``--jdbc``). ``spark_udf on Parquet`` is spared the warehouse in both directions. What needs Java
  or the driver is left out without, and the result says so. They are compared by raw scores.
- ``nightshift`` and the name of an engine: plan, stream, audit, gate, publish, read back, by
  ``nightshift.scoring``.

Loops are compiled before, by a round of ours that does not count: that is done once a machine, not
once a night.

Rows, features and model are made up, of the shape of the real ones or of another one
(``shape.py``). Every score that was published is compared with LightGBM's own, bit by bit. Peak
memory is that of the process as the kernel counted it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from benchmarks.result import Limited, Result, peak_mib
from benchmarks.scoring.made_up import make_features, train_champion, write_suite
from benchmarks.scoring.spark import JDBC, JDBC_OF_DEBIAN
from benchmarks.scoring.ways import WAYS, compare
from benchmarks.shape import SHAPE

from nightshift.contracts.run import code_version
from nightshift.settings import load_settings
from nightshift_local.local_env import LocalServers

LIMITS: dict[str, tuple[float, Literal["at least", "at most"]]] = {
    "pandas / nightshift quickscorer": (8.0, "at least"),
    "spark_udf / nightshift quickscorer": (4.5, "at least"),
    "nightshift lightgbm / predict only": (1.3, "at most"),
    "nightshift quickscorer / predict only": (0.42, "at most"),
}
PEAK_MIB = 450


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--trees", type=int, default=300)
    parser.add_argument("--leaves", type=int, default=63)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--ways", default=",".join(WAYS).replace(", 3", ";3"), help="comma separated"
    )
    parser.add_argument(
        "--jdbc", type=Path, default=JDBC_OF_DEBIAN, help="PostgreSQL's JDBC driver, a jar"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.home)
        return
    ways = [way.replace(";3", ", 3") for way in given.ways.split(",")]
    if unknown := [way for way in ways if way not in WAYS]:
        parser.error(
            f"no such way: {', '.join(unknown)}; there are: {','.join(WAYS).replace(', 3', ';3')}"
        )
    for way in [way for way in ways if way.startswith("spark_udf")]:
        needed = {
            "Java": shutil.which("java"),
            "PostgreSQL's JDBC driver": "Parquet" in way or given.jdbc.is_file(),
        }
        if missing := [name for name, is_there in needed.items() if not is_there]:
            print(f"{way} is left out: there is no {' and no '.join(missing)}", flush=True)
            ways.remove(way)
    os.environ[JDBC] = str(given.jdbc)
    os.environ["NIGHTSHIFT_CODE_VERSION"] = code_version()
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home) / "servers") as servers:
        os.environ.update(servers.env)
        prepare(Path(home), given)
        if any(way.startswith("nightshift") for way in ways):
            print(
                f"once, uncounted                {run_way('nightshift quickscorer', Path(home))}",
                flush=True,
            )
        runs_by_way: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for number in range(given.repeats):
            for way in ways:
                runs_by_way[way].append(run_way(way, Path(home)))
                print(f"round {number + 1} {way:30} {runs_by_way[way][-1]}", flush=True)
    sys.exit(report(runs_by_way, given))


def prepare(home: Path, given: argparse.Namespace) -> None:
    """Make everything that is not measured."""
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.migrate import migrate

    settings = load_settings()
    write_suite(home)
    with connect(settings) as conn:
        migrate(conn, {})
        started = time.perf_counter()
        make_features(conn, given.rows)
        print(
            f"{given.rows:,} feature rows made in {time.perf_counter() - started:.0f} s", flush=True
        )
        train_champion(settings, conn, given)


def child(way: str, home: Path) -> None:
    """Run one way in this process and print what it measured."""
    settings = load_settings().model_copy(update={"expectations_dir": home / "expectations"})
    measured = WAYS[way](settings, home)
    measured.setdefault("peak_mib", peak_mib())
    if way.startswith("nightshift") and (home / "expected.npy").exists():
        measured["n_different"] = compare(settings, home)
    print(json.dumps(measured))


def run_way(way: str, home: Path) -> dict[str, Any]:
    """Run one way in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scoring", "--child", way, "--home", str(home)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    if process.wait():
        raise SystemExit(f"{way} ended with {process.returncode}")
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def report(runs_by_way: dict[str, list[dict[str, Any]]], given: argparse.Namespace) -> int:
    """Print and store medians, ratios and limits."""
    medians = {
        way: statistics.median(run["seconds"] for run in runs) for way, runs in runs_by_way.items()
    }
    peaks = {way: max(run["peak_mib"] for run in runs) for way, runs in runs_by_way.items()}
    model = f"{given.trees} trees of {given.leaves} leaves, {SHAPE}"
    result = Result("scoring", f"{given.rows:,} rows, {model}, {given.repeats} rounds")
    for way, seconds in medians.items():
        result.figures |= {f"{way}, s": seconds, f"{way}, peak MiB": peaks[way]}
    for name, (limit, bound) in LIMITS.items():
        first, second = name.split(" / ")
        if first in medians and second in medians:
            result.limited[name] = Limited(medians[first] / medians[second], bound, limit)
    for way in medians:
        if way.startswith("nightshift") and not way.endswith("reasons"):
            result.limited[f"{way}, peak memory"] = Limited(peaks[way], "at most", PEAK_MIB, "MiB")
    all_runs = chain.from_iterable(runs_by_way.values())
    compared = [run["n_different"] for run in all_runs if "n_different" in run]
    if compared:
        result.limited["scores that are not LightGBM's own"] = Limited(sum(compared), "at most", 0)
    result.bars, result.unit = (
        {way: given.rows / seconds for way, seconds in medians.items()},
        "rows scored a second",
    )
    return result.tell(given.json)


if __name__ == "__main__":
    main()
