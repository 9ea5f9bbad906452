"""``nightshift incidents``: what is broken now, and what a person decides about it."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import AsJson, Reason, actor
from nightshift.cli.console import print_table
from nightshift.cli.recorded_command import recorded
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.incidents.records import Incident
    from nightshift.warehouse.connection import Connection

app = typer.Typer(
    help="List what is broken now; acknowledge, snooze or wake it.",
    no_args_is_help=True,
)
Number = Annotated[int, typer.Argument(help="Number of the incident, as `list` shows it.")]
CLOSED_WITHIN = dt.timedelta(days=7)
INSTANT = "%Y-%m-%d %H:%M"
DURATION = re.compile(r"(\d+)([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}


@app.command("list")
def list_incidents(
    *,
    closed: Annotated[
        bool, typer.Option("--closed", help="Also list what closed within seven days.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the open incidents, the most severe first."""
    from nightshift.incidents.records import last_look, open_incidents, recent_incidents
    from nightshift.warehouse.connection import connect

    with connect(load_settings(), "nightshift incidents") as conn:
        incidents = recent_incidents(conn, CLOSED_WITHIN) if closed else open_incidents(conn)
        looked_at, is_fresh = last_look(conn)
    if not is_fresh:
        since = f"since {looked_at:{INSTANT}} UTC" if looked_at else "yet"
        typer.echo(
            f"Nobody has looked {since}: what is broken now is not known."
            " `nightshift watch --once` looks.",
            err=True,
        )
    if as_json:
        _print_json([incident.document() for incident in incidents])
        return
    if not incidents:
        typer.echo("No incident is open." if is_fresh else "No incident was open then.")
        return
    headers = ("incident", "severity", "state", "code", "since", "what")
    print_table(headers, map(_row, incidents))
    typer.echo("More about one: nightshift incidents show <incident>")


def _row(incident: Incident) -> tuple[object, ...]:
    return (
        incident.incident_id,
        incident.severity,
        incident.state,
        incident.code,
        f"{incident.opened_at:{INSTANT}}",
        incident.what,
    )


@app.command()
def show(incident: Number, *, as_json: AsJson = False) -> None:
    """Show one incident with everything that it touches, and what became of it."""
    from nightshift.incidents.records import as_json as plain
    from nightshift.incidents.records import find_incident, incident_events
    from nightshift.warehouse.connection import connect

    with connect(load_settings(), "nightshift incidents") as conn:
        match = find_incident(conn, incident)
        events = incident_events(conn, incident_id=incident)
    if as_json:
        _print_json(match.document() | {"events": plain([vars(event) for event in events])})
        return
    for line in describe(match):
        typer.echo(line)
    rows = [(f"{event.at:{INSTANT}}", event.event, event.actor, event.reason) for event in events]
    print_table(("at", "event", "by", "why"), rows)


def describe(incident: Incident) -> list[str]:
    """Return the lines that a person needs to act."""
    deadline = f" (by {incident.deadline_at:{INSTANT}} UTC)" if incident.deadline_at else ""
    touched = [*incident.touched_tables, *incident.touched_consumers]
    lines = [
        f"[{incident.code}] {incident.what}",
        f"  if nobody acts: {incident.consequence}{deadline}",
        f"  to do:          {incident.command}",
        f"  page:           {incident.runbook}",
        f"  since:          {incident.opened_at:{INSTANT}} UTC, seen {incident.n_seen} times",
        f"  state:          {incident.severity}, {incident.state}",
    ]
    if incident.owner:
        lines.append(f"  owner:          {incident.owner}")
    if touched:
        lines.append(f"  touches:        {', '.join(touched)}")
    return lines


@app.command()
@recorded("incidents.ack")
def ack(incident: Number, reason: Reason) -> None:
    """Say that you are at it; recorded with your name."""
    from nightshift.incidents.acts import acknowledge

    _act(lambda conn: acknowledge(conn, incident, actor(), reason))


@app.command()
@recorded("incidents.snooze")
def snooze(
    incident: Number,
    reason: Reason,
    duration: Annotated[
        str, typer.Option("--for", help="How long: 30m, 8h or 2d; at most 7d.")
    ] = "8h",
) -> None:
    """Silence it for some time; it comes back by itself when it grows worse."""
    from nightshift.incidents.acts import snooze as snooze_incident

    _act(lambda conn: snooze_incident(conn, incident, _duration(duration), actor(), reason))


@app.command()
@recorded("incidents.wake")
def wake(incident: Number, reason: Reason) -> None:
    """End a snooze or an acknowledgement."""
    from nightshift.incidents.acts import wake as wake_incident

    _act(lambda conn: wake_incident(conn, incident, actor(), reason))


def _duration(text: str) -> dt.timedelta:
    match = DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no time such as 30m, 8h or 2d")
    return dt.timedelta(**{UNITS[match[2]]: int(match[1])})


def _act(act: Callable[[Connection], Incident]) -> None:
    from nightshift.warehouse.connection import connect

    with connect(load_settings(), "nightshift incidents") as conn:
        incident = act(conn)
    until = ""
    if incident.snoozed_until:
        until = f" until {incident.snoozed_until:{INSTANT}} UTC"
    typer.echo(f"Incident {incident.incident_id} is {incident.state}{until}: {incident.what}")


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2, sort_keys=True))
