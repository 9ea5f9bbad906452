"""``nightshift void``: let a rerun publish other content from the same inputs."""

from __future__ import annotations

from typing import Annotated

import typer

from nightshift.cli.arguments import Day, Reason, command_run
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings


@recorded("void", needs_reason=True)
def void(
    dataset: Annotated[
        str, typer.Argument(help="Name in the ledger, for example predictions/churn.")
    ],
    partition: Day,
    reason: Reason,
) -> None:
    """Let the next rerun of a partition publish other content from the same inputs (NS-WRITE-002).

    Changes no rows; the ledger records it.
    """
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.damage import void_loads

    settings = load_settings()
    day = Partition.parse(partition)
    run = command_run(f"void/{dataset}/{day}")
    with connect(settings, run.application_name) as conn:
        loads = void_loads(conn, dataset, day.day, reason, run)
    voided = ", ".join(map(str, loads))
    typer.echo(
        f"{dataset} of {day}: load(s) {voided} are void."
        " Nothing changes for readers until you rerun the stage."
    )
