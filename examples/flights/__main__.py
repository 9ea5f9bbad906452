"""``python -m examples.flights demo | replay | backtest | backtest policy``."""

from __future__ import annotations

import typer

from examples.flights import backtest, demo, policy_backtest, replay
from nightshift.cli.app import run_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(replay.replay)
# `backtest` is a command of its own and has `policy` as a subcommand.
backtest.app.command()(policy_backtest.policy)
app.add_typer(backtest.app, name="backtest")

if __name__ == "__main__":
    run_app(app, "python -m examples.flights")
