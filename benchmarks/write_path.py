"""The cost of the write path, against a bare COPY of the same rows into an equal table.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.write_path [--rows 336776] [--partitions 1]
    [--repeats 7]

The table is that of predictions: a primary key from the start, 14 columns. Both sides send the same
bytes by ``copy_in``. A B B A …, one warm-up round, medians, and their processor times; every
round starts with an empty table after a checkpoint. The server is one of our own, with its usual
settings.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import psycopg
import pyarrow as pa
from benchmarks.result import Limited, Result

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext, code_version
from nightshift.settings import load_settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.fast_io.arrow_io import copy_in
from nightshift.warehouse.migrate import migrate
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PartitionWrite,
    Target,
    audit,
    begin,
    publish,
)
from nightshift_local.local_env import LocalServers

if TYPE_CHECKING:
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

LARGEST_RATIO = 1.15
TARGET = Target("predictions/bench", "predictions", "bench", ("flight_id",))
COLUMNS = """
    partition_date date not null, load_id bigint not null, flight_id text not null, \
event_timestamp timestamptz not null,
    score double precision not null, probability double precision, decile smallint, \
is_positive boolean, reasons jsonb,
    model_version bigint, features_as_of timestamptz not null, score_source text not null, \
shard integer, run_id text not null,
    primary key (partition_date, load_id, flight_id)
"""
REASONS = '[{"feature": "arrival_delay_mean_28d", "value": 12.5, "contribution": 0.31}]'


def make_rows(n_rows: int, days: list[dt.date], *, has_reasons: bool) -> pa.Table:
    """Return predictions in key order, the load id still missing."""
    dice = np.random.default_rng(1)
    number = np.arange(n_rows)
    day = np.sort(number % len(days))
    at = pa.array([dt.datetime(2013, 7, 2, tzinfo=dt.UTC)] * n_rows, pa.timestamp("us", "UTC"))
    score = dice.random(n_rows)
    return pa.table(
        {
            "partition_date": pa.array(days, pa.date32()).take(pa.array(day)),
            "flight_id": pa.array([f"2013-07-02_UA_{i:07d}_EWR" for i in number]),
            "event_timestamp": at,
            "score": score,
            "probability": score,
            "decile": (number % 10 + 1).astype(np.int16),
            "is_positive": score > 0.5,
            "reasons": pa.array([REASONS if has_reasons else None] * n_rows, pa.string()),
            "model_version": np.ones(n_rows, np.int64),
            "features_as_of": at,
            "score_source": pa.array(["champion"] * n_rows),
            "shard": (number % 4).astype(np.int32),
            "run_id": pa.array(["score__flight_delayed/2013-07-01/score_shard"] * n_rows),
        }
    )


def with_load(rows: pa.Table, load_id: int) -> pa.Table:
    """Return the rows with their load id."""
    return rows.append_column("load_id", pa.array(np.full(rows.num_rows, load_id)))


def bare_copy(conn: Connection, rows: pa.Table) -> dict[str, float]:
    """Copy the rows in one transaction, and nothing else."""
    began = time.perf_counter()
    with conn.transaction():
        copy_in(conn, "predictions", "bare", with_load(rows, 1))
    return {"bare COPY": time.perf_counter() - began}


def protocol(
    conn: Connection, rows: pa.Table, days: PartitionRange, number: int
) -> dict[str, float]:
    """Run the whole protocol and return the seconds of each step."""
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    manifest = LoadManifest(RunContext("bench", 1, "bench"), {"round": str(number)})
    write: PartitionWrite = begin(conn, [TARGET], days, manifest)
    mark()
    with conn.transaction():
        copy_in(conn, TARGET.schema, TARGET.table, with_load(rows, write.load_id))
    mark()
    audit(conn, write)
    mark()
    publish(conn, write)
    mark()
    steps = dict(zip(("begin", "stage", "audit", "publish"), np.diff(marks).tolist(), strict=True))
    return steps | {"whole protocol": marks[-1] - marks[0]}


def cpu_seconds(conn: Connection) -> float:
    """Return the processor time of this process and its backend: stable next to busy neighbours."""
    backend = psutil.Process(conn.info.backend_pid).cpu_times()
    return time.process_time() + backend.user + backend.system


def clean(admin: psycopg.Connection[tuple[object, ...]]) -> None:
    """Start every measurement from the same state of the server."""
    admin.execute(
        "truncate predictions.bench, predictions.bare, ops.published, ops.loads, ops.fences"
    )
    admin.execute("checkpoint")


def measure(
    settings: Settings, rows: pa.Table, days: PartitionRange, repeats: int
) -> dict[str, list[float]]:
    """Alternate both sides, and which one begins; return the seconds of each step by round."""
    seconds: dict[str, list[float]] = {}
    address = {
        "host": settings.warehouse_host,
        "port": settings.warehouse_port,
        "dbname": settings.warehouse_database,
    }
    password = settings.warehouse_admin_password.get_secret_value()
    with psycopg.connect(
        user=settings.warehouse_admin_user, password=password, autocommit=True, **address
    ) as admin:
        for number in range(repeats + 1):
            for side in ("bare", "protocol") if number % 2 else ("protocol", "bare"):
                clean(admin)
                with connect(settings, "benchmark") as conn:
                    before = cpu_seconds(conn)
                    seconds_of_step = (
                        bare_copy(conn, rows)
                        if side == "bare"
                        else protocol(conn, rows, days, number)
                    )
                    seconds_of_step[f"CPU of {side}"] = cpu_seconds(conn) - before
                if number:
                    for name, value in seconds_of_step.items():
                        seconds.setdefault(name, []).append(value)
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=336_776)
    parser.add_argument("--partitions", type=int, default=1)
    parser.add_argument(
        "--repeats",
        type=int,
        default=20,
        help="many: a backend is now and then an eighth slower for its whole life",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--without-reasons", action="store_true", help="leave the jsonb column null"
    )
    given = parser.parse_args()
    os.environ["NIGHTSHIFT_CODE_VERSION"] = code_version()
    first = Partition.parse("2013-01-01")
    days = PartitionRange(first, first.shift(given.partitions - 1))
    rows = make_rows(given.rows, days.days, has_reasons=not given.without_reasons)
    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home)) as servers:
        os.environ.update(servers.env)
        settings = load_settings()
        with connect(settings) as conn:
            migrate(conn, {})
            for table in ("bench", "bare"):
                conn.execute(f"create table predictions.{table} ({COLUMNS})".encode())
        seconds = measure(settings, rows, days, given.repeats)
    sys.exit(report(seconds, given))


def report(seconds: dict[str, list[float]], given: argparse.Namespace) -> int:
    """Print and store medians and ratios."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [
        complete / bare
        for complete, bare in zip(seconds["whole protocol"], seconds["bare COPY"], strict=True)
    ]
    result = Result(
        "write_path",
        f"{given.rows:,} rows in {given.partitions} partition(s), 14 columns,"
        f" {given.repeats} rounds A B B A",
    )
    result.figures = {f"{name}, s": value for name, value in median.items()}
    result.figures["median of the rounds' ratios"] = statistics.median(ratios)
    result.figures["ratio of processor times"] = median["CPU of protocol"] / median["CPU of bare"]
    result.limited["whole protocol / bare COPY"] = Limited(
        median["whole protocol"] / median["bare COPY"], "at most", LARGEST_RATIO
    )
    result.bars, result.unit = (
        {name: given.rows / median[name] for name in ("bare COPY", "whole protocol")},
        "rows written a second",
    )
    return result.tell(given.json)


if __name__ == "__main__":
    main()
