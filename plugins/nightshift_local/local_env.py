"""The NIGHTSHIFT_* settings of local servers, in ``<home>/env`` or for the length of a with block."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from nightshift_local.placement import prepare_home, remove_placed_files
from nightshift_local.ports import LOOPBACK
from nightshift_local.servers.object_server import ObjectServer
from nightshift_local.servers.postgres import SUPERUSER, PostgresServer

FILE_NAME = "env"
ADMIN_FILE_NAME = "admin-env"
"""The superuser's login; only administrative commands read it, tasks never do."""
ADMIN_PREFIX = "NIGHTSHIFT_WAREHOUSE_ADMIN_"


def warehouse_settings(server: PostgresServer) -> dict[str, str]:
    """Return the settings that point at the local warehouse."""
    return {
        "NIGHTSHIFT_WAREHOUSE_HOST": LOOPBACK,
        "NIGHTSHIFT_WAREHOUSE_PORT": str(server.port),
        "NIGHTSHIFT_WAREHOUSE_DATABASE": "warehouse",
        "NIGHTSHIFT_WAREHOUSE_USER": "nightshift",
        "NIGHTSHIFT_WAREHOUSE_PASSWORD": server.password("nightshift"),
        "NIGHTSHIFT_WAREHOUSE_ADMIN_USER": SUPERUSER,
        "NIGHTSHIFT_WAREHOUSE_ADMIN_PASSWORD": server.password(SUPERUSER),
        "NIGHTSHIFT_ANALYST_PASSWORD": server.password("analyst"),
    }


def mlflow_settings(server: PostgresServer) -> dict[str, str]:
    """Return the settings that point MLflow's tracking store at the local PostgreSQL."""
    return {
        "NIGHTSHIFT_MLFLOW_TRACKING_URI": server.url("mlflow").replace(
            "postgresql:", "postgresql+psycopg2:"
        )
    }


def object_store_settings(server: ObjectServer) -> dict[str, str]:
    """Return the settings that point at the local S3 server."""
    endpoint = server.endpoint
    return {
        "NIGHTSHIFT_S3_ENDPOINT_URL": endpoint.url,
        "NIGHTSHIFT_S3_REGION": "us-east-1",
        "NIGHTSHIFT_S3_ACCESS_KEY_ID": endpoint.access_key_id,
        "NIGHTSHIFT_S3_SECRET_ACCESS_KEY": endpoint.secret_access_key,
        "NIGHTSHIFT_S3_BUCKET": endpoint.bucket,
    }


def write_env(home: Path, settings: Mapping[str, str]) -> Path:
    """Replace ``<home>/env`` and ``<home>/admin-env`` (mode 0600) with the given settings; return the path of the first.

    Args:
        home: Folder of local state.
        settings: Variables; those of the superuser go into the second file.
    """
    admin = {name: value for name, value in settings.items() if name.startswith(ADMIN_PREFIX)}
    _write(home / ADMIN_FILE_NAME, admin)
    return _write(
        home / FILE_NAME, {name: value for name, value in settings.items() if name not in admin}
    )


def _write(target: Path, settings: Mapping[str, str]) -> Path:
    """Replace a file of variables, quoted for a shell."""
    partial = target.parent / "run" / f"{target.name}.{os.getpid()}"
    lines = ["# Written by `nightshift up`. Variables of the process win over this file."]
    lines += [f"{name}='{value}'" for name, value in settings.items()]
    partial.parent.mkdir(mode=0o700, exist_ok=True)
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    partial.replace(target)
    return target


def read_env(home: Path, file_name: str = FILE_NAME) -> dict[str, str]:
    """Return what a file of variables in the home says, ``env`` by default; empty if there is no such file."""
    path = home / file_name
    if not path.is_file():
        return {}
    pairs = (
        line.split("=", 1)
        for line in path.read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    return {name: value.removeprefix("'").removesuffix("'") for name, value in pairs}


class LocalServers:
    """PostgreSQL and S3 without a supervisor, stopped at the end of a with block; for tests and benchmarks.

    They also end when this process is killed within the block; their data stays then.

    Args:
        home: Folder of local state.

    Attributes:
        env: The NIGHTSHIFT_* settings that point at the running servers.
    """

    def __init__(self, home: Path) -> None:
        self._home = prepare_home(home)
        self._postgres, self._object_server = PostgresServer(self._home), ObjectServer(self._home)
        self._exits = ExitStack()
        self.env: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Start both servers.

        Raises:
            ServiceError: One of them did not start; the other is stopped.
        """
        from nightshift_local.watchdog import ends_with_us

        try:
            self._exits.enter_context(ends_with_us(self._home))
            self._postgres.ensure_started()
            self._object_server.ensure_started()
        except BaseException:
            self.__exit__()
            raise
        own = {"NIGHTSHIFT_HOME": str(self._home)}
        self.env = (
            own
            | warehouse_settings(self._postgres)
            | mlflow_settings(self._postgres)
            | object_store_settings(self._object_server)
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both servers and delete what they keep outside of the home."""
        self._postgres.stop()
        self._object_server.stop()
        self._exits.close()
        remove_placed_files(self._home)
