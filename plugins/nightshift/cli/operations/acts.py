"""``nightshift acts``: what people did, why, and how it ended."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.arguments import AsJson, instant_or_now
from nightshift.cli.console import print_table
from nightshift.settings import load_settings

if TYPE_CHECKING:
    from nightshift.warehouse.control_tables.acts import RecordedAct

HEADERS = ("at", "act", "by", "why", "arguments", "outcome")
MAX_SHOWN = 60
"""Characters of arguments and of a reason in the table; `--json` has all."""


def acts(
    since: Annotated[
        str,
        typer.Option(help="Only acts from then on, ISO time with offset; all by default."),
    ] = "",
    name: Annotated[
        str,
        typer.Option(help="Only acts whose name begins so, such as `drop`."),
    ] = "",
    by: Annotated[
        str,
        typer.Option(help="Only acts of this person."),
    ] = "",
    limit: Annotated[
        int,
        typer.Option(help="At most so many, the newest."),
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List the acts of people by every door: what, who, why, when, and the outcome."""
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.acts import list_acts

    first = instant_or_now(since) if since else None
    with connect(load_settings(), "nightshift acts") as conn:
        listed = list_acts(conn, since=first, name=name, actor=by, limit=limit)
    # Programs get what was read back, too.
    if as_json:
        document = [asdict(act) for act in listed]
        typer.echo(json.dumps(document, default=str, indent=2))
        return
    print_table(HEADERS, map(_row, listed))
    typer.echo(f"{len(listed)} act(s)")


def _row(act: RecordedAct) -> tuple[str, ...]:
    outcome = act.outcome
    if act.code is not None:
        outcome += f", {act.code}"
    return (
        f"{act.at:%Y-%m-%d %H:%M:%S}",
        act.name,
        act.actor,
        _shortened(act.reason),
        _shortened(_given(act)),
        outcome,
    )


def _given(act: RecordedAct) -> str:
    """Return the arguments that were given, in one line."""
    given = []
    for name, value in act.arguments.items():
        # What was left out is not worth a column.
        if value or value == 0:
            given.append(f"{name}={value}")
    return " ".join(given)


def _shortened(text: str) -> str:
    if not text:
        return "-"
    # The table has one line an act.
    if len(text) > MAX_SHOWN:
        return f"{text[:MAX_SHOWN]}…"
    return text
