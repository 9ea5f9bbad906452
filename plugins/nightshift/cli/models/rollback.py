"""``nightshift rollback``: make an earlier champion serve again."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from nightshift.cli.arguments import command_run, optional_partition
from nightshift.cli.recorded_command import recorded
from nightshift.settings import load_settings


@recorded("rollback", needs_reason=True)
def rollback(
    model: Annotated[
        str,
        typer.Argument(help="Name of the spec."),
    ],
    to: Annotated[
        int,
        typer.Option("--to", help="The former champion's version."),
    ],
    since: Annotated[
        str,
        typer.Option(
            help="First partition to repair; by default the first that its successors scored."
        ),
    ] = "",
    reason: Annotated[
        str,
        typer.Option(help="Why; kept in the record."),
    ] = "",
) -> None:
    """Make an earlier champion serve again, and republish what its successors scored.

    Safe to repeat. `nightshift plan rollback` shows it before.
    """
    from nightshift.contracts.model_spec import load_spec
    from nightshift.scoring.republish import plan_rollback, roll_back

    started = time.monotonic()
    settings = load_settings()
    spec = load_spec(settings.models_dir, model)
    run = command_run(f"rollback/{model}/v{to}")
    first = optional_partition(since)
    # A version that does not load or score fails here, before the champion changes.
    repair = plan_rollback(settings, spec, to, first, run)
    typer.echo(f"Version {to} loads, passes its checks and scores.")

    repaired = roll_back(settings, spec, repair, reason, run, typer.echo)
    # A partition whose published content is equal is not written again.
    n_changed = sum(load.is_new for load in repaired.published)
    n_equal = len(repaired.published) - n_changed
    seconds = time.monotonic() - started
    record = repaired.promotion_id
    typer.echo(f"Version {to} is champion from {repair.since} on (record {record}).")
    typer.echo(
        f"{n_changed} partition(s) changed, {n_equal} already held its predictions;"
        f" {seconds:.1f} s."
    )
