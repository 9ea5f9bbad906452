"""``nightshift up | down | status``: the local services."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightshift.cli.console import print_table, say
from nightshift.errors import ServiceError, cause_of
from nightshift.settings import default_home, load_admin_settings, load_settings, named_home

if TYPE_CHECKING:
    from nightshift_local.stack import Part, Stack

START_TIMEOUT_SECONDS = 360.0
"""The scheduler starts behind the API server: 124 s under a load of 30 on two cores when they
started together.
"""
BASE_GROUPS = ("postgres", "s3")
"""The others use these, so they end last."""
HOPELESS_FAILURES = 4
POLL_SECONDS = 0.25
STARTING_SECONDS = 60.0


def up(
    only: Annotated[
        str,
        typer.Option(
            help="Comma-separated: postgres, s3, airflow, mlflow. Default: all but mlflow."
        ),
    ] = "",
    beside: Annotated[
        str,
        typer.Option(
            "--with", help="Start this too: mlflow, whose pages only show what the warehouse has."
        ),
    ] = "",
) -> None:
    """Start the local services, wait until they are healthy, and bring the warehouse to the newest schema. Safe to repeat."""
    from nightshift.cli.setup import set_up
    from nightshift_local.placement import prepare_home
    from nightshift_local.stack import DEFAULT_GROUPS
    from nightshift_local.up_lock import only_up

    asked = [*(_names(only) or DEFAULT_GROUPS), *_names(beside)]
    stack = launch(asked, wait_for=asked)
    if set(BASE_GROUPS) <= set(asked):
        with only_up(prepare_home(default_home()), say):
            set_up(load_admin_settings())
    _print_addresses(default_home(), stack)


def launch(groups: Collection[str], wait_for: Collection[str]) -> Stack:
    """Have the supervisor run some groups beside those that run already, and wait for some of them.

    Args:
        groups: Names out of ``nightshift_local.stack.GROUPS``.
        wait_for: The groups to wait for; the others go on starting in the background.

    Raises:
        ServiceError: A group is unknown, or a part did not become healthy.
    """
    from nightshift_local.placement import prepare_home
    from nightshift_local.stack import compose
    from nightshift_local.up_lock import only_up

    home = prepare_home(default_home())
    compose(home, groups)
    with only_up(home, say):
        return _launch(home, groups, wait_for)


def _launch(home: Path, groups: Collection[str], wait_for: Collection[str]) -> Stack:
    from nightshift_local.local_env import write_env
    from nightshift_local.stack import GROUPS, compose, running_groups
    from nightshift_local.supervisor import ensure_supervisor

    wanted = [group for group in GROUPS if group in set(groups) | running_groups(home)]
    stack = compose(home, wanted)
    for notice in stack.notices:
        say(f"  {notice}")
    if stack.parts:
        ensure_supervisor(home, wanted)
        _wait(home, [part for part in stack.parts if part.group in wait_for])
    write_env(home, compose(home, wanted).settings)
    return stack


def down(
    delete_data: Annotated[
        bool,
        typer.Option("--delete-data", help="Delete the home with all databases and objects too."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without a question.")] = False,
) -> None:
    """Stop the local services.

    Raises:
        ServiceError: The home is not a folder that nightshift made.
    """
    from nightshift_local.home import check_deletable
    from nightshift_local.placement import prepare_home, remove_placed_files
    from nightshift_local.stack import all_parts
    from nightshift_local.supervisor import stop_supervisor

    if not os.path.lexists(named_home()) or not any(default_home().glob("*")):
        return
    if delete_data:
        check_deletable(named_home())
        if not yes:
            typer.confirm(
                f"Delete {named_home()} with all its databases, objects and logs?", abort=True
            )
    home = prepare_home(default_home())
    stop_supervisor(home)
    started = [part for part in all_parts(home) if part.process.was_started]
    _stop([part for part in started if part.group not in BASE_GROUPS])
    _stop([part for part in started if part.group in BASE_GROUPS])
    if delete_data:
        remove_placed_files(home)
        shutil.rmtree(home)
        say(f"  {home} deleted")


def _stop(parts: Sequence[Part]) -> None:
    """Stop some parts at the same time; the first failure is raised when all have been tried."""
    from concurrent.futures import ThreadPoolExecutor

    def stop(part: Part) -> None:
        part.stop()
        say(f"  {part.name:<22} stopped")

    with ThreadPoolExecutor(max_workers=max(len(parts), 1)) as pool:
        list(pool.map(stop, parts))


def status() -> None:
    """Show each part's state, pid, address and health. Exits with 1 if something is down."""
    from nightshift_local.placement import prepare_home
    from nightshift_local.process import ServerProcess
    from nightshift_local.stack import compose, expected_groups
    from nightshift_local.supervisor import NAME

    home = prepare_home(default_home())
    supervisor = ServerProcess(home, NAME).find()
    rows = [(NAME, *(("ok", str(supervisor.pid)) if supervisor else ("down", "-")), "", "")]
    stack = compose(home, expected_groups(home))
    rows += [_status_row(part) for part in stack.parts]
    print_table(("part", "state", "pid", "address", "health"), rows)
    for notice in stack.notices:
        say(notice)
    for notice in _night_notices():
        say(notice)
    is_complete = supervisor is not None and all(
        row[4] in ("healthy", "starting") for row in rows[1:]
    )
    if not is_complete:
        say("To start what is down: nightshift up. Logs: " + str(home / "logs"))
        raise typer.Exit(1)


def _night_notices() -> list[str]:
    """Return what a healthy stack does not tell: nights below the champion, and runs that wait for upstream."""
    from nightshift.contracts.model_spec import load_specs
    from nightshift.scoring.degraded import degraded_partitions
    from nightshift.warehouse.connection import connect
    from nightshift.warehouse.control_tables.waiting_tasks import waiting_tasks

    try:
        settings = load_settings()
        with connect(settings, "nightshift status") as conn:
            nights = [
                night
                for spec in load_specs(settings.models_dir).values()
                for night in degraded_partitions(conn, spec)
            ]
            waiting = [str(task.describe()) for task in waiting_tasks(conn)]
        return [*(str(night.describe()) for night in nights), *waiting]
    except Exception as error:  # noqa: BLE001 - without a warehouse, or before `migrate`, the table above says enough
        return [f"The nights are not known: {cause_of(error)}"]


def _status_row(part: Part) -> tuple[str, str, str, str, str]:
    process = part.process.find()
    if process is None:
        return (part.name, "down", "-", part.address, "-")
    is_new = time.time() - process.create_time() < STARTING_SECONDS
    health = "healthy" if part.is_healthy() else ("starting" if is_new else "broken")
    return (part.name, "ok", str(process.pid), part.address, health)


def _names(only: str) -> list[str]:
    return [name.strip() for name in only.split(",") if name.strip()]


def _wait(home: Path, parts: Sequence[Part]) -> None:
    """Wait for the parts that are not optional, telling of each when it becomes healthy.

    Raises:
        ServiceError: A part did not become healthy in time, or its start failed again and again.
    """
    started_at = time.monotonic()
    waiting = [part for part in parts if not part.is_optional]
    while waiting:
        for part in [part for part in waiting if part.is_healthy()]:
            waiting.remove(part)
            say(
                f"  {part.name:<22} healthy after {time.monotonic() - started_at:4.1f} s   {part.address}"
            )
        is_too_late = time.monotonic() - started_at > START_TIMEOUT_SECONDS
        if waiting and (is_too_late or _is_failing(home, waiting)):
            raise ServiceError(
                f"Not healthy after {time.monotonic() - started_at:.0f} s: {', '.join(part.name for part in waiting)}.",
                got=_last_errors(home) or "\n".join(part.process.log_tail() for part in waiting),
                todo=f"Read the logs in {home / 'logs'}, then run `nightshift doctor`.",
            )
        time.sleep(POLL_SECONDS)


def _is_failing(home: Path, waiting: Sequence[Part]) -> bool:
    """Return whether the supervisor has given up hope, not tries, for one of the parts."""
    from nightshift_local.supervisor import read_states

    names = {part.name for part in waiting}
    return any(
        state.n_failures >= HOPELESS_FAILURES
        for name, state in read_states(home).items()
        if name in names
    )


def _last_errors(home: Path) -> str:
    from nightshift_local.supervisor import read_states

    return "\n".join(
        f"{name}: {state.last_error}"
        for name, state in read_states(home).items()
        if state.last_error
    )


def _print_addresses(home: Path, stack: Stack) -> None:
    addresses = {part.group: part.address for part in reversed(stack.parts) if part.address}
    if "postgres" in addresses:
        say("  warehouse   nightshift psql (analysts: nightshift psql --role analyst)")
    if "airflow" in addresses:
        say(
            f"  Airflow     {addresses['airflow']}  user admin, password: cat '{home / 'secrets' / 'airflow-admin'}'"
        )
    if "mlflow" in addresses:
        say(
            f"  MLflow      {addresses['mlflow']}  user admin, password: cat '{home / 'secrets' / 'mlflow-admin'}'"
        )
    say(f"  settings    {home / 'env'}")
