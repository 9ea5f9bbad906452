"""``nightshift redo``: reprocess what late and corrected data touches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import command_run, optional_partition
from nightshift.cli.console import print_table
from nightshift.cli.recorded_command import recorded
from nightshift.settings import load_settings

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.reprocess.execution import ReprocessResult
    from nightshift.reprocess.plan import ReprocessPlan

MAX_ROWS = 40
"""Rows of one table that a terminal shows."""
HASH_CHARACTERS = 12

Row = tuple[object, ...]


@recorded("redo", needs_reason=True, unless="plan")
def redo(
    dataset: Annotated[
        str,
        typer.Option(help="Only late drops of this dataset; all by default."),
    ] = "",
    first: Annotated[
        str,
        typer.Option("--from", help="Only late drops of this operating day and later."),
    ] = "",
    last: Annotated[
        str,
        typer.Option("--to", help="Only late drops up to this operating day."),
    ] = "",
    reread: Annotated[
        bool,
        typer.Option(
            "--reread",
            help="Reload drops that were loaded under another contract than today's.",
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only show holes, late arrivals and what they touch; write nothing.",
        ),
    ] = False,
) -> None:
    """Reprocess what late or corrected data touches, from ingest to monitor; safe to repeat.

    Exits with 1 when something remains.
    """
    from nightshift.contracts.datasets import load_contract
    from nightshift.reprocess.execution import reprocess
    from nightshift.reprocess.plan import make_plan
    from nightshift.reprocess.scope import Scope
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    if dataset:
        # A mistyped name is an error, not a plan without work.
        load_contract(settings.datasets_dir, dataset)
    scope = Scope(dataset, _day(first), _day(last), reread)
    with connect(settings, "nightshift redo") as conn:
        planned = make_plan(settings, conn, scope)
    # Printed before any work, so that a person can stop it.
    print_plan(planned)
    if plan or planned.is_empty:
        return
    typer.echo("")
    run = command_run(f"redo/{dataset or 'all'}")
    # The plan is made again: more may have arrived while a person read this one.
    result = reprocess(settings, scope, run, typer.echo)
    print_result(result)
    if result.left:
        raise typer.Exit(1)


def _day(key: str) -> dt.date | None:
    partition = optional_partition(key)
    return partition.day if partition else None


def print_plan(plan: ReprocessPlan) -> None:
    """Print holes, late arrivals, and the partitions to reprocess in order, with the reason."""
    n_missing = len(plan.missing_drops)
    typer.echo(f"holes: {n_missing} drop(s) that upstream has not delivered")
    headers = ("dataset", "day", "there is", "nights that wait")
    holes = map(attrgetter("dataset", "day", "status", "n_waiting"), plan.missing_drops)
    _print_rows(headers, list(holes))

    n_late = len(plan.late)
    typer.echo(f"late arrivals: {n_late} drop(s) that landed and are not loaded")
    _print_rows(("dataset", "day", "known at", "file"), _late_rows(plan))

    steps = _step_rows(plan)
    typer.echo(f"to reprocess: {len(steps)} partition(s), in this order")
    _print_rows(("stage", "dataset", "day", "because"), steps)
    for note in plan.notes:
        typer.echo(f"not reprocessed: {note}")


def _late_rows(plan: ReprocessPlan) -> list[Row]:
    rows: list[Row] = []
    for drop in plan.late:
        known_at = f"{drop.delivered_at:%Y-%m-%d %H:%M} UTC"
        rows.append((drop.dataset, drop.partition, known_at, drop.data_key))
    return rows


def _step_rows(plan: ReprocessPlan) -> list[Row]:
    """Return the stale partitions in the order of the work."""
    # A stage reads what the one before it wrote.
    stages = {
        "transform": plan.features,
        "score": plan.predictions,
        "monitor": plan.verdicts,
    }
    rows: list[Row] = []
    for stage, partitions in stages.items():
        for stale in partitions:
            row = (stage, stale.dataset, stale.day, stale.reason)
            rows.append(row)
    return rows


def print_result(result: ReprocessResult) -> None:
    """Print what changed for readers, with the hashes before and after, and what remains."""
    n_changed = len(result.changes)
    typer.echo(f"\n{result.n_done} partition(s) reprocessed, {n_changed} changed for readers")
    rows: list[Row] = []
    for change in result.changes:
        # A partition that was not published before has no hash.
        before = (change.before or "-")[:HASH_CHARACTERS]
        after = change.after[:HASH_CHARACTERS]
        rows.append((change.dataset, change.day, before, after))
    _print_rows(("dataset", "day", "before", "after"), rows)
    if n_changed > MAX_ROWS:
        _print_totals(result)
    typer.echo("remaining:" if result.left else "remaining: none")
    for line in result.left:
        typer.echo(f"  {line}")


def _print_totals(result: ReprocessResult) -> None:
    """Print the number of changed partitions of each dataset, for a table that was cut."""
    totals = Counter(change.dataset for change in result.changes)
    counts = [f"{dataset}: {n}" for dataset, n in totals.items()]
    typer.echo(", ".join(counts))


def _print_rows(headers: Sequence[str], rows: Sequence[Row]) -> None:
    """Print the first rows of a table and the number of the rows that are left out."""
    if rows:
        print_table(headers, rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        typer.echo(f"… and {len(rows) - MAX_ROWS} more")
