"""``nightshift redo``: reprocess what late and corrected data touches."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import command_run
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.reprocess.execution import ReprocessResult
    from nightshift.reprocess.plan import ReprocessPlan

MAX_ROWS = 40
"""Rows of one table that a terminal shows."""
HASH_CHARACTERS = 12


def redo(
    dataset: Annotated[
        str, typer.Option(help="Only late drops of this dataset; all by default.")
    ] = "",
    first: Annotated[
        str, typer.Option("--from", help="Only late drops of this operating day and later.")
    ] = "",
    last: Annotated[
        str, typer.Option("--to", help="Only late drops up to this operating day.")
    ] = "",
    reread: Annotated[
        bool,
        typer.Option(
            "--reread", help="Reload drops that were loaded under another contract than today's."
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Only show holes, late arrivals and what they touch; write nothing."
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
    result = reprocess(settings, scope, command_run(f"redo/{dataset or 'all'}"), typer.echo)
    print_result(result)
    if result.left:
        raise typer.Exit(1)


def _day(key: str) -> dt.date | None:
    return Partition.parse(key).day if key else None


def print_plan(plan: ReprocessPlan) -> None:
    """Print holes, late arrivals, and the partitions to reprocess in order, with the reason."""
    typer.echo(f"holes: {len(plan.missing_drops)} drop(s) that upstream has not delivered")
    _print_rows(
        ("dataset", "day", "there is", "nights that wait"),
        [(drop.dataset, drop.day, drop.status, drop.n_waiting) for drop in plan.missing_drops],
    )
    typer.echo(f"late arrivals: {len(plan.late)} drop(s) that landed and are not loaded")
    _print_rows(
        ("dataset", "day", "known at", "file"),
        [
            (
                drop.dataset,
                drop.partition,
                f"{drop.delivered_at:%Y-%m-%d %H:%M} UTC",
                drop.data_key,
            )
            for drop in plan.late
        ],
    )
    stages = (
        ("transform", plan.features),
        ("score", plan.predictions),
        ("monitor", plan.verdicts),
    )
    rows: list[tuple[object, ...]] = []
    for stage, partitions in stages:
        rows += [(stage, stale.dataset, stale.day, stale.reason) for stale in partitions]
    typer.echo(f"to reprocess: {len(rows)} partition(s), in this order")
    _print_rows(("stage", "dataset", "day", "because"), rows)
    for note in plan.notes:
        typer.echo(f"not reprocessed: {note}")


def print_result(result: ReprocessResult) -> None:
    """Print what changed for readers, with the hashes before and after, and what remains."""
    n_changed = len(result.changes)
    typer.echo(f"\n{result.n_done} partition(s) reprocessed, {n_changed} changed for readers")
    rows = []
    for change in result.changes:
        before = (change.before or "-")[:HASH_CHARACTERS]
        after = change.after[:HASH_CHARACTERS]
        rows.append((change.dataset, change.day, before, after))
    _print_rows(("dataset", "day", "before", "after"), rows)
    if n_changed > MAX_ROWS:
        n_by_dataset = Counter(change.dataset for change in result.changes)
        typer.echo(", ".join(f"{dataset}: {n}" for dataset, n in n_by_dataset.items()))
    typer.echo("remaining:" if result.left else "remaining: none")
    for line in result.left:
        typer.echo(f"  {line}")


def _print_rows(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print the first rows of a table and the number of the rows that are left out."""
    if rows:
        print_table(headers, rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        typer.echo(f"… and {len(rows) - MAX_ROWS} more")
