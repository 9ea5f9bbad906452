"""Compose the parts that a home runs itself; the environment can place servers elsewhere."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nightshift.errors import ServiceError
from nightshift_local.local_env import (
    mlflow_settings,
    object_store_settings,
    read_env,
    warehouse_settings,
)
from nightshift_local.part import Part
from nightshift_local.placement import prepare_home
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


def _elsewhere(home: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which the environment places servers elsewhere."""
    own = read_env(home).items()
    # What only repeats this home's own env file is not elsewhere. An empty variable counts as one
    # that is not set, as in `Settings`.
    foreign = {name: value for name, value in environment.items() - own if value}
    return {name: value for name, value in foreign.items() if name.startswith("NIGHTSHIFT_")}


def _left_out(elsewhere: Mapping[str, str]) -> dict[str, str]:
    """Return the groups that must not be started, with the reason."""
    reasons = {}
    if "NIGHTSHIFT_WAREHOUSE_HOST" in elsewhere:
        reasons["postgres"] = "NIGHTSHIFT_WAREHOUSE_HOST names another server."
        reasons["mlflow"] = "its database would be in the local PostgreSQL, which is not started."
        if AIRFLOW_DATABASE not in elsewhere:
            reasons["airflow"] = (
                f"the local PostgreSQL is not started; set {AIRFLOW_DATABASE} to run it."
            )
    if elsewhere.keys() & {"NIGHTSHIFT_S3_ENDPOINT_URL", "NIGHTSHIFT_S3_ACCESS_KEY_ID"}:
        reasons["s3"] = "NIGHTSHIFT_S3_* names another store."
    if "NIGHTSHIFT_MLFLOW_TRACKING_URI" in elsewhere:
        reasons["mlflow"] = "NIGHTSHIFT_MLFLOW_TRACKING_URI names another server."
    return reasons


def compose(
    home: Path,
    groups: Collection[str] = DEFAULT_GROUPS,
    environment: Mapping[str, str] | None = None,
) -> Stack:
    """Return the parts of the requested groups that this home runs itself.

    Args:
        home: Folder of local state.
        groups: Names out of GROUPS.
        environment: The variables of the process; None: ours.

    Raises:
        ServiceError: A group is unknown.
    """
    unknown = set(groups) - set(GROUPS)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ServiceError(f"Unknown service: {names}.", expected=", ".join(GROUPS))
    home = prepare_home(home)
    elsewhere = _elsewhere(home, os.environ if environment is None else environment)
    left_out = _left_out(elsewhere)
    parts: list[Part] = []
    notices: list[str] = []
    for group in GROUPS:
        if group not in groups:
            continue
        if group in left_out:
            notices.append(f"{group} is not started: {left_out[group]}")
        else:
            parts += _parts(home, group, elsewhere)
    settings = _settings(home, left_out)
    return Stack(tuple(parts), tuple(notices), settings)


def expected_groups(home: Path) -> list[str]:
    """Return the groups that should run: the default ones, and those that were started extra."""
    started = {part.group for part in all_parts(home) if part.process.was_started}
    expected = started.union(DEFAULT_GROUPS)
    return [group for group in GROUPS if group in expected]


def running_groups(home: Path) -> set[str]:
    """Return the groups of which a recorded process runs now."""
    running = [part for part in all_parts(home) if part.process.find() is not None]
    return {part.group for part in running}


def all_parts(home: Path) -> tuple[Part, ...]:
    """Return every part that this home could have started, whatever the environment says now."""
    # An empty environment places nothing elsewhere.
    return compose(home, GROUPS, {}).parts


def _parts(home: Path, group: str, elsewhere: Mapping[str, str]) -> list[Part]:
    """Return the parts of a group in the order in which they start."""
    if group == "postgres":
        return [PostgresServer(home)]
    if group == "s3":
        return [ObjectServer(home)]
    if group == "mlflow":
        return [MlflowServer(home, elsewhere)]
    database_url = elsewhere.get(AIRFLOW_DATABASE)
    return [AirflowPart(home, name, database_url) for name in COMMANDS]


def _settings(home: Path, left_out: Collection[str]) -> dict[str, str]:
    """Return the settings of the local servers, also of those that were only started earlier."""
    postgres = PostgresServer(home)
    store = ObjectServer(home)
    settings = {"NIGHTSHIFT_HOME": str(home)}
    # A port is remembered from the first start on.
    if postgres.port and "postgres" not in left_out:
        settings |= warehouse_settings(postgres)
    if postgres.port and "mlflow" not in left_out:
        settings |= mlflow_settings(postgres)
    if store.port and "s3" not in left_out:
        settings |= object_store_settings(store)
    return settings
