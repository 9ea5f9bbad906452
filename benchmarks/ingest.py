"""Ingest one large drop of flights from S3, against a bare COPY of the same local file.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.ingest [--rows 5000000] [--repeats 3]
    [--format csv] [--json FILE]

Both in turns, A B A B …, medians. The bare side is ``COPY … FROM`` a file that the server itself
reads, into a table of the nine delivered columns without an index: no digest, no check, no origin
of a row, no pointer. Ours is ``nightshift.ingestion`` with contract, quarantine, audit and gate, in
a process of its own whose modules are imported before the clock starts. Peak memory is that of this
process as the kernel counted it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psycopg
import pyarrow as pa
from benchmarks.result import Limited, Result
from pyarrow import csv, parquet

from nightshift.contracts.datasets import load_contract
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import code_version
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore
from nightshift.settings import PROJECT_ROOT, load_settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate
from nightshift_local.local_env import LocalServers

if TYPE_CHECKING:
    from nightshift.settings import Settings

DATASET, DAY = "flight_schedules", "2013-07-01"
SMALLEST_RATIO = 0.6
BARE = """
create table bare_flights (flight_date date, carrier text, flight_number integer, \
tail_number text, origin text, destination text,
    scheduled_departure_local timestamp, scheduled_arrival_hhmm integer, \
distance_miles integer) with (autovacuum_enabled = off)
"""
"""No autovacuum, which would clean up behind this side while the other one is measured."""


def make_flights(n_rows: int) -> pa.Table:
    """Return generated flights of one day: unique keys, every fiftieth aircraft unknown."""
    dice = np.random.default_rng(1)
    number = np.arange(n_rows)
    signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    carriers = pa.array(list(map("".join, product(signs, signs))))  # enough for 38 million keys
    minute = dice.integers(0, 24 * 60, n_rows)
    local = np.datetime64("2013-07-02T00:00:00") + minute.astype("timedelta64[m]")
    tails = pa.array([f"N{i:05d}" for i in range(4_000)] + [None] * 80)
    return pa.table(
        {
            "flight_date": pa.array(np.full(n_rows, np.datetime64("2013-07-02"))),
            "carrier": carriers.take(pa.array(number // 29_997 % len(carriers))),
            "flight_number": number // 3 % 9_999 + 1,
            "tail_number": tails.take(pa.array(dice.integers(0, len(tails), n_rows))),
            "origin": pa.array(["EWR", "JFK", "LGA"]).take(pa.array(number % 3)),
            "destination": pa.array(["ATL", "BOS", "LAX", "MIA", "ORD", "SFO"]).take(
                pa.array(dice.integers(0, 6, n_rows))
            ),
            "scheduled_departure_local": pa.array(local.astype("datetime64[s]").astype(str)),
            "scheduled_arrival_hhmm": dice.integers(0, 24, n_rows) * 100
            + dice.integers(0, 60, n_rows),
            "distance_miles": dice.integers(80, 5_000, n_rows),
        }
    )


def as_file(flights: pa.Table, suffix: str) -> bytes:
    """Return the flights as upstream delivers them."""
    sink = pa.BufferOutputStream()
    if suffix == "parquet":
        parquet.write_table(flights, sink)
    elif suffix == "csv.gz":
        with pa.CompressedOutputStream(sink, "gzip") as stream:
            csv.write_csv(flights, stream, csv.WriteOptions(quoting_style="needed"))
    else:
        csv.write_csv(flights, sink, csv.WriteOptions(quoting_style="needed"))
    return bytes(sink.getvalue())


def deliver(settings: Settings, content: bytes, n_rows: int, suffix: str) -> None:
    """Put the drop and its manifest into the lake."""
    delivered_at = dt.datetime(2013, 7, 2, 4, 5, tzinfo=dt.UTC)
    write_drop(
        ObjectStore.open(settings),
        NewDrop(
            DATASET,
            PartitionRange.of(DAY).first.day,
            delivered_at,
            content,
            n_rows,
            "bench",
            suffix=f".{suffix}",
        ),
    )


def bare_copy(settings: Settings, path: Path) -> float:
    """Let the server read the file itself, in one statement."""
    address = {
        "host": settings.warehouse_host,
        "port": settings.warehouse_port,
        "dbname": settings.warehouse_database,
    }
    password = settings.warehouse_admin_password.get_secret_value()
    with psycopg.connect(
        user=settings.warehouse_admin_user, password=password, autocommit=True, **address
    ) as admin:
        admin.execute("drop table if exists bare_flights")
        admin.execute(BARE)
        admin.execute("checkpoint")
        started = time.perf_counter()
        admin.execute(f"copy bare_flights from '{path}' (format csv, header)")
        return time.perf_counter() - started


INGEST = f"""
import json, time
from benchmarks.result import peak_mib
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.ingestion.load import ingest
from nightshift.settings import load_settings
import boto3, nightshift.ingestion.large_drop, pandas, pgpq, psycopg, pyarrow.csv
started = time.perf_counter()
done = ingest(load_settings(), "{DATASET}", PartitionRange.of("{DAY}"), \
RunContext("bench/ingest", 1, "bench"))
seconds = time.perf_counter() - started
print(json.dumps({{"seconds": seconds, "n_rows": done.n_rows, "peak": peak_mib()}}))
"""


def ours(settings: Settings) -> dict[str, float]:
    """Ingest in a process of its own, from an empty table."""
    address = {
        "host": settings.warehouse_host,
        "port": settings.warehouse_port,
        "dbname": settings.warehouse_database,
    }
    password = settings.warehouse_admin_password.get_secret_value()
    with psycopg.connect(
        user=settings.warehouse_admin_user, password=password, autocommit=True, **address
    ) as admin:
        admin.execute(
            f"truncate raw.{DATASET}, raw.ingested_drops, ops.published, ops.loads, ops.fences"
        )
        admin.execute("checkpoint")
    done = subprocess.run(
        [sys.executable, "-c", INGEST],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--format", choices=("csv", "csv.gz", "parquet"), default="csv")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["NIGHTSHIFT_CODE_VERSION"] = code_version()
    flights = make_flights(given.rows)
    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home)) as servers:
        os.environ.update(servers.env)
        settings = load_settings()
        with connect(settings) as conn:
            migrate(conn, {DATASET: load_contract(settings.datasets_dir, DATASET)})
        deliver(settings, as_file(flights, given.format), given.rows, given.format)
        local = Path(home) / "flights.csv"
        local.write_bytes(as_file(flights, "csv"))
        Path(home).chmod(0o755)
        del flights
        seconds: dict[str, list[float]] = {"bare COPY FROM": [], "nightshift": []}
        peaks: list[float] = []
        for _ in range(given.repeats):
            seconds["bare COPY FROM"].append(bare_copy(settings, local))
            measured = ours(settings)
            assert measured["n_rows"] == given.rows, measured
            seconds["nightshift"].append(measured["seconds"])
            peaks.append(measured["peak"])
        n_bytes = local.stat().st_size
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result = Result(
        "ingest",
        f"{given.rows:,} flights, {n_bytes / 1e6:,.0f} MB of CSV, delivered as {given.format},"
        f" {given.repeats} rounds A B",
    )
    result.figures = {f"{name}, s": value for name, value in median.items()} | {
        "peak memory, MiB": max(peaks)
    }
    result.limited["bare COPY FROM / nightshift"] = Limited(
        median["bare COPY FROM"] / median["nightshift"], "at least", SMALLEST_RATIO
    )
    result.bars, result.unit = (
        {name: given.rows / value for name, value in median.items()},
        "rows loaded a second",
    )
    return result.tell(given.json)


if __name__ == "__main__":
    sys.exit(main())
