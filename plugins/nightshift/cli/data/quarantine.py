"""``nightshift quarantine``: what a person does with refused rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import Dataset, Day, actor, command_run
from nightshift.cli.console import print_table
from nightshift.contracts.partitions import EARLIEST_DAY, LATEST_DAY, Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

app = typer.Typer(
    help="Look at refused rows, correct and replay them, or dismiss them.", no_args_is_help=True
)
FIRST, LAST = EARLIEST_DAY.isoformat(), LATEST_DAY.isoformat()
Row = Annotated[int, typer.Argument(help="Number of the row, as `list` shows it.")]
Note = Annotated[str, typer.Option(help="Why; recorded with your name.")]


@app.command("list")
def list_refused(
    dataset: Dataset,
    first: Annotated[str, typer.Option("--from", help="First operating day.")] = FIRST,
    last: Annotated[str, typer.Option("--to", help="Last operating day, included.")] = LAST,
    state: Annotated[
        str, typer.Option(help="open, corrected, replayed, superseded or dismissed.")
    ] = "open",
) -> None:
    """List refused rows with file and reason; `show` prints their values."""
    from nightshift.quality.quarantine import QuarantineState, list_rows

    partitions = PartitionRange.of(first, last)
    with _quarantine() as conn:
        refused = list_rows(conn, f"raw/{dataset}", partitions, QuarantineState(state))
    # Refused values may be personal data: the list never shows them.
    rows = [
        (
            row.row_id,
            row.partition_date,
            row.reason,
            row.column_name or "-",
            row.source_row,
            row.source_uri,
        )
        for row in refused
    ]
    print_table(("row", "day", "reason", "column", "position", "file"), rows)
    typer.echo(f"{len(rows)} row(s) in state {state}")


@app.command()
def show(row: Row) -> None:
    """Show one refused row as it was delivered, and its state."""
    from nightshift.quality.quarantine import find_row

    with _quarantine() as conn:
        refused = find_row(conn, row)
    column = f" in {refused.column_name}" if refused.column_name else ""
    typer.echo(
        f"{refused.dataset} of {refused.partition_date},"
        f" position {refused.source_row} of {refused.source_uri}"
    )
    typer.echo(f"state {refused.state}; refused for {refused.reason}{column}")
    rows = [
        (name, "(empty)" if value is None else repr(value))
        for name, value in refused.delivered.items()
    ]
    print_table(("column", "delivered"), rows)


@app.command()
def correct(
    row: Row,
    values: Annotated[
        list[str],
        typer.Option(
            "--set", help="<column>=<text>, as a file would deliver it; empty text: no value."
        ),
    ],
    note: Note,
    at: Annotated[
        str,
        typer.Option(
            help="When the right value became known, ISO time with offset; now by default."
        ),
    ] = "",
) -> None:
    """Record the right values of a refused row; `replay` then ingests it."""
    from nightshift.contracts.datasets import load_contract
    from nightshift.ingestion.corrected_drop import refuse_unreadable
    from nightshift.quality.correction import correct_row
    from nightshift.quality.quarantine import find_row

    known_at = dt.datetime.now(dt.UTC)
    if at:
        known_at = dt.datetime.fromisoformat(at).astimezone(dt.UTC)
    corrections = _parse_corrections(values)
    with _quarantine() as conn:
        refused = find_row(conn, row)
        dataset = refused.dataset.removeprefix("raw/")
        contract = load_contract(load_settings().datasets_dir, dataset)
        # A correction that breaks the contract would be refused again at the replay.
        refuse_unreadable(contract, refused, corrections)
        corrected = correct_row(conn, row, corrections, known_at, actor(), note)
    typer.echo(f"row {row} is corrected, known at {known_at.isoformat()}. To ingest it:")
    typer.echo(f"nightshift quarantine replay {dataset} {corrected.partition_date}")


def _parse_corrections(values: list[str]) -> dict[str, str | None]:
    """Return the text of each column; None removes the value."""
    corrections: dict[str, str | None] = {}
    for value in values:
        # Only the first `=` separates: a text may contain more.
        name, _, text = value.partition("=")
        corrections[name] = text or None
    return corrections


@app.command()
def dismiss(row: Row, note: Note) -> None:
    """Settle a refused row that nobody needs; it stays on record."""
    from nightshift.quality.quarantine import QuarantineState, settle_rows

    with _quarantine() as conn:
        settle_rows(conn, [row], QuarantineState.DISMISSED, actor(), note)
    typer.echo(f"row {row} is dismissed")


@app.command()
def replay(dataset: Dataset, partition: Day) -> None:
    """Ingest a day's newest file with its corrected rows as a new delivery; safe to repeat."""
    from nightshift.ingestion.correction_replay import replay_corrections

    run = command_run(f"quarantine/{dataset}/{partition}")
    with _quarantine():
        result = replay_corrections(load_settings(), dataset, Partition.parse(partition).day, run)
    for row_id in result.superseded:
        typer.echo(f"row {row_id}: the newest delivery has no such row; superseded, not replayed")
    if result.data_key is None:
        typer.echo("nothing to replay")
        return
    n_replayed = len(result.replayed)
    typer.echo(f"{n_replayed} row(s) replayed by {result.data_key}, load {result.load_id}")
    typer.echo("Partitions to reprocess: nightshift redo --plan")


@contextmanager
def _quarantine() -> Iterator[Connection]:
    """Yield a connection whose role may read refused rows.

    Raises:
        QuarantineRightError: The role may not.
    """
    from nightshift.quality.correction import require_quarantine_access
    from nightshift.warehouse.connection import connect

    with connect(load_settings(), "nightshift quarantine") as conn:
        require_quarantine_access(conn)
        yield conn
