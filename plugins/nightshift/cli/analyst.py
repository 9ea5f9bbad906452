"""``nightshift analyst``: logins that read the published views, each with limits of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.cli.setup import as_admin
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

PASSWORD_BYTES = 24

app = typer.Typer(help="Logins of analysts: add, list, remove.", no_args_is_help=True)
Login = Annotated[str, typer.Argument(help="Name of the login in PostgreSQL.")]


@contextmanager
def _warehouse() -> Iterator[Connection]:
    from nightshift.warehouse.connection import connect

    with connect(as_admin(load_settings()), "nightshift analyst") as conn:
        yield conn


@app.command()
def add(
    login: Login,
    with_password: Annotated[
        bool, typer.Option("--password/--no-password", help="Make a password and print it once.")
    ] = True,
) -> None:
    """Create a login with all limits, or give an existing one a new password and the limits."""
    from nightshift.warehouse.analysts.logins import add_login

    password = secrets.token_urlsafe(PASSWORD_BYTES) if with_password else None
    with _warehouse() as conn:
        add_login(conn, login, password)
    say(f"{login} reads schema analytics.")
    if password is not None:
        say(f"password: {password}")


@app.command("list")
def list_logins() -> None:
    """Show every login that reads analytics, and the limits that it lacks."""
    from nightshift.warehouse.analysts.logins import logins

    with _warehouse() as conn:
        found = logins(conn)
    rows = [
        (login.name, str(login.max_connections), ", ".join(login.missing_limits) or "none")
        for login in found
    ]
    print_table(("login", "connections", "missing limits"), rows)


@app.command()
def remove(login: Login) -> None:
    """Take the membership, end the login's sessions and keep it from logging in."""
    from nightshift.warehouse.analysts.logins import remove_login

    with _warehouse() as conn:
        remove_login(conn, login)
    say(f"{login} cannot log in any more; the role stays.")
