"""``nightshift rollback``: make an earlier champion serve again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import command_run, optional_partition
from nightshift.cli.recorded_command import recorded
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.scoring.republish import RollbackPlan


@recorded("rollback", needs_reason=True, unless="plan")
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
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only try the version and show what would be republished."),
    ] = False,
) -> None:
    """Make an earlier champion serve again, and republish what its successors scored.

    Safe to repeat.
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
    _print_plan(repair)
    if plan:
        return

    reason = reason or "no reason given"
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


def _print_plan(plan: RollbackPlan) -> None:
    typer.echo(
        f"Version {plan.version} loads, passes its checks and scores;"
        f" it serves from {plan.since} on."
    )
    typer.echo(f"{plan.n_partitions} published partition(s) to repair:")
    for partition_run in plan.partition_runs:
        source = "to be scored again"
        if partition_run.reusable_loads:
            source = "from stored loads"
        typer.echo(f"  {partition_run.partitions}: {source}")
