"""``nightshift void``: say that a partition's earlier loads prove nothing about their inputs, so that a rerun may publish."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from nightshift.cli.console import say
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings


def void(
    dataset: Annotated[
        str, typer.Argument(help="Name in the ledger, for example predictions/flight_delayed.")
    ],
    partition: Annotated[str, typer.Argument(help="Operating day, YYYY-MM-DD.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
) -> None:
    """Let the next rerun of a partition publish other content from the same inputs (NS-WRITE-002). Changes no rows; recorded."""
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.damage import void_loads

    settings, day = load_settings(), Partition.parse(partition)
    run = RunContext(f"void/{dataset}/{day}", actor=f"cli:{getpass.getuser()}")
    with connect(settings, run.application_name) as conn:
        loads = void_loads(conn, dataset, day.day, reason, run)
    say(
        f"{dataset} of {day}: load(s) {', '.join(map(str, loads))} are void. Readers see what they saw; now rerun the stage."
    )
