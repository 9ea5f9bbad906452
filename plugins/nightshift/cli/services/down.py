"""``nightshift down``: stop the local services."""

from __future__ import annotations

import os
import shutil
from typing import Annotated

import typer

from nightshift.settings import default_home, named_home


def down(
    delete_data: Annotated[
        bool,
        typer.Option("--delete-data", help="Delete the home with all databases and objects too."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Delete without a question."),
    ] = False,
) -> None:
    """Stop the local services; on request, delete their data."""
    from nightshift_local.part import stop_parts
    from nightshift_local.placement import prepare_home, remove_placed_files
    from nightshift_local.stack import BASE_GROUPS, all_parts
    from nightshift_local.supervisor import stop_supervisor

    # Nothing was ever started: a home is not created only to be stopped.
    if not os.path.lexists(named_home()) or not any(default_home().glob("*")):
        return
    if delete_data:
        _confirm_deletion(is_confirmed=yes)
    home = prepare_home(default_home())
    # The supervisor ends first, because it would restart the parts.
    stop_supervisor(home)
    started = [part for part in all_parts(home) if part.process.was_started]
    # Airflow and MLflow use the base groups, so the base groups end last.
    base = [part for part in started if part.group in BASE_GROUPS]
    stop_parts([part for part in started if part not in base], typer.echo)
    stop_parts(base, typer.echo)
    if delete_data:
        # The servers of root keep their files outside of the home.
        remove_placed_files(home)
        shutil.rmtree(home)
        typer.echo(f"  {home} deleted")


def _confirm_deletion(*, is_confirmed: bool) -> None:
    """Refuse to delete a folder that nightshift did not make; ask before deleting its own.

    Raises:
        ServiceError: The home is not a folder that nightshift made.
    """
    from nightshift_local.home import check_deletable

    # The path as it was typed: a link must not delete another folder.
    check_deletable(named_home())
    if not is_confirmed:
        question = f"Delete {named_home()} with all its databases, objects and logs?"
        typer.confirm(question, abort=True)
