"""Run Airflow as three processes: API server, scheduler (LocalExecutor) and DAG processor."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sysconfig
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from nightshift.errors import ServiceError
from nightshift_local.placement import prepare_home
from nightshift_local.ports import LOOPBACK, Ports
from nightshift_local.process import Launch, ServerProcess
from nightshift_local.servers.airflow_settings import (
    airflow_environment,
    pools_document,
    write_logins,
)
from nightshift_local.servers.postgres import PostgresServer

API_SERVER, SCHEDULER, DAG_PROCESSOR = (
    "airflow-api-server",
    "airflow-scheduler",
    "airflow-dag-processor",
)
COMMANDS = {
    API_SERVER: ("api-server",),
    SCHEDULER: ("scheduler", "--skip-serve-logs"),
    DAG_PROCESSOR: ("dag-processor",),
}
"""In the order in which they start: the scheduler waits for the API server, without which no
task can begin.
"""
HEALTH_KEYS = {SCHEDULER: "scheduler", DAG_PROCESSOR: "dag_processor"}
SETUP_TIMEOUT_SECONDS = 300


class AirflowPart:
    """One process of the local Airflow.

    Args:
        home: Folder of local state.
        name: One of COMMANDS.
        database_url: Metadata database; None: the one in the home's PostgreSQL.
    """

    group = "airflow"
    is_optional = False
    unhealthy_limit_seconds: float | None = 180.0

    def __init__(self, home: Path, name: str, database_url: str | None = None) -> None:
        self.name = name
        self._home = prepare_home(home)
        self._database_url = database_url
        self.process = ServerProcess(self._home, name)

    @property
    def port(self) -> int:
        """Return the port of the API server, or 0 for the parts that listen nowhere."""
        return Ports(self._home).remembered().get(API_SERVER, 0) if self.name == API_SERVER else 0

    @property
    def address(self) -> str:
        """Return where a person reaches the part."""
        return f"http://{LOOPBACK}:{self.port}" if self.name == API_SERVER else ""

    def ensure_started(self) -> None:
        """Start the process unless it runs with the current settings; does not wait until it is healthy.

        Raises:
            ServiceError: The metadata database could not be prepared.
        """
        if self.process.find() is not None:
            if not self.process.is_outdated(self._launch()):
                return
            self.stop()
        if self.name == API_SERVER:
            Ports(self._home).usable(API_SERVER)
        self._ensure_metadata()
        self.process.start(self._launch())

    def stop(self) -> None:
        """Stop the process, also a suspended one; a running task is ended too and will be retried."""
        if (process := self.process.find()) is not None:
            process.resume()
        self.process.stop(grace_seconds=12)

    def is_healthy(self) -> bool:
        """Return whether the API server answers, or has a heartbeat of this very process."""
        process = self.process.find()
        health = _health(Ports(self._home).remembered().get(API_SERVER, 0))
        if process is None or health is None:
            return False
        if self.name == API_SERVER:
            return bool(health["metadatabase"]["status"] == "healthy")
        report = health[HEALTH_KEYS[self.name]]
        beat = report.get(f"latest_{HEALTH_KEYS[self.name]}_heartbeat")
        started_at = datetime.fromtimestamp(process.create_time(), UTC)
        return (
            report["status"] == "healthy"
            and beat is not None
            and datetime.fromisoformat(beat) >= started_at
        )

    def run(self, *arguments: str) -> str:
        """Run one `airflow` command under the settings of the parts and return what it printed.

        Raises:
            ServiceError: The command failed; the message has the end of its output.
        """
        launch = self._launch()
        done = subprocess.run(  # noqa: S603 - argv is ours
            [launch.argv[0], *arguments],
            env={**os.environ, **launch.env},
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SETUP_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            command = " ".join(["airflow", *arguments])
            raise ServiceError(
                f"`{command}` failed.",
                got=(done.stdout + done.stderr)[-2000:],
                todo="Run `nightshift doctor`.",
            )
        return done.stdout

    def exec(self, *arguments: str) -> NoReturn:
        """Become one `airflow` command under the settings of the parts."""
        launch = self._launch()
        os.execve(launch.argv[0], [launch.argv[0], *arguments], {**os.environ, **launch.env})  # noqa: S606 - argv is ours

    def _environment(self) -> dict[str, str]:
        return airflow_environment(
            self._home, self._metadata_url(), Ports(self._home).remembered().get(API_SERVER, 0)
        )

    def _launch(self) -> Launch:
        program = Path(sysconfig.get_path("scripts")) / "airflow"
        environment = {
            **self._environment(),
            "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '/usr/bin:/bin')}",
        }
        return Launch(
            [str(program), *COMMANDS[self.name]], environment, self._home, inherits_env=True
        )

    def _ensure_metadata(self) -> None:
        """Migrate the metadata database and create the pools, once per Airflow version, set of pools and database."""
        done = self._home / "run" / "airflow-migrated"
        expected = f"{version('apache-airflow')} {pools_document()}"
        with self._setup_lock():
            if done.exists() and done.read_text() == expected and self._has_metadata():
                return
            (self._home / "airflow").mkdir(mode=0o700, exist_ok=True)
            write_logins(self._home)
            pools = self._home / "airflow" / "pools.json"
            pools.write_text(pools_document())
            self.run("db", "migrate")
            self.run("pools", "import", str(pools))
            done.write_text(expected)

    def _has_metadata(self) -> bool:
        import psycopg

        url = re.sub(r"^postgresql\+\w+:", "postgresql:", self._metadata_url())
        with psycopg.connect(url, connect_timeout=10) as connection:
            return connection.execute("SELECT to_regclass('slot_pool')").fetchone() != (None,)

    def _metadata_url(self) -> str:
        return self._database_url or PostgresServer(self._home).url("airflow").replace(
            "postgresql:", "postgresql+psycopg2:"
        )

    @contextmanager
    def _setup_lock(self) -> Iterator[None]:
        lock = os.open(self._home / "run" / "airflow-setup.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _health(port: int) -> dict[str, Any] | None:
    """Return the API server's health report, or None if it does not answer."""
    try:
        with urllib.request.urlopen(
            f"http://{LOOPBACK}:{port}/api/v2/monitor/health", timeout=5
        ) as answer:
            report: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return None
    return report
