"""``nightshift watch``: evaluate what is broken, each minute and outside of Airflow."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import instant_or_now
from nightshift.errors import NightshiftError, cause_of
from nightshift.settings import default_home, load_settings

if TYPE_CHECKING:
    from nightshift.incidents.evaluation import Evaluation

COULD_NOT_LOOK = 2
"""Exit code of check-freshness for a check that could not run. Source: docs/freshness.md."""


def watch(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Evaluate once and end, for cron and systemd.")
    ] = False,
    every: Annotated[int, typer.Option(help="Seconds between two evaluations.", min=5)] = 60,
    at: Annotated[
        str, typer.Option(help="Compare deadlines with this instant, ISO 8601; now by default.")
    ] = "",
) -> None:
    """Open and close incidents by what is true now; needs no running Airflow.

    With --once it exits with 0 after an evaluation, whatever is broken, and with 2 if it could not
    look.
    """
    while True:
        started = time.monotonic()
        try:
            evaluation = evaluate_now(at)
        # A warehouse that is away for a minute must not end the watch.
        except Exception as error:  # noqa: BLE001
            reason = str(error) if isinstance(error, NightshiftError) else cause_of(error)
            sys.stderr.write(f"Nobody could look.\n{reason}\n")
            if once:
                raise typer.Exit(COULD_NOT_LOOK) from None
        else:
            _report(evaluation)
            if once:
                return
        time.sleep(max(0.0, every - (time.monotonic() - started)))


def evaluate_now(at: str = "") -> Evaluation:
    """Evaluate all rules, with this machine's own Airflow if there is one.

    Args:
        at: Instant of the deadlines, ISO 8601; now if empty.

    Raises:
        WarehouseError: The warehouse cannot be reached or written.
    """
    from nightshift.incidents.evaluation import evaluate
    from nightshift_local.airflow_api import AirflowApi

    # Only the local Airflow has an address here; its absence is an incident, and no error.
    airflow = AirflowApi.find(default_home())
    return evaluate(load_settings(), at=instant_or_now(at), airflow=airflow)


def _report(evaluation: Evaluation) -> None:
    """Print what changed; nothing while all stays as it was."""
    from nightshift.cli.operations.incidents import describe
    from nightshift.incidents.records import find_incidents
    from nightshift.warehouse.connection import connect

    changed = {
        "opened": evaluation.opened,
        "worse": evaluation.worsened,
        "closed": evaluation.closed,
    }
    numbers = sorted({*evaluation.opened, *evaluation.worsened, *evaluation.closed})
    # Nothing is printed while all stays as it was: cron would mail it each minute.
    if not numbers:
        return
    with connect(load_settings(), "nightshift watch") as conn:
        incidents = {each.incident_id: each for each in find_incidents(conn, numbers)}
    for word, group in changed.items():
        for number in group:
            incident = incidents[number]
            lines = describe(incident) if word != "closed" else [incident.what]
            typer.echo(f"{word} {number}: " + "\n".join(lines))
