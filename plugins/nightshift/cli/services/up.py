"""``nightshift up``: start the local services."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.settings import default_home, load_admin_settings

if TYPE_CHECKING:
    from nightshift_local.stack import Stack


def up(
    only: Annotated[
        str,
        typer.Option(
            help="Comma-separated: postgres, s3, airflow, mlflow. Default: all but mlflow."
        ),
    ] = "",
    extra: Annotated[
        str,
        typer.Option(
            "--with", help="Start this too: mlflow, whose pages only show what the warehouse has."
        ),
    ] = "",
) -> None:
    """Start the local services, wait until they are healthy, and upgrade the warehouse."""
    from nightshift.cli.services.migrate import set_up
    from nightshift_local.launch import launch
    from nightshift_local.placement import prepare_home
    from nightshift_local.stack import BASE_GROUPS, DEFAULT_GROUPS
    from nightshift_local.up_lock import only_up

    groups = [*(_names(only) or DEFAULT_GROUPS), *_names(extra)]
    stack = launch(groups, wait_for=groups, report=typer.echo)
    # Without warehouse and bucket there is nothing to upgrade.
    if set(BASE_GROUPS) <= set(groups):
        # Two `up` that started at the same time must not migrate at the same time either.
        with only_up(prepare_home(default_home()), typer.echo):
            set_up(load_admin_settings())
    _print_addresses(default_home(), stack)


def _names(comma_separated: str) -> list[str]:
    names = [name.strip() for name in comma_separated.split(",")]
    return [name for name in names if name]


def _print_addresses(home: Path, stack: Stack) -> None:
    # Reversed, so that the first part of a group wins: of Airflow, the API server.
    addresses = {part.group: part.address for part in reversed(stack.parts) if part.address}
    if "postgres" in addresses:
        typer.echo("  warehouse   nightshift psql (analysts: nightshift psql --role analyst)")
    for group, title in (("airflow", "Airflow"), ("mlflow", "MLflow")):
        if group in addresses:
            # The command and not the password: a terminal's history outlives the session.
            secret = home / "secrets" / f"{group}-admin"
            login = f"user admin, password: cat '{secret}'"
            typer.echo(f"  {title:<11} {addresses[group]}  {login}")
    typer.echo(f"  settings    {home / 'env'}")
