"""Arguments that several commands share, and the identity under which a command writes."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from nightshift.contracts.run import RunContext

Model = Annotated[str, typer.Argument(help="Name of the model.")]
Dataset = Annotated[str, typer.Argument(help="Name of the dataset's contract.")]
Day = Annotated[str, typer.Argument(help="Operating day, YYYY-MM-DD.")]
First = Annotated[str, typer.Argument(help="First partition, YYYY-MM-DD.")]
Last = Annotated[str, typer.Argument(help="Last partition, included; the first by default.")]
Reason = Annotated[str, typer.Option(help="Why; recorded with your name.")]


def actor() -> str:
    """Return the name of the person at the keyboard, as the ledger records it."""
    return f"cli:{getpass.getuser()}"


def command_run(run_id: str) -> RunContext:
    """Return the run of one command, started by the person at the keyboard."""
    return RunContext(run_id, actor=actor())
