"""``nightshift telemetry``: send traces and lineage that receivers have not accepted yet."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.errors import NightshiftError, cause_of
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.telemetry.export_round import RoundResult


def telemetry(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Do one round and end; 1 if something was not taken.")
    ] = False,
    every: Annotated[int, typer.Option(help="Seconds between two rounds.", min=5)] = 60,
) -> None:
    """Send new spans and lineage events from the ledger to the receivers that are configured.

    Traces: OTEL_EXPORTER_OTLP_ENDPOINT. Lineage: OPENLINEAGE_URL or openlineage.yml. Needs no
    Airflow; where Airflow has these variables, its DAG `telemetry` does the same.
    """
    from nightshift.telemetry.export_round import export_new, is_on

    if not is_on():
        typer.echo("Nothing is sent: no receiver is configured (docs/traces.md).")
        return
    # Rounds begin at a steady pace, however long one takes.
    while True:
        started = time.monotonic()
        try:
            results = export_new(load_settings())
        except NightshiftError as error:
            # A warehouse that is away for a minute must not end it.
            sys.stderr.write(f"{cause_of(error)}\n")
            if once:
                raise typer.Exit(1) from None
        else:
            has_problem = report(results)
            if once:
                raise typer.Exit(int(has_problem))
        time.sleep(max(0.0, every - (time.monotonic() - started)))


def report(results: Sequence[RoundResult]) -> bool:
    """Print what was sent and what was not; return whether something was not."""
    for result in results:
        if result.n_sent:
            typer.echo(f"{result.receiver}: {result.n_sent} sent")
        if result.problem:
            sys.stderr.write(f"{result.receiver}: {result.problem}\n")
    return any(result.problem for result in results)
