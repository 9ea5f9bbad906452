"""A storm over the write path: killed writers, a crashing database, readers that never pause.

Runs as a program of its own (``python -m tests.chaos.write_path.storm``), without threads, so that
it can fork; its result is one JSON line. The controls run the same readers over the usual ways to
write, which must be caught.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from ctypes import c_long
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError, StaleTokenError
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate
from nightshift.warehouse.partition_write import (
    LoadManifest,
    Target,
    audit,
    begin,
    collect,
    publish,
)
from nightshift_local.local_env import warehouse_settings
from nightshift_local.placement import remove_placed_files
from nightshift_local.servers.postgres import SUPERUSER, PostgresServer

FORK = multiprocessing.get_context("fork")
TARGET = Target("features/thing", "features", "feat_thing", ("thing_id",))
DAYS = PartitionRange.of("2013-07-01", "2013-07-03")
N_ROWS, N_CHUNKS, N_WRITERS = 60, 4, 3
WRITER = "storm writer"
IDLE, BEGUN, STAGING, AUDITING, PUBLISHING = range(5)
PUBLISHED, FENCED_OUT, FAILED = range(3)
LEVELS = {
    "read committed": psycopg.IsolationLevel.READ_COMMITTED,
    "repeatable read": psycopg.IsolationLevel.REPEATABLE_READ,
}
COLUMNS = (
    "partition_date date not null, load_id bigint not null, thing_id text not null,"
    " value double precision not null"
)
READ_POINTER = """
select t.partition_date, count(*), count(distinct t.load_id), count(distinct t.value), min(p.token)
from analytics.thing t
join ops.published p on p.dataset = 'features/thing' and p.partition_date = t.partition_date
group by 1 order by 1
"""
READ_BLIND = """
select partition_date, count(*), count(distinct load_id), count(distinct value), 0
from features.feat_blind group by 1 order by 1
"""
INSERT = (
    "insert into features.{} select %s::date, %s, 'thing ' || i, %s"
    " from generate_series(%s::int, %s::int) i"
)


@contextlib.contextmanager
def own_server() -> Iterator[tuple[PostgresServer, Settings]]:
    """Start a PostgreSQL of our own, with the write path's tables and one load of every day."""
    with tempfile.TemporaryDirectory(prefix="storm") as folder:
        server = PostgresServer(Path(folder))
        try:
            server.ensure_started()
            _skip_fsync(server)
            given = {
                name.removeprefix("NIGHTSHIFT_").lower(): value
                for name, value in warehouse_settings(server).items()
            }
            settings = Settings(_env_file=None, **given)
            with connect(settings, "storm") as conn:
                _prepare(conn)
            yield server, settings
        finally:
            server.stop()
            remove_placed_files(Path(folder))


def _skip_fsync(server: PostgresServer) -> None:
    """Stopping in ``immediate`` mode loses the server's memory, never what the kernel has."""
    place = {
        "host": "127.0.0.1",
        "port": server.port,
        "user": SUPERUSER,
        "password": server.password(SUPERUSER),
    }
    with psycopg.connect(dbname="postgres", autocommit=True, **place) as conn:
        conn.execute("alter system set fsync = off")
        conn.execute("select pg_reload_conf()")


def _prepare(conn: psycopg.Connection[Any]) -> None:
    migrate(conn, {})
    conn.execute(
        f"create table features.feat_thing ({COLUMNS}, primary key (partition_date, load_id,"
        " thing_id))"
    )
    conn.execute(f"create table features.feat_blind ({COLUMNS})")
    conn.execute(
        "create view analytics.thing as select t.* from features.feat_thing t join ops.published p"
        " on p.dataset = 'features/thing' and p.partition_date = t.partition_date and p.load_id ="
        " t.load_id"
    )
    write_load(conn, DAYS, "first", lambda _: None)
    for day in DAYS.days:
        conn.execute(INSERT.format("feat_blind"), [day, 0, 0.0, 1, N_ROWS])


def write_load(
    conn: psycopg.Connection[Any], days: PartitionRange, inputs: str, enter: Callable[[int], None]
) -> int:
    """Run the protocol once; ``enter`` is told each step."""
    enter(BEGUN)
    write = begin(
        conn, [TARGET], days, LoadManifest(RunContext("storm", 1, "test"), {"input": inputs})
    )
    enter(STAGING)
    for day in days.days:
        (_stage_by_copy if write.load_id % 2 else _stage_by_insert)(conn, day, write.load_id)
    enter(AUDITING)
    audit(conn, write)
    enter(PUBLISHING)
    publish(conn, write)
    enter(IDLE)
    return write.load_id


def _chunks() -> Iterator[range]:
    for chunk in range(N_CHUNKS):
        yield range(chunk * N_ROWS // N_CHUNKS + 1, (chunk + 1) * N_ROWS // N_CHUNKS + 1)


def _stage_by_insert(conn: psycopg.Connection[Any], day: dt.date, load_id: int) -> None:
    for rows in _chunks():
        conn.execute(INSERT.format("feat_thing"), [day, load_id, float(load_id), rows[0], rows[-1]])


def _stage_by_copy(conn: psycopg.Connection[Any], day: dt.date, load_id: int) -> None:
    """As the bulk writers do: one COPY that stays open while its rows come."""
    with conn.cursor() as cursor, cursor.copy("copy features.feat_thing from stdin") as copy:
        for rows in _chunks():
            for i in rows:
                copy.write_row((day, load_id, f"thing {i}", float(load_id)))
            time.sleep(0.002)


def blind_rewrite(conn: psycopg.Connection[Any], number: int) -> None:
    """The usual way without a fence: delete the partition and insert it in one transaction."""
    with conn.transaction():
        conn.execute("delete from features.feat_blind where partition_date = %s", [DAYS.days[0]])
        conn.execute(INSERT.format("feat_blind"), [DAYS.days[0], number, float(number), 1, N_ROWS])


def truncate_and_insert(conn: psycopg.Connection[Any], number: int) -> None:
    """The other usual way: TRUNCATE and INSERT in one transaction."""
    with conn.transaction():
        conn.execute("truncate features.feat_blind")
        for day in DAYS.days:
            conn.execute(INSERT.format("feat_blind"), [day, number, float(number), 1, N_ROWS])


@dataclass
class Writer:
    """One slot for a writer process; the successor of a killed one takes its slot and counters."""

    settings: Settings
    acknowledged: Path
    step: Any = field(default_factory=lambda: FORK.RawValue(c_long, IDLE))
    counts: Any = field(default_factory=lambda: FORK.RawArray(c_long, 3))
    process: Any = None

    def start(self, seed: str) -> None:
        self.step.value = IDLE
        self.process = FORK.Process(target=self._write_until_killed, args=[seed], daemon=True)
        self.process.start()

    def kill(self) -> int:
        """Kill the process and return the step in which it died."""
        step = self.step.value
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.process.close()
        return int(step)

    def _write_until_killed(self, seed: str) -> None:
        dice = random.Random(seed)  # noqa: S311  (a repeatable storm, no secret)
        log = os.open(self.acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        while True:
            try:
                with connect(self.settings, WRITER) as conn:
                    while True:
                        self._write_one(conn, dice, log)
            except StaleTokenError:
                self.counts[FENCED_OUT] += 1
            except (psycopg.Error, NightshiftError):
                self.counts[FAILED] += 1
                time.sleep(0.05)
            self.step.value = IDLE

    def _write_one(self, conn: psycopg.Connection[Any], dice: random.Random, log: int) -> None:
        first = dice.randrange(len(DAYS))
        days = PartitionRange(
            DAYS.first.shift(first), DAYS.first.shift(dice.randrange(first, len(DAYS)))
        )
        load_id = write_load(
            conn, days, str(dice.random()), lambda step: setattr(self.step, "value", step)
        )
        os.write(log, f"{load_id}\n".encode())
        self.counts[PUBLISHED] += 1
        if dice.random() < 0.1:
            collect(conn, [TARGET])


@dataclass
class Reader:
    """One reader process in one isolation level; it reconnects to the database, forgets nothing."""

    settings: Settings
    level: str
    query: str
    folder: Path
    n_reads: Any = field(default_factory=lambda: FORK.RawValue(c_long, 0))
    n_violations: Any = field(default_factory=lambda: FORK.RawValue(c_long, 0))
    is_stormy: Any = field(default_factory=lambda: FORK.RawValue(c_long, 0))
    stop: Any = field(default_factory=lambda: FORK.RawValue(c_long, 0))
    process: Any = None

    def start(self) -> None:
        self.process = FORK.Process(target=self._read_until_stopped, daemon=True)
        self.process.start()

    def end(self) -> dict[str, Any]:
        """Stop reading; return latencies and the first violations."""
        self.stop.value = 1
        self.process.join(30)
        return json.loads((self.folder / f"{self.level}.json").read_text())

    def _read_until_stopped(self) -> None:
        tokens: dict[dt.date, int] = {}
        milliseconds: list[list[float]] = [[], []]
        violations: list[str] = []
        while not self.stop.value:
            with (
                contextlib.suppress(psycopg.Error, NightshiftError),
                connect(self.settings, "storm reader") as conn,
            ):
                conn.isolation_level = LEVELS[self.level]
                while not self.stop.value:
                    self._read_twice(conn, tokens, milliseconds[self.is_stormy.value], violations)
            time.sleep(0.02)
        found = {"idle": milliseconds[0], "storm": milliseconds[1], "violations": violations[:5]}
        (self.folder / f"{self.level}.json").write_text(json.dumps(found))

    def _read_twice(
        self,
        conn: psycopg.Connection[Any],
        tokens: dict[dt.date, int],
        times: list[float],
        violations: list[str],
    ) -> None:
        with conn.transaction():
            conn.execute(
                "select 1"
            )  # the snapshot of REPEATABLE READ is taken here, before the table is touched
            reads = []
            for _ in range(2):
                began = time.perf_counter()
                reads.append(conn.execute(self.query).fetchall())
                times.append(1000 * (time.perf_counter() - began))
        problems = [problem for read in reads for problem in _problems(read, tokens)]
        if self.level == "repeatable read" and reads[0] != reads[1]:
            problems.append(f"two reads of one snapshot differ: {reads}")
        self.n_reads.value += 2
        self.n_violations.value += len(problems)
        violations += problems[:5]


def _problems(read: list[tuple[Any, ...]], tokens: dict[dt.date, int]) -> list[str]:
    problems = (
        [] if [row[0] for row in read] == DAYS.days else [f"days {[str(row[0]) for row in read]}"]
    )
    for day, n_rows, n_loads, n_values, token in read:
        if (n_rows, n_loads, n_values) != (N_ROWS, 1, 1):
            problems.append(f"{day}: {n_rows} rows of {n_loads} loads with {n_values} values")
        if token < tokens.get(day, 0):
            problems.append(f"{day}: token {token} after {tokens[day]}")
        tokens[day] = token
    return problems


def _readers(settings: Settings, query: str, folder: Path) -> list[Reader]:
    readers = [Reader(settings, level, query, folder) for level in LEVELS]
    for reader in readers:
        reader.start()
    return readers


def control(
    settings: Settings, rewrite: Callable[[psycopg.Connection[Any], int], None], seconds: float
) -> dict[str, int]:
    """Let two writers write blindly, unkilled, and return what each reader caught."""

    def write(number: int) -> None:
        with connect(settings, WRITER) as conn:
            while True:
                with contextlib.suppress(psycopg.Error):
                    rewrite(conn, number)

    with tempfile.TemporaryDirectory() as folder:
        readers = _readers(settings, READ_BLIND, Path(folder))
        writers = [FORK.Process(target=write, args=[number], daemon=True) for number in (1, 2)]
        for writer in writers:
            writer.start()
        time.sleep(seconds)
        for reader in readers:
            reader.end()
        for writer in writers:
            writer.kill()
            writer.join()
    return {reader.level: reader.n_violations.value for reader in readers} | {
        "reads": sum(r.n_reads.value for r in readers)
    }


@dataclass
class Storm:
    """The storm itself."""

    server: PostgresServer
    settings: Settings
    folder: Path
    seed: int
    steps: list[int] = field(default_factory=list)
    recovery_seconds: list[float] = field(default_factory=list)

    @property
    def acknowledged(self) -> Path:
        return self.folder / "acknowledged"

    def run(self, n_kills: int, n_crashes: int, n_reads: int) -> dict[str, Any]:
        dice = random.Random(self.seed)  # noqa: S311  (a repeatable storm, no secret)
        readers = _readers(self.settings, READ_POINTER, self.folder)
        time.sleep(1.5)
        for reader in readers:
            reader.is_stormy.value = 1
        writers = [Writer(self.settings, self.acknowledged) for _ in range(N_WRITERS)]
        for number, writer in enumerate(writers):
            writer.start(f"{self.seed} {number}")
        crash_at = {round((i + 1) * n_kills / (n_crashes + 1)) for i in range(n_crashes)}
        began = time.monotonic()
        while len(self.steps) < n_kills or sum(r.n_reads.value for r in readers) < n_reads:
            time.sleep(dice.uniform(0.01, 0.15))
            writer = dice.choice(writers)
            self.steps.append(writer.kill())
            writer.start(f"{self.seed} {len(self.steps)} again")
            if len(self.steps) in crash_at:
                self._crash()
            if len(self.steps) % 50 == 0:
                self._tell(time.monotonic() - began, writers, readers)
        return self._result(time.monotonic() - began, writers, readers)

    def _crash(self) -> None:
        """Stop the server as ``pg_ctl -m immediate`` does, start it, wait for a publication."""
        self.server.process.stop(signal.SIGQUIT, grace_seconds=30)
        n_bytes, began = self.acknowledged.stat().st_size, time.monotonic()
        self.server.ensure_started()
        while self.acknowledged.stat().st_size == n_bytes and time.monotonic() - began < 60:
            time.sleep(0.01)
        self.recovery_seconds.append(time.monotonic() - began)

    def _tell(self, seconds: float, writers: list[Writer], readers: list[Reader]) -> None:
        print(
            f"{seconds:5.0f} s  {len(self.steps)} kills ({self._n_mid_write} while writing),"
            f" {len(self.recovery_seconds)} crashes,"
            f" {sum(w.counts[PUBLISHED] for w in writers)} loads published,"
            f" {sum(w.counts[FENCED_OUT] for w in writers)} fenced out,"
            f" {sum(r.n_reads.value for r in readers)} reads,"
            f" {sum(r.n_violations.value for r in readers)} violations",
            file=sys.stderr,
            flush=True,
        )

    @property
    def _n_mid_write(self) -> int:
        return sum(step in {STAGING, AUDITING, PUBLISHING} for step in self.steps)

    def _result(
        self, seconds: float, writers: list[Writer], readers: list[Reader]
    ) -> dict[str, Any]:
        for writer in writers:
            writer.kill()
        found = [reader.end() for reader in readers]
        left = _seconds_until_quiet(self.settings)
        with connect(self.settings, "storm referee") as conn:
            ledger = _ledger_problems(conn, self.acknowledged)
            write_load(conn, DAYS, "after the storm", lambda _: None)
            last = _problems(conn.execute(READ_POINTER).fetchall(), {})
            n_collected = collect(conn, [TARGET])
            last += _problems(conn.execute(READ_POINTER).fetchall(), {})
        times = {when: sorted(t for one in found for t in one[when]) for when in ("idle", "storm")}
        return {
            "seconds": round(seconds, 1),
            "kills": len(self.steps),
            "kills_while_writing": self._n_mid_write,
            "kills_by_step": [self.steps.count(step) for step in range(5)],
            "crashes": len(self.recovery_seconds),
            "recovery_seconds_max": round(max(self.recovery_seconds, default=0.0), 2),
            "loads_published": sum(w.counts[PUBLISHED] for w in writers),
            "loads_fenced_out": sum(w.counts[FENCED_OUT] for w in writers),
            "reads": {reader.level: reader.n_reads.value for reader in readers},
            "read_violations": sum(reader.n_violations.value for reader in readers),
            "violations_shown": [problem for one in found for problem in one["violations"]],
            "ledger_violations": ledger,
            "violations_after": last,
            "rows_collected": n_collected,
            "seconds_until_no_backend": left,
            "read_p99_idle_ms": round(times["idle"][int(0.99 * len(times["idle"]))], 2),
            "read_p99_storm_ms": round(times["storm"][int(0.99 * len(times["storm"]))], 2),
        }


def _seconds_until_quiet(settings: Settings) -> float:
    """Return how long the killed writers' backends live on, 60 s at most."""
    began = time.monotonic()
    query = "select count(*) from pg_stat_activity where application_name = %s"
    with connect(settings, "storm referee") as conn:
        while conn.execute(query, [WRITER]).fetchone() != (0,) and time.monotonic() - began < 60:
            time.sleep(0.05)
    return round(time.monotonic() - began, 2)


def _ledger_problems(conn: psycopg.Connection[Any], acknowledged: Path) -> list[str]:
    """Return acknowledged loads that are not published, and publications in the wrong order."""
    promised = [int(line) for line in acknowledged.read_text().split()]
    lost = conn.execute(
        "select load_id from unnest(%s::bigint[]) wanted (load_id) where not exists"
        " (select from ops.loads l where l.load_id = wanted.load_id and l.state = 'published')",
        [promised],
    ).fetchall()
    disordered = conn.execute(
        """
        select count(*) from (select token, lag(token) over (
                partition by dataset, partition_date order by ledger_id) as before
            from ops.ledger where event = 'published') l where token <= before
        """
    ).fetchone()
    return [f"acknowledged load {load_id} is not published" for (load_id,) in lost] + (
        [f"{disordered[0]} publications behind a newer token"] if disordered != (0,) else []
    )


def main() -> int:
    """Run controls and storm, and print the result."""
    parser = argparse.ArgumentParser()
    for name, default in (
        ("kills", 40),
        ("crashes", 5),
        ("reads", 500),
        ("seed", 20130701),
        ("control-seconds", 3),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with own_server() as (server, settings), tempfile.TemporaryDirectory() as folder:
        blind = control(settings, blind_rewrite, given.control_seconds)
        truncating = control(settings, truncate_and_insert, given.control_seconds)
        result = Storm(server, settings, Path(folder), given.seed).run(
            given.kills, given.crashes, given.reads
        )
    print(
        json.dumps(
            result | {"control_delete_and_insert": blind, "control_truncate_and_insert": truncating}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
