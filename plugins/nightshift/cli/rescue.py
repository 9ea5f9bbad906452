"""``nightshift rescue``: what the DAG ``rescue__<model>`` does, for a person, or for cron when Airflow is down."""

from __future__ import annotations

import datetime as dt
import getpass
from typing import Annotated

import typer

from nightshift.cli.console import say
from nightshift.contracts.partitions import Partition
from nightshift.contracts.run import RunContext
from nightshift.settings import load_settings


def rescue(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    night: Annotated[
        str,
        typer.Option(help="Partition, YYYY-MM-DD; by default the last whose rescue time is over."),
    ] = "",
) -> None:
    """Publish the best possible predictions of a night unless it is published; harmless as often as you like."""
    from nightshift.scoring.deadline_fallback import publish_by_deadline as look
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.last_good_specs import spec_for_rescue

    settings = load_settings()
    with connect(settings, "nightshift rescue") as conn:
        spec = spec_for_rescue(conn, settings.models_dir, model)
    partition = Partition.parse(night) if night else spec.last_to_rescue(dt.datetime.now(dt.UTC))
    found = look(
        settings,
        spec,
        partition,
        RunContext(f"rescue__{model}/{partition}", actor=f"cli:{getpass.getuser()}"),
    )
    rows = f", {found.n_rows:,} rows in load {found.load_id}" if found.load_id else ""
    say(
        f"predictions/{model} of {partition}: {found.outcome}{rows}{f' ({found.reason})' if found.reason else ''}"
    )
