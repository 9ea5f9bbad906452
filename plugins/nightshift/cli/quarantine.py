"""``nightshift quarantine list | show | correct | dismiss | replay``: what a person does with refused rows."""

from __future__ import annotations

import datetime as dt
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.contracts.partitions import EARLIEST_DAY, LATEST_DAY, Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

app = typer.Typer(
    help="Refused rows: look at them, correct and replay them, or dismiss them.",
    no_args_is_help=True,
)
FIRST, LAST = EARLIEST_DAY.isoformat(), LATEST_DAY.isoformat()
Dataset = Annotated[str, typer.Argument(help="Name of the dataset's contract.")]
Row = Annotated[int, typer.Argument(help="Number of the row, as `list` shows it.")]
Note = Annotated[str, typer.Option(help="Why; kept with your name.")]


@contextmanager
def _quarantine() -> Iterator[Connection]:
    from nightshift.quality.correction import require_quarantine_access
    from nightshift.warehouse.connection import connect

    with connect(load_settings(), "nightshift quarantine") as conn:
        require_quarantine_access(conn)
        yield conn


def _actor() -> str:
    return f"cli:{getpass.getuser()}"


@app.command("list")
def list_refused(
    dataset: Dataset,
    first: Annotated[str, typer.Option("--from", help="First operating day.")] = FIRST,
    last: Annotated[str, typer.Option("--to", help="Last operating day, included.")] = LAST,
    state: Annotated[
        str, typer.Option(help="open, corrected, replayed, superseded or dismissed.")
    ] = "open",
) -> None:
    """List refused rows, where they came from and why; their values are shown by `show` only."""
    from nightshift.quality.quarantine import QuarantineState, list_rows

    with _quarantine() as conn:
        rows = list_rows(
            conn, f"raw/{dataset}", PartitionRange.of(first, last), QuarantineState(state)
        )
    shown = [
        (
            str(row.row_id),
            str(row.partition_date),
            row.reason,
            row.column_name or "-",
            str(row.source_row),
            row.source_uri,
        )
        for row in rows
    ]
    print_table(("row", "day", "reason", "column", "position", "file"), shown)
    say(f"{len(shown)} row(s) in state {state}")


@app.command()
def show(row: Row) -> None:
    """Show one refused row as it was delivered, and what became of it."""
    from nightshift.quality.quarantine import find_row

    with _quarantine() as conn:
        found = find_row(conn, row)
    say(
        f"{found.dataset} of {found.partition_date}, position {found.source_row} of {found.source_uri}"
    )
    say(
        f"state {found.state}; refused for {found.reason}{f' in {found.column_name}' if found.column_name else ''}"
    )
    print_table(
        ("column", "delivered"),
        [
            (name, repr(text) if text is not None else "(empty)")
            for name, text in found.delivered.items()
        ],
    )


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
    """Say what a refused row should have said; `replay` then ingests it."""
    from nightshift.contracts.datasets import load_contract
    from nightshift.ingestion.corrected_drop import refuse_unreadable
    from nightshift.quality.correction import correct_row
    from nightshift.quality.quarantine import find_row

    known_at = dt.datetime.fromisoformat(at).astimezone(dt.UTC) if at else dt.datetime.now(dt.UTC)
    given = {name: text or None for name, _, text in (value.partition("=") for value in values)}
    with _quarantine() as conn:
        refused = find_row(conn, row)
        contract = load_contract(load_settings().datasets_dir, refused.dataset.removeprefix("raw/"))
        refuse_unreadable(contract, refused, given)
        found = correct_row(conn, row, given, known_at, _actor(), note)
    say(f"row {row} is corrected, known at {known_at.isoformat()}. To ingest it:")
    say(f"nightshift quarantine replay {found.dataset.removeprefix('raw/')} {found.partition_date}")


@app.command()
def dismiss(row: Row, note: Note) -> None:
    """Settle a refused row that nobody needs; it stays on record."""
    from nightshift.quality.quarantine import QuarantineState, settle_rows

    with _quarantine() as conn:
        settle_rows(conn, [row], QuarantineState.DISMISSED, _actor(), note)
    say(f"row {row} is dismissed")


@app.command()
def replay(
    dataset: Dataset, partition: Annotated[str, typer.Argument(help="Operating day, YYYY-MM-DD.")]
) -> None:
    """Ingest the corrected rows of a day: its newest file with the right values, as a new delivery. Safe to repeat."""
    from nightshift.ingestion.corrected_drop import replay_corrections

    with _quarantine():
        run = RunContext(f"quarantine/{dataset}/{partition}", actor=_actor())
        result = replay_corrections(load_settings(), dataset, Partition.parse(partition).day, run)
    for row_id in result.superseded:
        say(f"row {row_id}: the newest delivery has no such row; superseded, not replayed")
    if result.data_key is None:
        say("nothing to replay")
        return
    say(f"{len(result.replayed)} row(s) replayed by {result.data_key}, load {result.load_id}")
    say("What later nights must do again: nightshift redo --plan")
