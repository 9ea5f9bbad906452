"""``nightshift status``: what runs, where, and whether it is healthy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from nightshift.cli.console import print_table
from nightshift.errors import cause_of
from nightshift.settings import default_home, load_settings

if TYPE_CHECKING:
    from nightshift_local.part import Part

STARTING_SECONDS = 60.0
"""A part that is younger and not healthy yet is shown as starting, not as broken."""


def status() -> None:
    """Show each part's state, process id, address and health, and what waits or is degraded.

    Exits with 1 if something is down.
    """
    from nightshift_local.placement import prepare_home
    from nightshift_local.process import ServerProcess
    from nightshift_local.stack import compose, expected_groups
    from nightshift_local.supervisor import NAME

    home = prepare_home(default_home())
    supervisor = ServerProcess(home, NAME).find()
    # Also shows groups that were started extra and never stopped.
    stack = compose(home, expected_groups(home))
    rows = [_part_row(part) for part in stack.parts]
    supervisor_row = (NAME, "down", "-", "", "")
    if supervisor is not None:
        supervisor_row = (NAME, "ok", str(supervisor.pid), "", "")
    headers = ("part", "state", "pid", "address", "health")
    print_table(headers, [supervisor_row, *rows])
    for notice in (*stack.notices, *_pipeline_notices()):
        typer.echo(notice)

    health = {row[-1] for row in rows}
    # Only the supervisor restarts a part that dies: without it nothing is really up.
    if supervisor is None or not health <= {"healthy", "starting"}:
        typer.echo(f"To start what is down: nightshift up. Logs: {home / 'logs'}")
        raise typer.Exit(1)


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


def _pipeline_notices() -> list[str]:
    """Return the partitions that no champion scored and the tasks that wait for upstream."""
    from nightshift.contracts.model_spec import load_specs
    from nightshift.scoring.degraded import degraded_partitions
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.waiting_tasks import waiting_tasks

    notices: list[str] = []
    try:
        settings = load_settings()
        specs = load_specs(settings.models_dir)
        with connect(settings, "nightshift status") as conn:
            for spec in specs.values():
                degraded = degraded_partitions(conn, spec)
                notices += [str(entry.describe()) for entry in degraded]
            waiting = waiting_tasks(conn)
            notices += [str(task.describe()) for task in waiting]
    except Exception as error:  # noqa: BLE001 - without a warehouse the table above is the answer
        return [f"The state of the pipeline is unknown: {cause_of(error)}"]
    return notices
