"""The `nightshift` command: its subcommands, in panels and in the order of a user's day."""

from __future__ import annotations

import os
import sys

import typer

from nightshift.cli.data import (
    backfill,
    contract,
    dbt,
    deliver,
    deliver_history,
    drop,
    profile,
    quarantine,
    redo,
)
from nightshift.cli.models import compare, evidence, features, models, rollback, train, training_set
from nightshift.cli.operations import (
    acts,
    analyst,
    apply,
    check_freshness,
    critical_path,
    end_run,
    incidents,
    metrics,
    notices,
    plan,
    rescue,
    void,
    watch,
    why_not,
)
from nightshift.cli.predictions import monitor, report, repro, score, shadow, tile, why
from nightshift.cli.services import airflow, doctor, down, migrate, page, psql, status, up
from nightshift.cli.telemetry import lineage, telemetry, trace
from nightshift.errors import NightshiftError
from nightshift.resource_errors import translate_resource_errors

SPIN_COUNT = "10000"
"""OpenMP threads that spin next to busy neighbours make a training ten times slower. Source:
docs/adr/0002-local-services.md.
"""

SERVICES, DATA, MODELS = "Services", "Data", "Models"
PREDICTIONS, OPERATIONS, TELEMETRY = "Predictions", "Operations", "Telemetry"

app = typer.Typer(
    help="A nightly batch-ML pipeline that a team can leave alone with its pager.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Each command imports the heavy libraries when it runs, so that `nightshift --help` is quick.
COMMANDS = {
    SERVICES: (up, status, doctor, down, migrate, psql, page, airflow),
    DATA: (deliver, deliver_history, backfill, redo, profile, dbt),
    MODELS: (train, models, compare, training_set, evidence, rollback),
    PREDICTIONS: (score, shadow, monitor, report, why, repro, tile),
    OPERATIONS: (
        why_not,
        watch,
        apply,
        acts,
        check_freshness,
        metrics,
        rescue,
        critical_path,
        end_run,
        void,
    ),
    TELEMETRY: (trace, lineage, telemetry),
}
for panel, modules in COMMANDS.items():
    for module in modules:
        # The command of a module is its function of the same name.
        command = getattr(module, module.__name__.rpartition(".")[2])
        context = getattr(module, "CONTEXT", None)
        app.command(context_settings=context, rich_help_panel=panel)(command)
app.add_typer(drop.app, name="drop", rich_help_panel=DATA)
app.add_typer(contract.app, name="contract", rich_help_panel=DATA)
app.add_typer(quarantine.app, name="quarantine", rich_help_panel=DATA)
app.add_typer(features.app, name="features", rich_help_panel=MODELS)
app.add_typer(incidents.app, name="incidents", rich_help_panel=OPERATIONS)
app.add_typer(plan.app, name="plan", rich_help_panel=OPERATIONS)
app.add_typer(notices.app, name="notices", rich_help_panel=OPERATIONS)
app.add_typer(analyst.app, name="analyst", rich_help_panel=OPERATIONS)


def main() -> None:
    """Run the `nightshift` command."""
    run_app(app, "nightshift")


def run_app(command_line: typer.Typer, name: str) -> None:
    """Run a command line; print our own errors without a traceback and exit with 1."""
    # Files of a person's run may hold rows; nobody else on the machine reads them.
    os.umask(0o077)
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        with translate_resource_errors():
            command_line(prog_name=name)
    except NightshiftError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        # What a shell reports for a program that SIGINT ended.
        sys.exit(130)
