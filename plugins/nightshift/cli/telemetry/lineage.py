"""``nightshift lineage``: the lineage events of a night, on the terminal or to a receiver."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from nightshift.contracts.partitions import Partition
from nightshift.errors import NightshiftError
from nightshift.settings import load_settings


class LineageOffError(NightshiftError):
    """Lineage events are to be sent, and no receiver is configured."""

    code = "NS-TELEMETRY-004"


def lineage(
    partition: Annotated[str, typer.Argument(help="Partition, YYYY-MM-DD.")],
    *,
    send: Annotated[
        bool,
        typer.Option(
            "--send", help="Send them all to the receiver of OPENLINEAGE_URL or openlineage.yml."
        ),
    ] = False,
) -> None:
    """Print the OpenLineage events of a night, one JSON document a line, or send them again."""
    from nightshift.telemetry.lineage.configuration import is_configured
    from nightshift.telemetry.otlp import require_package
    from nightshift.warehouse.connection import connect

    require_package("openlineage.client")
    from nightshift.telemetry.lineage.exporter import LineageExporter, as_document, night_events

    settings, day = load_settings(), Partition.parse(partition).day
    # Without a receiver the standard's client would print, and that would look like a success.
    if send and not is_configured():
        raise LineageOffError(
            "No receiver of lineage is configured.",
            expected="OPENLINEAGE_URL, or a file openlineage.yml",
            todo="Set one (docs/traces.md).",
        )
    # What was accepted before is sent again: a person asked for exactly that.
    with connect(settings, "nightshift lineage") as conn:
        if send:
            exporter = LineageExporter(settings)
            n_sent = sum(len(keys) for keys in exporter.send_night(conn, day, set()))
            typer.echo(f"{n_sent} events sent")
            return
        for event in night_events(settings, conn, day):
            typer.echo(json.dumps(as_document(event)))
