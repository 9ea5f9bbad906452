"""Arguments that several commands share, and the identity under which a command writes."""

from __future__ import annotations

import datetime as dt
import getpass
from pathlib import Path
from typing import Annotated

import typer

from nightshift.contracts.partitions import EARLIEST_DAY, LATEST_DAY, Partition
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError

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


class InstantError(NightshiftError):
    """An argument is not an instant, or one beyond the calendar."""

    code = "NS-TIME-007"


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


def instant_or_now(text: str, zone: dt.tzinfo | None = None) -> dt.datetime:
    """Return the instant of an option in UTC; the present if it was left out.

    Args:
        text: ISO 8601.
        zone: Of a time without an offset; None takes the machine's own.

    Raises:
        InstantError: It is no instant, or beyond the calendar that we can compute with.
    """
    if not text:
        return dt.datetime.now(dt.UTC)
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        raise _instant_error(text) from None
    # Before any zone is applied: near the ends of the calendar that overflows.
    if not EARLIEST_DAY <= at.date() <= LATEST_DAY:
        raise _instant_error(text)
    if at.tzinfo is None and zone is not None:
        at = at.replace(tzinfo=zone)
    return at.astimezone(dt.UTC)


def _instant_error(text: str) -> InstantError:
    return InstantError(
        "The argument is not an instant.",
        expected=f"ISO 8601, for example 2013-03-05T04:30, from {EARLIEST_DAY} to {LATEST_DAY}",
        got=repr(text[:40]),
        todo="Correct it.",
    )
