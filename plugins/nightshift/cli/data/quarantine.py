"""``nightshift quarantine``: what a person does with refused rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import Dataset, Day, Reason, actor, command_run, instant_or_now
from nightshift.cli.console import print_table
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import EARLIEST_DAY, LATEST_DAY, Partition, PartitionRange
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

app = typer.Typer(
    help="Look at refused rows, correct and replay them, or dismiss them.",
    no_args_is_help=True,
)
Row = Annotated[
    int,
    typer.Argument(help="Number of the row, as `list` shows it."),
]


@app.command("list")
def list_refused(
    dataset: Dataset,
    first: Annotated[
        str,
        typer.Option("--from", help="First operating day."),
    ] = EARLIEST_DAY.isoformat(),
    last: Annotated[
        str,
        typer.Option("--to", help="Last operating day, included."),
    ] = LATEST_DAY.isoformat(),
    state: Annotated[
        str,
        typer.Option(help="open, corrected, replayed, superseded or dismissed."),
    ] = "open",
) -> None:
    """List refused rows with file and reason; `show` prints their values."""
    from nightshift.quality.quarantine import QuarantineState, list_rows

    partitions = PartitionRange.of(first, last)
    requested = QuarantineState(state)
    with _quarantine() as conn:
        refused = list_rows(conn, f"raw/{dataset}", partitions, requested)
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
    headers = ("row", "day", "reason", "column", "position", "file")
    print_table(headers, rows)
    typer.echo(f"{len(rows)} row(s) in state {state}")


@app.command()
def show(row: Row) -> None:
    """Show one refused row as it was delivered, and its state."""
    from nightshift.quality.quarantine import find_row

    with _quarantine() as conn:
        refused = find_row(conn, row)
    position = f"position {refused.source_row} of {refused.source_uri}"
    typer.echo(f"{refused.dataset} of {refused.partition_date}, {position}")
    reason = refused.reason
    if refused.column_name:
        reason += f" in {refused.column_name}"
    typer.echo(f"state {refused.state}; refused for {reason}")
    rows = []
    for name, value in refused.delivered.items():
        # `repr` shows blanks at the ends, which would not be seen.
        delivered = "(empty)" if value is None else repr(value)
        rows.append((name, delivered))
    print_table(("column", "delivered"), rows)


@app.command()
@recorded("quarantine.correct", needs_reason=True, private=("values",))
def correct(
    row: Row,
    values: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="<column>=<text>, as a file would deliver it; empty text: no value.",
        ),
    ],
    note: Reason,
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

    known_at = instant_or_now(at)
    corrections = _parse_corrections(values)
    with _quarantine() as conn:
        refused = find_row(conn, row)
        dataset = refused.dataset.removeprefix("raw/")
        datasets_dir = load_settings().datasets_dir
        contract = load_contract(datasets_dir, dataset)
        # A correction that breaks the contract would be refused again at the replay.
        refuse_unreadable(contract, refused, corrections)
        corrected = correct_row(
            conn,
            row,
            corrections,
            known_at,
            actor(),
            note,
        )
    # Nothing is ingested yet: a person corrects all rows of a file, then replays them together.
    typer.echo(f"row {row} is corrected, known at {known_at.isoformat()}. To ingest it:")
    day = corrected.partition_date
    typer.echo(f'nightshift quarantine replay {dataset} {day} --reason "…"')


def _parse_corrections(values: list[str]) -> dict[str, str | None]:
    """Return the text of each column; None removes the value."""
    corrections: dict[str, str | None] = {}
    for value in values:
        # Only the first `=` separates: a text may contain more.
        name, _, text = value.partition("=")
        corrections[name] = text or None
    return corrections


@app.command()
@recorded("quarantine.dismiss", needs_reason=True)
def dismiss(row: Row, note: Reason) -> None:
    """Settle a refused row that nobody needs; it stays on record."""
    from nightshift.quality.quarantine import QuarantineState, settle_rows

    with _quarantine() as conn:
        settle_rows(
            conn,
            [row],
            QuarantineState.DISMISSED,
            actor(),
            note,
        )
    typer.echo(f"row {row} is dismissed")


@app.command()
@recorded("quarantine.replay", needs_reason=True)
def replay(dataset: Dataset, partition: Day) -> None:
    """Ingest a day's newest file with its corrected rows as a new delivery; safe to repeat."""
    from nightshift.ingestion.correction_replay import replay_corrections

    run = command_run(f"quarantine/{dataset}/{partition}")
    day = Partition.parse(partition).day
    # Opened only for its check: a role that may not read refused rows may not replay them either.
    # `replay_corrections` opens a connection of its own.
    with _quarantine():
        result = replay_corrections(load_settings(), dataset, day, run)
    for row_id in result.superseded:
        typer.echo(f"row {row_id}: the newest delivery has no such row; superseded, not replayed")
    if result.data_key is None:
        typer.echo("nothing to replay")
        return
    n_replayed = len(result.replayed)
    typer.echo(f"{n_replayed} row(s) replayed by {result.data_key}, load {result.load_id}")
    # Features and predictions of the day still know only the rows of before.
    typer.echo("Partitions to reprocess: nightshift plan redo")


@contextmanager
def _quarantine() -> Iterator[Connection]:
    """Yield a connection whose role may read refused rows.

    Raises:
        QuarantineRightError: The role may not.
    """
    from nightshift.quality.correction import require_quarantine_access
    from nightshift.warehouse.connection import connect

    settings = load_settings()
    with connect(settings, "nightshift quarantine") as conn:
        require_quarantine_access(conn)
        yield conn
