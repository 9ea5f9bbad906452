"""``nightshift analyst``: logins that read the published views, each with its own limits."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table
from nightshift.cli.recorded_command import recorded
from nightshift.cli.services.migrate import as_admin
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

PASSWORD_BYTES = 24

app = typer.Typer(help="Add, list and remove the logins of analysts.", no_args_is_help=True)
Login = Annotated[str, typer.Argument(help="Name of the login in PostgreSQL.")]


@app.command()
@recorded("analyst.add")
def add(
    login: Login,
    with_password: Annotated[
        bool, typer.Option("--password/--no-password", help="Make a password and print it once.")
    ] = True,
) -> None:
    """Create a login with all limits, or renew the password and the limits of an existing one."""
    from nightshift.warehouse.analysts.logins import add_login

    password = secrets.token_urlsafe(PASSWORD_BYTES) if with_password else None
    with _warehouse() as conn:
        add_login(conn, login, password)
    typer.echo(f"{login} reads schema analytics.")
    # Shown once: only PostgreSQL stores it, as a SCRAM verifier.
    if password is not None:
        typer.echo(f"password: {password}")


@app.command("list")
def list_logins() -> None:
    """Show every login that reads analytics, and the limits that it lacks."""
    from nightshift.warehouse.analysts.logins import logins

    with _warehouse() as conn:
        rows = [
            (login.name, login.max_connections, ", ".join(login.missing_limits) or "none")
            for login in logins(conn)
        ]
    print_table(("login", "connections", "missing limits"), rows)


@app.command()
@recorded("analyst.remove")
def remove(login: Login) -> None:
    """Remove the membership, end the login's sessions and forbid it to log in."""
    from nightshift.warehouse.analysts.logins import remove_login

    with _warehouse() as conn:
        remove_login(conn, login)
    typer.echo(f"{login} cannot log in any more; the role is not dropped.")


@contextmanager
def _warehouse() -> Iterator[Connection]:
    """Yield a connection of the role that may create roles."""
    from nightshift.warehouse.connection import connect

    with connect(as_admin(load_settings()), "nightshift analyst") as conn:
        yield conn
