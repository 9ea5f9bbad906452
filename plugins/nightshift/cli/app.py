"""The ``nightshift`` command: what a person types. Each command imports what it needs when it runs."""

from __future__ import annotations

import os
import sys

import typer

from nightshift.cli import (
    airflow,
    analyst,
    check_freshness,
    contract,
    critical_path,
    doctor,
    drop,
    end_run,
    evidence,
    history,
    models,
    profile,
    psql,
    quarantine,
    redo,
    report,
    repro,
    rescue,
    services,
    setup,
    void,
    why,
)
from nightshift.errors import NightshiftError
from nightshift.resource_errors import translate_resource_errors

SPIN_COUNT = "10000"
"""OpenMP threads that spin beside busy neighbours make a training ten times slower. Source:
docs/adr/0002-local-services.md.
"""

app = typer.Typer(
    help="A nightly batch-ML pipeline that a team can leave alone with its pager.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(services.up)
app.command()(services.down)
app.command()(services.status)
app.command()(setup.migrate)
for command in (
    history.deliver,
    history.deliver_history,
    history.backfill,
    history.train,
    history.score,
    history.monitor,
):
    app.command()(command)
app.command()(doctor.doctor)
app.command()(psql.psql)
app.add_typer(analyst.app, name="analyst")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(contract.app, name="contract")
app.add_typer(drop.app, name="drop")
app.command()(redo.redo)
app.command()(models.models)
app.command()(models.rollback)
app.command()(evidence.evidence)
app.command()(report.report)
app.command()(critical_path.critical_path)
app.command()(profile.profile)
app.command()(repro.repro)
app.command()(why.why)
app.command()(rescue.rescue)
app.command()(void.void)
app.command()(check_freshness.check_freshness)
app.command()(end_run.end_run)
app.command(context_settings=airflow.CONTEXT)(airflow.airflow)


def main() -> None:
    """Run the ``nightshift`` command."""
    run_app(app, "nightshift")


def run_app(command: typer.Typer, name: str) -> None:
    """Run a command line; print an error of ours with its code and without a traceback, and exit with 1."""
    os.umask(0o077)
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        with translate_resource_errors():
            command(prog_name=name)
    except NightshiftError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
