"""The NIGHTSHIFT_* settings of local servers: in ``<home>/env``, or during a with block."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from nightshift_local.home_files import write_private
from nightshift_local.placement import prepare_home, remove_placed_files
from nightshift_local.ports import LOOPBACK
from nightshift_local.servers.object_server import BUCKET, REGION, ObjectServer
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
    url = server.sqlalchemy_url("mlflow")
    return {"NIGHTSHIFT_MLFLOW_TRACKING_URI": url}


def object_store_settings(server: ObjectServer) -> dict[str, str]:
    """Return the settings that point at the local S3 server."""
    keys = server.keys
    return {
        "NIGHTSHIFT_S3_ENDPOINT_URL": server.address,
        "NIGHTSHIFT_S3_REGION": REGION,
        "NIGHTSHIFT_S3_ACCESS_KEY_ID": keys.key_id,
        "NIGHTSHIFT_S3_SECRET_ACCESS_KEY": keys.secret,
        "NIGHTSHIFT_S3_BUCKET": BUCKET,
    }


def write_env(home: Path, settings: Mapping[str, str]) -> Path:
    """Replace ``<home>/env`` and ``<home>/admin-env`` (mode 0600); return the path of the first.

    Args:
        home: Folder of local state.
        settings: Variables; those of the superuser go into the second file.
    """
    # Every task reads the first file: the superuser's password must not be in it.
    ordinary = dict(settings)
    admin_names = [name for name in settings if name.startswith(ADMIN_PREFIX)]
    admin = {name: ordinary.pop(name) for name in admin_names}
    _write(home / ADMIN_FILE_NAME, admin)
    env_file = home / FILE_NAME
    _write(env_file, ordinary)
    return env_file


def _write(path: Path, settings: Mapping[str, str]) -> None:
    """Replace a file of variables, quoted for a shell: a person may source it.

    ``Settings`` reads it too, and ``read_env`` below.
    """
    lines = ["# Written by `nightshift up`. Variables of the process win over this file."]
    lines += [f"{name}='{value}'" for name, value in settings.items()]
    text = "\n".join(lines)
    write_private(path, f"{text}\n")


def read_env(home: Path, file_name: str = FILE_NAME) -> dict[str, str]:
    """Return the variables of a file of the home, ``env`` by default; empty without the file."""
    path = home / file_name
    if not path.is_file():
        return {}
    variables: dict[str, str] = {}
    for line in path.read_text().splitlines():
        # The first `=` separates: passwords and URLs may contain more.
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            variables[name] = value.removeprefix("'").removesuffix("'")
    return variables


class LocalServers:
    """PostgreSQL and S3 without a supervisor, for the length of a with block.

    For tests and benchmarks. The servers also end when this process is killed within the block;
    their data remains then.

    Args:
        home: Folder of local state.

    Attributes:
        env: The NIGHTSHIFT_* settings that point at the running servers.
    """

    def __init__(self, home: Path) -> None:
        self._home = prepare_home(home)
        self._postgres = PostgresServer(self._home)
        self._object_server = ObjectServer(self._home)
        self._exits = ExitStack()
        self.env: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Start both servers.

        Raises:
            ServiceError: A server did not start; both are stopped.
        """
        # Here, since the watchdog imports the stack, and the stack these settings.
        from nightshift_local.watchdog import ends_with_us

        try:
            # First, so that a kill in the middle of a start leaves no server behind.
            self._exits.enter_context(ends_with_us(self._home))
            self._postgres.ensure_started()
            self._object_server.ensure_started()
        except BaseException:
            # The watchdog must not outlive a failed start.
            self.__exit__()
            raise
        self.env = {
            "NIGHTSHIFT_HOME": str(self._home),
            **warehouse_settings(self._postgres),
            **mlflow_settings(self._postgres),
            **object_store_settings(self._object_server),
        }
        return self

    def __exit__(self, *_: object) -> None:
        """Stop both servers and delete what they keep outside of the home."""
        self._postgres.stop()
        self._object_server.stop()
        # The watchdog ends last: until here it would stop what this process could not.
        self._exits.close()
        remove_placed_files(self._home)
