"""``nightshift status``: models, incidents, what runs, why nothing runs, and the services."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nightshift.cli.arguments import AsJson
from nightshift.cli.console import print_table
from nightshift.errors import NightshiftError, cause_of
from nightshift.settings import default_home, load_settings

if TYPE_CHECKING:
    from nightshift.incidents.overview import ModelOverview, Overview
    from nightshift_local.part import Part

STARTING_SECONDS = 60.0
"""A part that is younger and not healthy yet is shown as starting, not as broken."""
REFRESH_SECONDS = 10
INSTANT = "%Y-%m-%d %H:%M"
MAX_INCIDENTS = 10
"""Incidents that are shown with all they say; of more only the codes are counted."""
MAX_SHOWN = 20
"""Sentences of a list; a longer one has the number of the rest."""


@dataclass
class Services:
    """The local servers.

    Attributes:
        rows: Name, state, process id, address and health of each part.
        notices: Which parts are elsewhere.
        is_healthy: Whether all that should run does.
    """

    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    is_healthy: bool = True


def status(
    *,
    as_json: AsJson = False,
    watch: Annotated[
        bool, typer.Option("--watch", help=f"Show it again every {REFRESH_SECONDS} seconds.")
    ] = False,
) -> None:
    """Show incidents, models, what runs, why nothing runs, and the services.

    Exits with 1 if a service is down.
    """
    while True:
        services = _read_services()
        overview, problem = _read_overview()
        if watch:
            Console().clear()
        if as_json:
            _print_json(services, overview, problem)
        else:
            _print_status(services, overview, problem)
        if not watch:
            break
        time.sleep(REFRESH_SECONDS)
    if not services.is_healthy:
        raise typer.Exit(1)


def _read_services() -> Services:
    from nightshift_local.placement import prepare_home
    from nightshift_local.process import ServerProcess
    from nightshift_local.stack import compose, expected_groups
    from nightshift_local.supervisor import NAME

    home = prepare_home(default_home())
    supervisor = ServerProcess(home, NAME).find()
    # Also shows groups that were started extra and never stopped.
    stack = compose(home, expected_groups(home))
    rows = [_part_row(part) for part in stack.parts]
    health = {row[-1] for row in rows}
    # Only the supervisor restarts a part that dies: without it nothing is really up.
    is_healthy = supervisor is not None and health <= {"healthy", "starting"}
    state, pid = ("ok", str(supervisor.pid)) if supervisor else ("down", "-")
    return Services([(NAME, state, pid, "", ""), *rows], list(stack.notices), is_healthy)


def _part_row(part: Part) -> tuple[str, str, str, str, str]:
    process = part.process.find()
    if process is None:
        return (part.name, "down", "-", part.address, "-")
    health = "broken"
    age_seconds = time.time() - process.create_time()
    if part.is_healthy():
        health = "healthy"
    elif age_seconds < STARTING_SECONDS:
        health = "starting"
    return (part.name, "ok", str(process.pid), part.address, health)


def _read_overview() -> tuple[Overview | None, str]:
    """Evaluate and read everything; return a reason instead when it cannot be read."""
    from nightshift.cli.operations.watch import evaluate_now
    from nightshift.incidents.overview import current_overview
    from nightshift_local.airflow_api import AirflowApi

    problem = ""
    # The reason of a rule that failed is an incident; its stack is for the log of `watch`.
    logging.getLogger("nightshift.incidents").setLevel(logging.ERROR)
    try:
        # Nobody may be running `nightshift watch`: what is shown must be true now.
        evaluation = evaluate_now()
        if evaluation.failed_rules:
            problem = f"These rules could not be evaluated: {', '.join(evaluation.failed_rules)}."
        airflow = AirflowApi.find(default_home())
        overview, away = current_overview(load_settings(), evaluation.at, airflow)
        return overview, f"{problem} {away}".strip()
    except Exception as error:  # noqa: BLE001 - without a warehouse the services are the answer
        return None, f"The state of the pipeline is unknown: {_describe(error)}"


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, NightshiftError) else cause_of(error)


def _print_json(services: Services, overview: Overview | None, problem: str) -> None:
    names = ("part", "state", "pid", "address", "health")
    document: dict[str, Any] = {
        "pipeline": overview.document() if overview else None,
        "problem": problem,
        "services": [dict(zip(names, row, strict=True)) for row in services.rows],
        "notices": services.notices,
    }
    typer.echo(json.dumps(document, indent=2, sort_keys=True))


def _print_status(services: Services, overview: Overview | None, problem: str) -> None:
    # Incidents first: they are why somebody looks.
    if overview is not None:
        print_incidents(overview)
        headers = (
            "model",
            "health",
            "published",
            "since",
            "rows",
            "scored by",
            "champion",
            "quality",
        )
        print_table(headers, map(model_row, overview.models))
        for model in overview.models:
            if model.canary:
                typer.echo(f"canary of {model.model}: {model.canary}")
        typer.echo()
        _print_list("Runs now", overview.running, "nothing")
        _print_list("Waits", overview.waiting, "nothing")
    if problem:
        typer.echo(problem)
    print_table(("part", "state", "pid", "address", "health"), services.rows)
    for notice in services.notices:
        typer.echo(notice)
    if not services.is_healthy:
        logs = default_home() / "logs"
        typer.echo(f"To start what is down: nightshift up. Logs: {logs}")


def print_incidents(overview: Overview) -> None:
    """Print the first open incidents, and of the rest how often each code occurs."""
    from nightshift.cli.operations.incidents import describe

    awake = [incident for incident in overview.incidents if incident.state != "snoozed"]
    for incident in awake[:MAX_INCIDENTS]:
        typer.echo(f"incident {incident.incident_id}, {incident.severity}, {incident.state}")
        for line in describe(incident)[:3]:
            typer.echo(line)
    if len(awake) > MAX_INCIDENTS:
        # Of many the causes matter, and how often each occurs.
        codes = Counter(incident.code for incident in awake[MAX_INCIDENTS:])
        shown = ", ".join(f"{code} {n} times" for code, n in codes.most_common(MAX_INCIDENTS))
        n_left = len(awake) - MAX_INCIDENTS
        typer.echo(f"and {n_left} more: {shown}; `nightshift incidents list` has all")
    n_open = len(overview.incidents)
    n_snoozed = n_open - len(awake)
    typer.echo(f"{n_open} incident(s) open, {n_snoozed} of them snoozed.\n")


def model_row(model: ModelOverview) -> tuple[object, ...]:
    """Return what the table of models shows of one."""
    from nightshift.incidents.context import describe_days

    champion = "none"
    if model.champion is not None:
        champion = f"version {model.champion}"
    # Its age counts to the newest published day: without one it has none.
    if model.champion_age_days is not None:
        champion += f", {model.champion_age_days} days old"
    quality = "-"
    if model.quality is not None and model.metric is not None:
        quality = f"{model.metric} {model.quality:.4g}"
        if model.quality_low is not None and model.quality_high is not None:
            quality += f" ({model.quality_low:.4g} to {model.quality_high:.4g})"
        quality += f" of {model.n_labels} labels"
        if model.expected_quality is not None:
            quality += f", hold-out {model.expected_quality:.4g}"
    since = f"{model.published_at:{INSTANT}} UTC" if model.published_at else "-"
    published = str(model.published or "nothing")
    if model.late:
        published += f", late: {describe_days(model.late)}"
    rows = "-"
    if model.n_rows is not None:
        rows = f"{model.n_rows:,}"
        # Rows that vanished or were copied are an incident too; here a person sees how many.
        if model.n_rows != model.n_recorded:
            rows += f" of {model.n_recorded or 0:,} published"
    source = model.source or "-"
    return (model.model, model.health, published, since, rows, source, champion, quality)


def _print_list(title: str, sentences: tuple[str, ...], empty: str) -> None:
    typer.echo(f"{title}: {empty if not sentences else ''}".rstrip())
    for sentence in sentences[:MAX_SHOWN]:
        typer.echo(f"  {sentence}")
    if len(sentences) > MAX_SHOWN:
        typer.echo(f"  … and {len(sentences) - MAX_SHOWN} more")
