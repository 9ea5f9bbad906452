"""``nightshift status``: what runs, where, and whether it is healthy."""

from __future__ import annotations

import datetime as dt
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
PUBLISHED_WITHIN = dt.timedelta(days=7)
"""The rows of older publications are not counted: a week of a large model takes seconds already."""


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
    """Return what is wrong with the pipeline although no task failed.

    Wrong spec files, partitions that no champion scored, analysts' views that are missing, tasks
    that wait for upstream, and published rows that were lost.
    """
    from nightshift.contracts.model_spec import read_specs
    from nightshift.scoring.degraded import degraded_partitions
    from nightshift.warehouse.analysts.missing_views import missing_views_error
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.waiting_tasks import waiting_tasks
    from nightshift.warehouse.damage import describe_damages, recently_lost_rows

    notices: list[str] = []
    try:
        settings = load_settings()
        specs = read_specs(settings.models_dir)
        # A wrong file must not hide what is wrong with the other models.
        notices += [str(problem) for problem in specs.problems.values()]
        with connect(settings, "nightshift status") as conn:
            for spec in specs.documents.values():
                notices += [str(entry.describe()) for entry in degraded_partitions(conn, spec)]
                no_views = missing_views_error(conn, spec)
                if no_views:
                    notices.append(str(no_views))
            notices += [str(task.describe()) for task in waiting_tasks(conn)]
            lost = recently_lost_rows(conn, PUBLISHED_WITHIN)
            notices += [str(describe_damages(damages)) for damages in lost.values()]
    except Exception as error:  # noqa: BLE001 - without a warehouse the table above is the answer
        return [*notices, f"The state of the pipeline is unknown: {cause_of(error)}"]
    return notices
