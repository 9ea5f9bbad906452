"""Put together the parts that a home runs itself, leaving out what the environment says is elsewhere."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nightshift.errors import ServiceError
from nightshift_local.local_env import (
    mlflow_settings,
    object_store_settings,
    read_env,
    warehouse_settings,
)
from nightshift_local.placement import prepare_home
from nightshift_local.process import ServerProcess
from nightshift_local.servers.airflow_parts import COMMANDS, AirflowPart
from nightshift_local.servers.mlflow_server import MlflowServer
from nightshift_local.servers.object_server import ObjectServer
from nightshift_local.servers.postgres import PostgresServer

GROUPS = ("postgres", "s3", "airflow", "mlflow")
BASE_GROUPS = ("postgres", "s3")
"""What Airflow and MLflow use: warehouse and bucket."""
DEFAULT_GROUPS = ("postgres", "s3", "airflow")
"""What `nightshift up` starts. MLflow's pages are for people, so a person asks for them:
`nightshift up --with mlflow`.
"""
AIRFLOW_DATABASE = "NIGHTSHIFT_AIRFLOW_DATABASE_URL"


class Part(Protocol):
    """One server that the supervisor keeps running."""

    name: str
    group: str
    is_optional: bool
    unhealthy_limit_seconds: float | None
    process: ServerProcess

    @property
    def port(self) -> int:
        """Return its TCP port, 0 for none."""

    @property
    def address(self) -> str:
        """Return where a person reaches it, empty for nowhere."""

    def ensure_started(self) -> object:
        """Start it unless it runs."""

    def stop(self) -> None:
        """Stop it."""

    def is_healthy(self) -> bool:
        """Return whether it does its work."""


@dataclass(frozen=True)
class Stack:
    """What a home runs itself.

    Attributes:
        parts: In the order in which they start.
        notices: Why some group is not among them, one sentence each.
        settings: NIGHTSHIFT_* variables that point at the parts.
    """

    parts: tuple[Part, ...]
    notices: tuple[str, ...]
    settings: Mapping[str, str]


class Surroundings:
    """Which servers the environment places elsewhere.

    A variable that only repeats what this home's own env file says is not elsewhere.

    Args:
        home: Folder of local state.
        environment: The variables of the process.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        own = read_env(home)
        self.variables = {
            k: v
            for k, v in environment.items()
            if k.startswith("NIGHTSHIFT_") and v and own.get(k) != v
        }

    def has(self, *names: str) -> bool:
        """Return whether one of the variables is given."""
        return any(f"NIGHTSHIFT_{name}" in self.variables for name in names)

    def left_out(self) -> dict[str, str]:
        """Return the groups that must not be started, with the reason."""
        reasons = {}
        if self.has("WAREHOUSE_HOST"):
            reasons["postgres"] = "NIGHTSHIFT_WAREHOUSE_HOST names another server."
            reasons["mlflow"] = (
                "its database would be in the local PostgreSQL, which is not started."
            )
            if AIRFLOW_DATABASE not in self.variables:
                reasons["airflow"] = (
                    f"the local PostgreSQL is not started; set {AIRFLOW_DATABASE} to run Airflow here."
                )
        if self.has("S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID"):
            reasons["s3"] = "NIGHTSHIFT_S3_* names another store."
        if self.has("MLFLOW_TRACKING_URI"):
            reasons["mlflow"] = "NIGHTSHIFT_MLFLOW_TRACKING_URI names another server."
        return reasons


def compose(
    home: Path,
    groups: Collection[str] = DEFAULT_GROUPS,
    environment: Mapping[str, str] | None = None,
) -> Stack:
    """Return the parts of the asked groups that this home runs itself.

    Args:
        home: Folder of local state.
        groups: Names out of GROUPS.
        environment: The variables of the process; None: ours.

    Raises:
        ServiceError: A group is unknown.
    """
    if unknown := set(groups) - set(GROUPS):
        raise ServiceError(
            f"Unknown service: {', '.join(sorted(unknown))}.", expected=", ".join(GROUPS)
        )
    home = prepare_home(home)
    around = Surroundings(home, os.environ if environment is None else environment)
    left_out = around.left_out()
    chosen = [group for group in GROUPS if group in groups and group not in left_out]
    notices = tuple(
        f"{group} is not started here: {left_out[group]}"
        for group in GROUPS
        if group in groups and group in left_out
    )
    return Stack(tuple(_parts(home, chosen, around)), notices, _settings(home, left_out))


def expected_groups(home: Path) -> list[str]:
    """Return the groups that should run: what `nightshift up` starts, and what was started beside it and never stopped."""
    started = {part.group for part in all_parts(home) if part.process.was_started}
    return [group for group in GROUPS if group in DEFAULT_GROUPS or group in started]


def running_groups(home: Path) -> set[str]:
    """Return the groups of which a recorded process runs now."""
    return {part.group for part in all_parts(home) if part.process.find() is not None}


def all_parts(home: Path) -> tuple[Part, ...]:
    """Return every part that this home could have started, whatever the environment says now."""
    return compose(home, GROUPS, {}).parts


def _parts(home: Path, groups: Iterable[str], around: Surroundings) -> Iterable[Part]:
    for group in groups:
        if group == "postgres":
            yield PostgresServer(home)
        elif group == "s3":
            yield ObjectServer(home)
        elif group == "airflow":
            yield from (
                AirflowPart(home, name, around.variables.get(AIRFLOW_DATABASE)) for name in COMMANDS
            )
        else:
            yield MlflowServer(home, around.variables)


def _settings(home: Path, left_out: Collection[str]) -> dict[str, str]:
    """Return the settings of the local servers, also of those that are not asked for now but were once started."""
    postgres, store = PostgresServer(home), ObjectServer(home)
    settings = {"NIGHTSHIFT_HOME": str(home)}
    if postgres.port and "postgres" not in left_out:
        settings |= warehouse_settings(postgres)
    if postgres.port and "mlflow" not in left_out:
        settings |= mlflow_settings(postgres)
    if store.port and "s3" not in left_out:
        settings |= object_store_settings(store)
    return settings
