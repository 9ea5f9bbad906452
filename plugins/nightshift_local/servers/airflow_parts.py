"""Run Airflow's parts: API server, scheduler (LocalExecutor), DAG processor and triggerer.

No task of nightshift defers. The triggerer runs because Airflow's home page shows a part that is
missing in red, and a red light on a healthy machine teaches people to look away.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from nightshift.errors import ServiceError
from nightshift_local.home_files import exclusive
from nightshift_local.part import Part, get
from nightshift_local.process import Launch
from nightshift_local.servers.airflow_settings import (
    airflow_environment,
    pools_document,
    remove_notice,
    write_logins,
)
from nightshift_local.servers.postgres import PostgresServer

API_SERVER = "airflow-api-server"
SCHEDULER = "airflow-scheduler"
DAG_PROCESSOR = "airflow-dag-processor"
TRIGGERER = "airflow-triggerer"
COMMANDS = {
    API_SERVER: ("api-server",),
    SCHEDULER: ("scheduler", "--skip-serve-logs"),
    DAG_PROCESSOR: ("dag-processor",),
    TRIGGERER: ("triggerer", "--skip-serve-logs"),
}
"""In the order in which they start: the scheduler waits for the API server, without which no
task can begin.
"""
HEALTH_KEYS = {SCHEDULER: "scheduler", DAG_PROCESSOR: "dag_processor", TRIGGERER: "triggerer"}
SETUP_TIMEOUT_SECONDS = 300


class AirflowPart(Part):
    """One process of the local Airflow.

    Args:
        home: Folder of local state.
        name: One of COMMANDS.
        database_url: Metadata database; None: the database in the home's PostgreSQL.
    """

    group = "airflow"

    def __init__(self, home: Path, name: str, database_url: str | None = None) -> None:
        super().__init__(home, name)
        self._fixed_database_url = database_url

    @property
    def address(self) -> str:
        """Return where a person reaches the API server; the other parts listen nowhere."""
        return super().address if self.name == API_SERVER else ""

    def _prepare(self) -> None:
        if self.name == API_SERVER:
            self._ports.usable(API_SERVER)
        self._ensure_metadata()

    def stop(self) -> None:
        """Stop the process, also a suspended one; a running task ends too and is retried."""
        process = self.process.find()
        if process is not None:
            process.resume()
        self.process.stop(grace_seconds=12)

    def is_healthy(self) -> bool:
        """Return whether the API server answers, or has a heartbeat of this very process."""
        process = self.process.find()
        if process is None:
            return False
        answer = get(self._api_port, "/api/v2/monitor/health")
        try:
            health = json.loads(answer or b"")
        # Nobody answers, or another program has the port.
        except ValueError:
            return False
        if self.name == API_SERVER:
            return bool(health["metadatabase"]["status"] == "healthy")
        key = HEALTH_KEYS[self.name]
        heartbeat = health[key].get(f"latest_{key}_heartbeat")
        if health[key]["status"] != "healthy" or heartbeat is None:
            return False
        # An older heartbeat is that of a process before this one.
        started_at = datetime.fromtimestamp(process.create_time(), UTC)
        return datetime.fromisoformat(heartbeat) >= started_at

    @property
    def _database_url(self) -> str:
        # Read at each use: PostgreSQL may get its port after this object was made.
        return self._fixed_database_url or PostgresServer(self._home).sqlalchemy_url("airflow")

    @property
    def _api_port(self) -> int:
        return self._ports.remembered().get(API_SERVER, 0)

    def run(self, *arguments: str) -> str:
        """Run one `airflow` command under the settings of the parts and return what it printed.

        Raises:
            ServiceError: The command failed; the message has the end of its output.
        """
        launch = self.launch()
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

    # exec instead of a child: signals and the terminal belong to Airflow's command.
    def exec(self, *arguments: str) -> NoReturn:
        """Become one `airflow` command under the settings of the parts."""
        launch = self.launch()
        program = launch.argv[0]
        os.execve(program, [program, *arguments], {**os.environ, **launch.env})  # noqa: S606

    def call(self, *arguments: str) -> int:
        """Run one `airflow` command as a child at the same terminal; return its exit code."""
        launch = self.launch()
        command = [launch.argv[0], *arguments]
        environment = {**os.environ, **launch.env}
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603

    def launch(self) -> Launch:
        """Return how its process is started."""
        scripts = sysconfig.get_path("scripts")
        environment = airflow_environment(self._home, self._database_url, self._api_port)
        environment["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "/usr/bin:/bin")])
        argv = [f"{scripts}/airflow", *COMMANDS[self.name]]
        return Launch(argv, environment, self._home, inherits_env=True)

    def _ensure_metadata(self) -> None:
        """Migrate the metadata database and create the pools.

        Done once per Airflow version, set of pools and database.
        """
        done = self._home / "run" / "airflow-migrated"
        expected = f"{version('apache-airflow')} {pools_document()}"
        # The parts may start at the same time.
        with exclusive(self._home / "run" / "airflow-setup.lock"):
            if done.exists() and done.read_text() == expected and self._has_metadata():
                return
            folder = self._home / "airflow"
            folder.mkdir(mode=0o700, exist_ok=True)
            write_logins(self._home)
            remove_notice(self._home)
            pools = folder / "pools.json"
            pools.write_text(pools_document())
            # The file that marks the set-up is written last: a killed one is repeated.
            self.run("db", "migrate")
            self.run("pools", "import", str(pools))
            done.write_text(expected)

    def _has_metadata(self) -> bool:
        import psycopg

        url = re.sub(r"^postgresql\+\w+:", "postgresql:", self._database_url)
        with psycopg.connect(url, connect_timeout=10) as connection:
            return connection.execute("SELECT to_regclass('slot_pool')").fetchone() != (None,)
