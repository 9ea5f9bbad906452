"""Start groups of services under the supervisor, and wait until they are healthy."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from nightshift.errors import ServiceError
from nightshift.settings import default_home
from nightshift_local.local_env import write_env
from nightshift_local.part import Part
from nightshift_local.placement import prepare_home
from nightshift_local.stack import GROUPS, Stack, compose, running_groups
from nightshift_local.supervisor import ensure_supervisor, read_states
from nightshift_local.up_lock import only_up

START_TIMEOUT_SECONDS = 360.0
"""The scheduler starts after the API server: 124 s under a load of 30 on two cores when they
started together.
"""
HOPELESS_FAILURES = 4
"""Failed starts in a row after which the wait is given up; the supervisor keeps trying."""
POLL_SECONDS = 0.25


def launch(
    groups: Collection[str], wait_for: Collection[str], report: Callable[[str], None]
) -> Stack:
    """Run some groups in addition to those that run already, and wait for some of them.

    Args:
        groups: Names out of ``stack.GROUPS``.
        wait_for: The groups to wait for; the rest continues to start in the background.
        report: Receives one line per notice and per part that became healthy.

    Raises:
        ServiceError: A group is unknown, or a part did not become healthy.
    """
    home = prepare_home(default_home())
    # An unknown group is refused before this process waits for the lock.
    compose(home, groups)
    with only_up(home, report):
        selected = set(groups) | running_groups(home)
        ordered = [group for group in GROUPS if group in selected]
        stack = compose(home, ordered)
        for notice in stack.notices:
            report(f"  {notice}")
        if stack.parts:
            ensure_supervisor(home, ordered)
            waited = [part for part in stack.parts if part.group in wait_for]
            _wait(home, waited, report)
        # Ports are known only now: the env file points at the parts that really started.
        write_env(home, compose(home, ordered).settings)
    return stack


def _wait(home: Path, parts: Sequence[Part], report: Callable[[str], None]) -> None:
    """Wait for the parts that are not optional; report each when it becomes healthy.

    Raises:
        ServiceError: A part did not become healthy in time, or its start failed repeatedly.
    """
    started_at = time.monotonic()
    waiting = [part for part in parts if not part.is_optional]
    while waiting:
        seconds = time.monotonic() - started_at
        for part in list(waiting):
            if part.is_healthy():
                waiting.remove(part)
                age = f"healthy after {seconds:4.1f} s"
                report(f"  {part.name:<22} {age}   {part.address}")
        if not waiting:
            return
        # The supervisor reports failed starts: waiting for the timeout would teach nothing.
        if seconds > START_TIMEOUT_SECONDS or _is_hopeless(home, waiting):
            raise _not_healthy(home, waiting, seconds)
        time.sleep(POLL_SECONDS)


def _is_hopeless(home: Path, waiting: Sequence[Part]) -> bool:
    """Return whether the start of one of the parts has failed too often in a row."""
    states = read_states(home)
    failures = [states[part.name].n_failures for part in waiting if part.name in states]
    return any(n_failures >= HOPELESS_FAILURES for n_failures in failures)


def _not_healthy(home: Path, waiting: Sequence[Part], seconds: float) -> ServiceError:
    names = ", ".join(part.name for part in waiting)
    states = read_states(home).items()
    errors = [f"{name}: {state.last_error}" for name, state in states if state.last_error]
    # Without a failed start only the logs can tell.
    logs = [part.process.log_tail() for part in waiting]
    return ServiceError(
        f"Not healthy after {seconds:.0f} s: {names}.",
        got="\n".join(errors or logs),
        todo=f"Read the logs in {home / 'logs'}, then run `nightshift doctor`.",
    )
