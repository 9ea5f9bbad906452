"""Arguments that several commands share, and the identity under which a command writes."""

from __future__ import annotations

import datetime as dt
import getpass
from pathlib import Path
from typing import Annotated

import typer

from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext

# A name of the type keeps the words of an argument the same in every command.
Model = Annotated[str, typer.Argument(help="Name of the model.")]
Dataset = Annotated[str, typer.Argument(help="Name of the dataset's contract.")]
Day = Annotated[str, typer.Argument(help="Operating day, YYYY-MM-DD.")]
First = Annotated[str, typer.Argument(help="First partition, YYYY-MM-DD.")]
Last = Annotated[str, typer.Argument(help="Last partition, included; the first by default.")]
Key = Annotated[
    str,
    typer.Argument(help="Entity key of a prediction, such as 2013-03-10_UA_1545_EWR."),
]
PredictedOn = Annotated[
    str,
    typer.Option(
        "--partition",
        help="Night that predicted, YYYY-MM-DD; by default the entity's last.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Into = Annotated[Path, typer.Option(help="Folder to write to.")]
Reason = Annotated[str, typer.Option(help="Why; recorded with your name.")]


def actor() -> str:
    """Return the name of the person at the keyboard, as the ledger records it."""
    return f"cli:{getpass.getuser()}"


def command_run(run_id: str) -> RunContext:
    """Return the run of one command, started by the person at the keyboard."""
    from nightshift.warehouse.control_tables.acts import note_run

    # What the run publishes is read back into the record of the act.
    note_run(run_id)
    return RunContext(run_id, actor=actor())


def optional_partition(key: str) -> Partition | None:
    """Return the partition of an option; None if it was left out."""
    if not key:
        return None
    return Partition.parse(key)


def instant_or_now(text: str) -> dt.datetime:
    """Return the instant of an option in UTC; the present if it was left out."""
    if not text:
        return dt.datetime.now(dt.UTC)
    # A time without an offset is read in the machine's own zone.
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
