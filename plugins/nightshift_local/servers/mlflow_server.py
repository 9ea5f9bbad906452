"""Run MLflow's pages, so that people can look at runs; the pipeline itself writes to its database and S3."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from nightshift.settings import PROJECT_ROOT
from nightshift_local.credentials import Credentials
from nightshift_local.local_env import object_store_settings
from nightshift_local.placement import prepare_home
from nightshift_local.ports import LOOPBACK, Ports
from nightshift_local.process import Launch, ServerProcess
from nightshift_local.servers.airflow_settings import QUIET_VENDORS
from nightshift_local.servers.mlflow_app import PASSWORD_VARIABLE
from nightshift_local.servers.object_server import ObjectServer
from nightshift_local.servers.postgres import PostgresServer

NAME = "mlflow"
PASSWORD_FILE = "mlflow-admin"  # noqa: S105 - the name of the file


class MlflowServer:
    """The MLflow pages of one home, started when asked for. Nothing waits for them and nothing fails without them.

    Args:
        home: Folder of local state.
        elsewhere: NIGHTSHIFT_S3_* variables of a store that this home does not run; figures are not
            shown then, since its key is not for a page.
    """

    name = NAME
    group = NAME
    is_optional = True
    unhealthy_limit_seconds: float | None = 180.0

    def __init__(self, home: Path, elsewhere: Mapping[str, str]) -> None:
        self._home = prepare_home(home)
        self._elsewhere = elsewhere
        self.process = ServerProcess(self._home, NAME)

    @property
    def port(self) -> int:
        """Return the port on which the server listens, or last listened."""
        return Ports(self._home).remembered().get(NAME, 0)

    @property
    def address(self) -> str:
        """Return where a person reaches the server."""
        return f"http://{LOOPBACK}:{self.port}"

    def ensure_started(self) -> None:
        """Start the server unless it runs with the current settings; does not wait until it is healthy."""
        if self.process.find() is not None:
            if not self.process.is_outdated(self._launch()):
                return
            self.stop()
        Ports(self._home).usable(NAME)
        self.process.start(self._launch())

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop(grace_seconds=5)

    def is_healthy(self) -> bool:
        """Return whether the server answers."""
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:  # noqa: S310 - http, our own port
                return bool(answer.status == HTTPStatus.OK)
        except (OSError, ValueError):
            return False

    def _launch(self) -> Launch:
        listen = [
            "--bind",
            f"{LOOPBACK}:{self.port}",
            "--workers",
            "1",
            "--threads",
            "4",
            "--no-control-socket",
        ]
        argv = [
            sys.executable,
            "-m",
            "gunicorn",
            *listen,
            "--timeout",
            "120",
            "nightshift_local.servers.mlflow_app:create()",
        ]
        return Launch(argv, self._environment(), self._home)

    def _environment(self) -> dict[str, str]:
        """Return all that the server knows: the password of MLflow's own database, and a key that only reads ``mlflow/``."""
        store = {**object_store_settings(ObjectServer(self._home)), **self._elsewhere}
        return {
            **QUIET_VENDORS,
            "HOME": str(self._home),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
            "MLFLOW_BACKEND_STORE_URI": PostgresServer(self._home).url("mlflow"),
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{store['NIGHTSHIFT_S3_BUCKET']}/mlflow",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            PASSWORD_VARIABLE: Credentials(self._home).get(PASSWORD_FILE),
            **self._store_environment(),
        }

    def _store_environment(self) -> dict[str, str]:
        if any(name.startswith("NIGHTSHIFT_S3_") for name in self._elsewhere):
            return {"AWS_EC2_METADATA_DISABLED": "true"}
        server = ObjectServer(self._home)
        return {
            "MLFLOW_S3_ENDPOINT_URL": server.endpoint.url,
            "AWS_ACCESS_KEY_ID": server.mlflow_keys.key_id,
            "AWS_SECRET_ACCESS_KEY": server.mlflow_keys.secret,
            "AWS_DEFAULT_REGION": object_store_settings(server)["NIGHTSHIFT_S3_REGION"],
        }
