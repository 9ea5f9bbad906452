"""``nightshift watch``: evaluate what is broken and tell people, outside of Airflow."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import instant_or_now
from nightshift.errors import NightshiftError, cause_of
from nightshift.settings import default_home, load_settings

if TYPE_CHECKING:
    from nightshift.incidents.context import AirflowState
    from nightshift.incidents.evaluation import Evaluation
    from nightshift.notices.round import Round

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
    """Open and close incidents by what is true now, and tell people; needs no running Airflow.

    With --once it exits with 0 after an evaluation, whatever is broken and whoever was told, and
    with 2 if it could not look.
    """
    # A wrong argument stays wrong: it must not be tried again each minute.
    instant_or_now(at)
    while True:
        started = time.monotonic()
        try:
            done = watch_once(at)
        # A warehouse that is away for a minute must not end the watch.
        except Exception as error:  # noqa: BLE001
            reason = str(error) if isinstance(error, NightshiftError) else cause_of(error)
            sys.stderr.write(f"Nobody could look.\n{reason}\n")
            if once:
                raise typer.Exit(COULD_NOT_LOOK) from None
        else:
            _report(done)
            if once:
                raise typer.Exit(COULD_NOT_LOOK if done.problem else 0)
        time.sleep(max(0.0, every - (time.monotonic() - started)))


def watch_once(at: str = "") -> Round:
    """Evaluate all rules and tell people.

    Args:
        at: Instant of the deadlines, ISO 8601; now if empty.

    Raises:
        NoticeSettingsError: The settings of notices are wrong.
    """
    from nightshift.notices.round import tell

    # Without --at the warehouse's clock counts: this machine's may be wrong.
    instant = instant_or_now(at) if at else None
    return tell(load_settings(), at=instant, airflow=local_airflow())


def evaluate_now() -> Evaluation:
    """Evaluate all rules and tell nobody.

    Raises:
        WarehouseError: The warehouse cannot be reached or written.
    """
    from nightshift.incidents.evaluation import evaluate

    return evaluate(load_settings(), airflow=local_airflow())


def local_airflow() -> AirflowState | None:
    """Return this machine's own Airflow, if there is one."""
    from nightshift_local.airflow_api import AirflowApi

    # Only the local Airflow has an address here; its absence is an incident, and no error.
    return AirflowApi.find(default_home())


def _report(done: Round) -> None:
    """Print what changed, and what went wrong; nothing while all stays as it was."""
    for failure in done.failures:
        sys.stderr.write(f"[NS-NOTICE-002] not taken by {failure}\n")
    if done.problem:
        sys.stderr.write(f"Nobody could look.\n{done.problem}\n")
    if done.evaluation is not None:
        _report_changes(done.evaluation)


def _report_changes(evaluation: Evaluation) -> None:
    """Print the incidents that were opened, have grown worse or were closed."""
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
