"""Run MLflow's tracking server, so that people can look at runs; the pipeline itself writes to its database and S3."""

from __future__ import annotations

import os
import sysconfig
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from nightshift.services.airflow_settings import QUIET_VENDORS
from nightshift.services.local_env import object_store_settings
from nightshift.services.object_server import ObjectServer
from nightshift.services.placement import prepare_home
from nightshift.services.ports import LOOPBACK, Ports
from nightshift.services.postgres import PostgresServer
from nightshift.services.process import Launch, ServerProcess

NAME = "mlflow"


class MlflowServer:
    """The MLflow server of one home. Nothing waits for it and nothing fails without it.

    Args:
        home: Folder of local state.
        elsewhere: NIGHTSHIFT_S3_* variables of a store that this home does not run; they win over the local one's.
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
        program = Path(sysconfig.get_path("scripts")) / "mlflow"
        store = {**object_store_settings(ObjectServer(self._home)), **self._elsewhere}
        environment = {
            **QUIET_VENDORS,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '/usr/bin:/bin')}",
            "MLFLOW_BACKEND_STORE_URI": PostgresServer(self._home).url("mlflow"),
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{store['NIGHTSHIFT_S3_BUCKET']}/mlflow",
            "MLFLOW_S3_ENDPOINT_URL": store["NIGHTSHIFT_S3_ENDPOINT_URL"],
            "AWS_ACCESS_KEY_ID": store["NIGHTSHIFT_S3_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": store["NIGHTSHIFT_S3_SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": store["NIGHTSHIFT_S3_REGION"],
        }
        listen = ["--host", LOOPBACK, "--port", str(self.port), "--workers", "1", "--no-serve-artifacts"]
        return Launch([str(program), "server", *listen], environment, self._home, inherits_env=True)
