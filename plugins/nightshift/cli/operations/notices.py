"""``nightshift notices``: see who was told what is broken, and try a channel."""

from __future__ import annotations

import uuid
from typing import Annotated

import typer

from nightshift.cli.console import print_table
from nightshift.errors import NightshiftError
from nightshift.settings import load_settings

app = typer.Typer(help="Who was told what is broken, and how.", no_args_is_help=True)

INSTANT = "%Y-%m-%d %H:%M"


@app.command("list")
def list_notices(
    limit: Annotated[int, typer.Option(help="Number of notices.")] = 20,
) -> None:
    """Show the state of each channel, and the last notices with what became of them."""
    from nightshift.notices.outbox import channel_states, recent_notices
    from nightshift.warehouse.connection import connect

    with connect(load_settings(), "nightshift notices") as conn:
        states = channel_states(conn)
        notices = recent_notices(conn, limit)
    print_table(
        ("channel", "last sent (UTC)", "failing since", "failed tries", "waiting", "reason"),
        [tuple(map(_cell, state)) for state in states],
    )
    print_table(
        ("queued (UTC)", "channel", "incident", "notice", "state", "tries", "what"),
        [tuple(map(_cell, notice)) for notice in notices],
    )


@app.command("test")
def probe(
    channel: Annotated[str, typer.Argument(help="Name of the channel; all by default.")] = "",
) -> None:
    """Send a test message now; exits with 1 if a channel does not take it."""
    from nightshift.notices.delivery import describe_refusal
    from nightshift.notices.messages import probe_message
    from nightshift.notices.notice_settings import load_notice_settings, select_channels
    from nightshift.notices.senders import SendError
    from nightshift.notices.senders import send as send_message

    notices = load_notice_settings(load_settings())
    failures = []
    for name, target in select_channels(notices, channel).items():
        message = probe_message(f"nightshift-test-{uuid.uuid4().hex}", name)
        try:
            send_message(target, message)
        except NightshiftError as error:
            failures.append(f"{name}: {describe_refusal(error)}")
        else:
            typer.echo(f"{name}: taken")
    if failures:
        raise SendError(
            "Some channels did not take the test message.",
            expected="an answer that accepts it",
            got="; ".join(failures),
            todo="Correct the channel in notices.yaml, or its receiver, and test again.",
        )


@app.command()
def check() -> None:
    """Read the settings of notices and look for every secret that they name; nothing is sent."""
    from nightshift.notices.notice_settings import load_notice_settings, missing_secrets

    notices = load_notice_settings(load_settings())
    problems = [(name, "wrong", text) for name, text in missing_secrets(notices).items()]
    good = notices.channels.by_name.keys() - {name for name, *_ in problems}
    rows = [(name, "ok", "") for name in sorted(good)]
    print_table(("channel", "state", "problem"), [*rows, *problems])
    if not notices.channels.by_name:
        typer.echo("Nobody is told: there is no channel (docs/notices.md).")
    if problems:
        raise typer.Exit(1)


def _cell(value: object) -> object:
    if value is None:
        return "-"
    if hasattr(value, "strftime"):
        return value.strftime(INSTANT)
    return value
