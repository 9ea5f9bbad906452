"""Run MLflow's pages for people; the pipeline itself writes to MLflow's database and to S3."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from nightshift.settings import LIBRARY_ROOT
from nightshift_local.credentials import Credentials
from nightshift_local.part import Part, get
from nightshift_local.ports import LOOPBACK
from nightshift_local.process import Launch
from nightshift_local.servers.airflow_settings import QUIET_VENDORS
from nightshift_local.servers.mlflow_app import HEALTH_PATH, PASSWORD_VARIABLE
from nightshift_local.servers.object_server import BUCKET, REGION, ObjectServer
from nightshift_local.servers.postgres import PostgresServer

NAME = "mlflow"
PASSWORD_FILE = "mlflow-admin"  # noqa: S105 - the name of the file


class MlflowServer(Part):
    """The MLflow pages of one home; nothing depends on them.

    Args:
        home: Folder of local state.
        elsewhere: NIGHTSHIFT_S3_* variables of a store that this home does not run; figures are not
            shown then, since its key is not for a page.
    """

    group = NAME
    is_optional = True

    def __init__(self, home: Path, elsewhere: Mapping[str, str]) -> None:
        super().__init__(home, NAME)
        self._elsewhere = elsewhere

    def stop(self) -> None:
        """Stop the server."""
        self.process.stop(grace_seconds=5)

    def is_healthy(self) -> bool:
        """Return whether the server answers."""
        return get(self.port, HEALTH_PATH) is not None

    # gunicorn directly: MLflow's own server adds routers that take writes (mlflow_app).
    def launch(self) -> Launch:
        """Return how its process is started."""
        options = f"--workers 1 --threads 4 --timeout 120 --bind {LOOPBACK}:{self.port}"
        argv = [sys.executable, "-m", "gunicorn", "--no-control-socket", *options.split()]
        app = "nightshift_local.servers.mlflow_app:create()"
        return Launch([*argv, app], self._environment(), self._home)

    def _environment(self) -> dict[str, str]:
        """Return all secrets that the server has: its database's password and a reading key."""
        bucket = self._elsewhere.get("NIGHTSHIFT_S3_BUCKET", BUCKET)
        return {
            **QUIET_VENDORS,
            "HOME": str(self._home),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(LIBRARY_ROOT),
            "MLFLOW_BACKEND_STORE_URI": PostgresServer(self._home).url("mlflow"),
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": f"s3://{bucket}/mlflow",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            PASSWORD_VARIABLE: Credentials(self._home).get(PASSWORD_FILE),
            **self._store_environment(),
        }

    def _store_environment(self) -> dict[str, str]:
        if any(name.startswith("NIGHTSHIFT_S3_") for name in self._elsewhere):
            # Without a key boto would ask the machine's cloud for one.
            return {"AWS_EC2_METADATA_DISABLED": "true"}
        server = ObjectServer(self._home)
        keys = server.mlflow_keys
        return {
            "MLFLOW_S3_ENDPOINT_URL": server.address,
            "AWS_ACCESS_KEY_ID": keys.key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret,
            "AWS_DEFAULT_REGION": REGION,
        }
