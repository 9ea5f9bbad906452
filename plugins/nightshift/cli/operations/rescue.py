"""``nightshift rescue``: publish the best predictions still possible before the deadline."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from nightshift.cli.arguments import Model, command_run
from nightshift.cli.recorded_command import recorded
from nightshift.contracts.partitions import Partition
from nightshift.settings import load_settings


@recorded("rescue", must_be_recorded=False)
def rescue(
    model: Model,
    partition_key: Annotated[
        str,
        typer.Option(
            "--night", help="Partition, YYYY-MM-DD; by default the last whose rescue time is over."
        ),
    ] = "",
) -> None:
    """Publish the best possible predictions of a partition unless it is published; idempotent.

    Does the same as the DAG rescue__<model>, for a person, or for cron when Airflow is down.
    """
    from nightshift.scoring.deadline_fallback import publish_by_deadline as publish_fallback
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.last_good_specs import spec_for_rescue

    settings = load_settings()
    # A wrong spec file must not stop a rescue: the last good spec scores then.
    with connect(settings, "nightshift rescue") as conn:
        spec = spec_for_rescue(conn, settings.models_dir, model)
    partition = spec.last_to_rescue(dt.datetime.now(dt.UTC))
    if partition_key:
        partition = Partition.parse(partition_key)
    run = command_run(f"rescue__{model}/{partition}")
    # Whoever calls this first publishes; the other one finds the partition published.
    result = publish_fallback(settings, spec, partition, run)
    line = f"predictions/{model} of {partition}: {result.outcome}"
    if result.load_id:
        line += f", {result.n_rows:,} rows in load {result.load_id}"
    if result.reason:
        line += f" ({result.reason})"
    typer.echo(line)
