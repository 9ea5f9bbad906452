"""Settings of a deployment: endpoints and credentials, typed, frozen, from the environment.

Process variables win over ``<home>/env``, the file that ``nightshift up`` writes for the local
services.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nightshift.errors import SettingsError

LIBRARY_ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds this package: ``plugins`` of a checkout, or where pip has installed it."""


def _project_root() -> Path:
    """Return the folder with ``dags``, ``dbt_project`` and ``expectations``.

    ``NIGHTSHIFT_PROJECT_DIR`` names it; else it is the checkout of this file, or, for an installed
    library, the working directory.
    """
    named = os.environ.get("NIGHTSHIFT_PROJECT_DIR")
    if named:
        return Path(named).resolve()
    checkout = LIBRARY_ROOT.parent
    return checkout if (checkout / "dbt_project").is_dir() else Path.cwd()


PROJECT_ROOT = _project_root()


def default_home() -> Path:
    """Return the folder of local state: ``NIGHTSHIFT_HOME`` or ``.nightshift`` in the project."""
    return named_home().resolve()


def named_home() -> Path:
    """Return the folder of ``default_home`` as it was named, links not followed."""
    return Path(os.environ.get("NIGHTSHIFT_HOME") or PROJECT_ROOT / ".nightshift").absolute()


class ProjectSettings(BaseSettings):
    """The folders of the project: what tasks run, and by which rules."""

    model_config = SettingsConfigDict(
        env_prefix="NIGHTSHIFT_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    dags_dir: Path = PROJECT_ROOT / "dags"
    dbt_project_dir: Path = PROJECT_ROOT / "dbt_project"
    expectations_dir: Path = PROJECT_ROOT / "expectations"


class Settings(ProjectSettings):
    """Endpoints of the warehouse, the object store and MLflow, and the logins there.

    Attributes:
        home: Folder of local state (logs, ports, secrets of the local services).
        warehouse_host: PostgreSQL host; with port, database, user and password.
        warehouse_admin_user: A role that may create roles; only ``nightshift migrate`` uses it.
            Empty: the warehouse user itself.
        s3_endpoint_url: URL of the S3 server; empty for AWS.
        s3_bucket: The one bucket for landing, artefacts, reports and data docs.
        s3_connect_timeout_seconds: Limit of a connection's start.
        s3_read_timeout_seconds: Limit of a pause within an answer.
        s3_request_attempts: Most attempts of a request, with growing pauses between them.
        mlflow_tracking_uri: A tracking server's URL or a PostgreSQL URL; empty switches MLflow off.
        dask_scheduler: Address of the Dask scheduler for models with ``training.engine: dask``;
            empty starts workers on the machine of the task.
        evidence_key: Key of the signature of evidence records; empty leaves them unsigned, their
            digests are chained all the same.
        notices_file: Settings of notices; ``<dags_dir>/notices.yaml`` by default, if it is there.
        notify_command: A command that gets every notice as JSON on standard input, without a shell.
        notify_url: A webhook that gets the same JSON.
        metrics_token: Bearer token of ``nightshift metrics``; empty takes that of the file
            ``metrics-token`` in the home.
        telemetry_name: Name of this deployment in traces and lineage events. Two that send to the
            same receiver need two names.
        statement_timeout_seconds: Server-side limit of one statement.
        leakage_probe_days: Partitions that are rebuilt with the future hidden before each training.
    """

    home: Path = Field(default_factory=default_home)
    warehouse_host: str
    warehouse_port: int = Field(default=5432, gt=0, lt=65536)
    warehouse_database: str = "warehouse"
    warehouse_user: str = "nightshift"
    warehouse_password: SecretStr = SecretStr("")
    warehouse_sslmode: str = "prefer"
    warehouse_admin_user: str = ""
    warehouse_admin_password: SecretStr = SecretStr("")
    analyst_password: SecretStr = SecretStr("")
    s3_endpoint_url: str = ""
    s3_region: str = "us-east-1"
    s3_access_key_id: str = ""
    s3_secret_access_key: SecretStr = SecretStr("")
    s3_bucket: str = "nightshift"
    s3_connect_timeout_seconds: float = Field(default=5, gt=0)
    s3_read_timeout_seconds: float = Field(default=30, gt=0)
    s3_request_attempts: int = Field(default=5, gt=0)
    mlflow_tracking_uri: SecretStr = SecretStr("")
    dask_scheduler: str = ""
    evidence_key: SecretStr = SecretStr("")
    notices_file: Path | None = None
    notify_command: str = ""
    notify_url: SecretStr = SecretStr("")
    metrics_token: SecretStr = SecretStr("")
    telemetry_name: str = Field(default="nightshift", pattern=r"^[A-Za-z0-9_.-]{1,80}$")
    statement_timeout_seconds: int = Field(default=600, gt=0)
    lock_timeout_seconds: int = Field(default=10, gt=0)
    leakage_probe_days: int = Field(default=1, gt=0, le=120)

    @cached_property
    def models_dir(self) -> Path:
        """Return the folder of model specs."""
        return self.dags_dir / "models"

    @cached_property
    def datasets_dir(self) -> Path:
        """Return the folder of dataset contracts."""
        return self.dags_dir / "datasets"


def load_admin_settings() -> Settings:
    """Read the settings with the login that may create roles, for commands such as `migrate`.

    Raises:
        SettingsError: A setting is missing or has a wrong type; the message names the variables.
    """
    return load_settings("env", "admin-env")


def load_settings(*env_files: str) -> Settings:
    """Read the settings from the environment and from files of the home.

    Args:
        env_files: Names of files in the home, ``env`` by default; variables of the process win over
            them.

    Raises:
        SettingsError: A setting is missing or has a wrong type; the message names the variables.
    """
    paths = [default_home() / name for name in env_files or ("env",)]
    existing = [path for path in paths if path.is_file()]
    try:
        return Settings(_env_file=existing or None)
    except ValidationError as error:
        problems = error.errors()
        names = []
        for problem in problems:
            field = "_".join(map(str, problem["loc"]))
            names.append(f"NIGHTSHIFT_{field.upper()}")
        # Names and messages, but no value: it may be a password.
        raise SettingsError(
            f"Settings are missing or wrong: {', '.join(names)}.",
            got="; ".join(problem["msg"] for problem in problems),
            todo="Run `nightshift up` for the local services, or set the variables"
            " (.env.example documents each).",
        ) from None
