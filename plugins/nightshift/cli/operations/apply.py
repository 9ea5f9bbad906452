"""``nightshift apply``: do exactly what a plan showed, or nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nightshift.cli.arguments import actor
from nightshift.cli.data.redo import print_changes
from nightshift.cli.recorded_command import recorded
from nightshift.settings import load_admin_settings, load_settings


def _changes_data(arguments: dict[str, Any]) -> bool:
    """Return whether readers see the change; an upgrade changes no row."""
    token: str = arguments["token"]
    return not token.startswith("migrate-")


# An upgrade makes the table of acts: it is recorded at its end.
@recorded("apply", needs_reason=_changes_data, must_be_recorded=_changes_data)
def apply(
    token: Annotated[
        str,
        typer.Argument(help="What `nightshift plan` printed."),
    ],
    reason: Annotated[
        str,
        typer.Option(help="Why; recorded with your name."),
    ] = "",
) -> None:
    """Do exactly what a plan shows; refused once an input, code or pointer has changed.

    A token is used once. After a kill it can be applied again.
    """
    from nightshift.plans.applying import apply_plan
    from nightshift.plans.migration import is_migration
    from nightshift.warehouse.control_tables.acts import note_run

    if is_migration(token):
        _migrate(token)
        return
    # What the plan's run publishes is read back into the record of the act.
    note_run(f"plan/{token}")
    settings = load_settings()
    applied = apply_plan(settings, token, reason, actor(), typer.echo)
    print_changes(applied.changes)
    n_changed = len(applied.changes)
    typer.echo(
        f"{applied.n_steps} step(s), {n_changed} partition(s) changed for readers;"
        f" {applied.seconds:.1f} s"
    )


def _migrate(token: str) -> None:
    """Upgrade the warehouse, if exactly what was planned is still pending."""
    from nightshift.cli.services.migrate import set_up
    from nightshift.plans.migration import refuse_stale_migration
    from nightshift.warehouse.connection import connect

    settings = load_admin_settings()
    with connect(settings, "nightshift apply") as conn:
        refuse_stale_migration(settings, conn, token)
    set_up(settings)
