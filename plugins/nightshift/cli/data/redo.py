"""``nightshift redo``: reprocess what late and corrected data touches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import command_run, optional_partition
from nightshift.cli.console import print_table
from nightshift.cli.recorded_command import recorded
from nightshift.settings import load_settings

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.reprocess.changes import Change
    from nightshift.reprocess.execution import ReprocessResult

MAX_ROWS = 40
"""Changed partitions that a terminal shows."""
HASH_CHARACTERS = 12


@recorded("redo", needs_reason=True)
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
) -> None:
    """Reprocess what late or corrected data touches, from ingest to monitor; safe to repeat.

    Exits with 1 when something remains. `nightshift plan redo` shows it before.
    """
    from nightshift.contracts.datasets import load_contract
    from nightshift.reprocess.execution import reprocess
    from nightshift.reprocess.scope import Scope

    settings = load_settings()
    if dataset:
        # A mistyped name is an error, not a plan without work.
        load_contract(settings.datasets_dir, dataset)
    scope = Scope(dataset, _day(first), _day(last), reread)
    run = command_run(f"redo/{dataset or 'all'}")
    result = reprocess(settings, scope, run, typer.echo)
    print_result(result)
    if result.left:
        raise typer.Exit(1)


def _day(key: str) -> dt.date | None:
    partition = optional_partition(key)
    return partition.day if partition else None


def print_result(result: ReprocessResult) -> None:
    """Print what changed for readers, with the hashes before and after, and what remains."""
    n_changed = len(result.changes)
    typer.echo(f"\n{result.n_done} partition(s) reprocessed, {n_changed} changed for readers")
    print_changes(result.changes)
    typer.echo("remaining:" if result.left else "remaining: none")
    for line in result.left:
        typer.echo(f"  {line}")


def print_changes(changes: Sequence[Change]) -> None:
    """Print the partitions that changed for readers, with their hashes; of many, the first ones."""
    rows = []
    for change in changes[:MAX_ROWS]:
        # A partition that was not published before has no hash.
        before = change.before or "-"
        row = (
            change.dataset,
            change.day,
            before[:HASH_CHARACTERS],
            change.after[:HASH_CHARACTERS],
        )
        rows.append(row)
    if rows:
        headers = ("dataset", "day", "before", "after")
        print_table(headers, rows)
    n_left_out = len(changes) - len(rows)
    if n_left_out:
        # The number of each dataset, for a table that was cut.
        totals = Counter(change.dataset for change in changes)
        counts = [f"{dataset}: {n}" for dataset, n in totals.items()]
        typer.echo(f"… and {n_left_out} more")
        typer.echo(", ".join(counts))
