"""``nightshift end-run``: end the active runs of a partition that nobody needs."""

from __future__ import annotations

from typing import Annotated

import typer

from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import PartitionKeyError
from nightshift.settings import default_home

ENDED = frozenset({"success", "failed"})


@recorded("end-run", must_be_recorded=False)
def end_run(
    dag: Annotated[
        str,
        typer.Argument(help="Name of the DAG."),
    ],
    day: Annotated[
        str,
        typer.Argument(help="Partition key of its run, also a mistyped one."),
    ],
) -> None:
    """Mark the queued and running runs of a DAG for a day as failed; no data is changed."""
    from nightshift_local.airflow_api import AirflowApi

    # The key is not parsed as a day: a mistyped key is what some of these runs have.
    api = AirflowApi.local(default_home())
    runs = [run for run in api.runs(day) if run.dag_id == dag]
    active = [run for run in runs if run.state not in ENDED]
    if not active:
        raise PartitionKeyError(
            f"{dag} has no active run of {day}.",
            expected="a day with a run that is queued or running",
            todo="`nightshift status` names the runs that wait.",
        )
    for run in active:
        api.fail(run)
        typer.echo(f"{run.dag_id} of {run.partition_key}: ended ({run.run_id})")
