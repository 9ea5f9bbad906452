"""Keep the parts of a home running: start, watch, restart with growing pauses.

The supervisor is one small process. Each part is found by its recorded pid and start time, so that
`nightshift up` can replace a killed supervisor without restarting a part.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from nightshift.settings import PROJECT_ROOT
from nightshift_local.home import is_home
from nightshift_local.home_files import open_lock, write_private
from nightshift_local.local_env import write_env
from nightshift_local.part import Part
from nightshift_local.placement import prepare_home
from nightshift_local.process import MARK, Launch, ServerProcess
from nightshift_local.servers.airflow_parts import (
    API_SERVER,
    DAG_PROCESSOR,
    SCHEDULER,
    TRIGGERER,
)
from nightshift_local.stack import compose

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "supervisor"
TICK_SECONDS = 0.5
HEALTH_INTERVAL_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
STABLE_AFTER_SECONDS = 60.0
MAX_DOUBLINGS = 3
"""How often the limit of a part that does not answer is doubled: the API server then has 24
minutes for a start. Under a load of 45 on two cores the first limit ended three starts in a row.
"""
SILENT_INTERVAL_SECONDS = 2.0
"""Between two checks of a part that does not answer, so that what waits for it continues soon."""
SILENT_CHECKS = 6
"""Checks in a row without an answer after which a running part counts as away, half a minute or
more: late answers of a busy machine are no outage. One whose process is gone is away at once.
"""
SETTLE_SECONDS = 20.0
"""How long a part must answer before what was held back continues: waiting tasks send their
heartbeats first, or the scheduler would take them for dead. Workers retry every 15 seconds at the
latest (``airflow_settings``).
"""
HELD_BACK_BY: Mapping[str, str] = {SCHEDULER: API_SERVER}
"""Parts that do not run while another one does not answer: each task that is dispatched
meanwhile loses a try.
"""
HEALTH_REPORTED_BY: Mapping[str, str] = dict.fromkeys(
    (SCHEDULER, DAG_PROCESSOR, TRIGGERER), API_SERVER
)
"""Parts whose health another part reports: while that is away, their health is unknown."""

log = logging.getLogger(__name__)


@dataclass
class PartState:
    """What the supervisor remembers of one part; times are of the monotonic clock.

    Attributes:
        n_starts: How often this supervisor has started it.
        n_failures: Starts in a row that did not last.
        last_error: Why the last start failed.
        started_at: Time of the last start.
        next_try_at: No start before this time.
        next_check_at: No health check before this time.
        healthy_at: When it was last seen healthy, or started.
        n_silent: Checks in a row that it did not answer; as many as count as away, until it has
            answered once.
        answers_since: Since when it has answered without a pause that counts.
        n_restarts: Restarts in a row after none of which it has answered.
    """

    n_starts: int = 0
    n_failures: int = 0
    last_error: str = ""
    started_at: float = field(default=0.0, repr=False)
    next_try_at: float = 0.0
    next_check_at: float = 0.0
    healthy_at: float = 0.0
    n_silent: int = SILENT_CHECKS
    answers_since: float = 0.0
    n_restarts: int = 0

    @property
    def is_away(self) -> bool:
        """Return whether the part does not run or does not answer."""
        return self.n_silent >= SILENT_CHECKS

    def note_answer(self, now: float, *, is_healthy: bool) -> None:
        """Record the result of a health check."""
        if is_healthy and self.is_away:
            self.answers_since = now
        self.n_silent = 0 if is_healthy else self.n_silent + 1
        if is_healthy:
            self.n_restarts = 0

    def note_end(self) -> None:
        """Record that the process is gone."""
        self.n_silent = SILENT_CHECKS


class Supervisor:
    """Keeps some groups of parts running until it is asked to end.

    Args:
        home: Folder of local state, prepared.
        groups: Names out of ``stack.GROUPS``.
    """

    def __init__(self, home: Path, groups: Sequence[str]) -> None:
        self._home, self._groups = home, groups
        self._states: dict[str, PartState] = {}
        self._is_ending = False

    def end(self) -> None:
        """Ask the loop to end; the parts keep running."""
        self._is_ending = True

    def run(self) -> None:
        """Watch the parts until asked to end, or until the home is deleted."""
        # A start would create a deleted home again.
        while not self._is_ending and is_home(self._home):
            self.watch_once()
            time.sleep(TICK_SECONDS)

    def watch_once(self) -> None:
        """Start what does not run and restart what has been unhealthy for too long."""
        for part in compose(self._home, self._groups).parts:
            if self._is_ending:
                return
            state = self._states.setdefault(part.name, PartState())
            try:
                self._watch(part, state, time.monotonic())
            # Whatever this part raises, the remaining parts must still be watched.
            except Exception as error:  # noqa: BLE001
                self._note_failure(part, state, str(error))

    def _watch(self, part: Part, state: PartState, now: float) -> None:
        process = part.process.find()
        if process is None:
            state.note_end()
        if self._is_held_back(part, process, now):
            state.healthy_at = now
            return
        if now < state.next_try_at:
            return
        if process is None:
            self._start(part, state, now)
        elif now >= state.next_check_at:
            self._check(part, state, now)
            interval = SILENT_INTERVAL_SECONDS if state.n_silent else HEALTH_INTERVAL_SECONDS
            state.next_check_at = now + interval

    def _is_held_back(self, part: Part, process: psutil.Process | None, now: float) -> bool:
        """Return whether a part must not run now; a running one is suspended."""
        leader = self._states.get(HELD_BACK_BY.get(part.name, ""))
        if leader is None:
            return False
        is_suspended = process is not None and process.status() == psutil.STATUS_STOPPED
        if leader.is_away:
            # SIGSTOP instead of an end, which would end the part's tasks too.
            if process is not None and not is_suspended:
                log.warning("%s is suspended: %s is away", part.name, HELD_BACK_BY[part.name])
                process.suspend()
            return True
        if process is None or not is_suspended:
            return False
        if now - leader.answers_since < SETTLE_SECONDS:
            return True
        log.info("%s continues", part.name)
        process.resume()
        return False

    def _start(self, part: Part, state: PartState, now: float) -> None:
        # A start that did not last counts as a failure: the next pause is longer.
        if state.n_starts and now - state.started_at < STABLE_AFTER_SECONDS:
            self._pause(state, now)
        else:
            state.n_failures = 0
        state.n_starts += 1
        state.started_at = state.healthy_at = now
        part.ensure_started()
        state.last_error = ""
        log.info("%s started (pid %s)", part.name, getattr(part.process.find(), "pid", None))
        self._publish()

    def _check(self, part: Part, state: PartState, now: float) -> None:
        # Workers of a killed predecessor hold connections and memory.
        part.process.end_idle_leftovers()
        reporter = self._states.get(HEALTH_REPORTED_BY.get(part.name, ""))
        if reporter is not None and reporter.is_away:
            state.healthy_at = now
            return
        is_healthy = part.is_healthy()
        state.note_answer(now, is_healthy=is_healthy)
        if is_healthy:
            state.healthy_at = now
            # Restarts a part whose settings have changed.
            part.ensure_started()
            return
        state.healthy_at = state.healthy_at or now
        limit, seconds = part.unhealthy_limit_seconds, now - state.healthy_at
        # A restart that did not help is followed by more patience: on a busy machine a start may
        # take longer than the limit, and would be ended again and again.
        patience = 2 ** min(state.n_restarts, MAX_DOUBLINGS)
        if limit is not None and seconds > limit * patience:
            log.warning("%s has not answered for %.0f s: restarting it", part.name, seconds)
            state.n_restarts += 1
            part.stop()

    def _note_failure(self, part: Part, state: PartState, reason: str) -> None:
        state.last_error = reason
        self._pause(state, time.monotonic())
        log.error("%s could not be started: %s", part.name, reason)
        self._publish()

    @staticmethod
    def _pause(state: PartState, now: float) -> None:
        state.n_failures += 1
        pause = FIRST_PAUSE_SECONDS * 2**state.n_failures
        state.next_try_at = now + min(pause, LONGEST_PAUSE_SECONDS)

    def _publish(self) -> None:
        """Rewrite the env file, since a part may have another port, and the recorded states."""
        write_env(self._home, compose(self._home, self._groups).settings)
        states = {name: asdict(state) for name, state in self._states.items()}
        write_private(_state_file(self._home), json.dumps(states))


def read_states(home: Path) -> dict[str, PartState]:
    """Return the last recorded state of each part; empty if no supervisor runs."""
    state_file = _state_file(home)
    if ServerProcess(home, NAME).find() is None or not state_file.is_file():
        return {}
    states = json.loads(state_file.read_text())
    return {name: PartState(**state) for name, state in states.items()}


def _state_file(home: Path) -> Path:
    return home / "run" / "states.json"


def ensure_supervisor(home: Path, groups: Sequence[str]) -> None:
    """Start the supervisor of a home; replace one with other groups or settings."""
    process = ServerProcess(home, NAME)
    argv = [sys.executable, "-m", __name__]
    argv += ["--home", str(home)]
    argv += ["--groups", ",".join(groups)]
    variables = os.environ.items()
    settings = {name: value for name, value in variables if name.startswith("NIGHTSHIFT_")}
    # Other settings make a running supervisor outdated; MARK only names who started this process.
    settings.pop(MARK, None)
    settings["NIGHTSHIFT_HOME"] = str(home)
    launch = Launch(argv, settings, PROJECT_ROOT, inherits_env=True)
    if process.find() is not None:
        if not process.is_outdated(launch):
            return
        stop_supervisor(home)
    process.start(launch)


def stop_supervisor(home: Path) -> None:
    """End the supervisor; the parts keep running."""
    ServerProcess(home, NAME).stop(with_children=False)


def main() -> None:
    """Run the supervisor in the foreground; a second one for the same home ends at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--groups", type=lambda text: text.split(","), required=True)
    arguments = parser.parse_args()
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = prepare_home(arguments.home)
    # Held until this process ends, however it ends.
    lock = open_lock(home / "run" / "supervisor.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("Another supervisor watches this home.")
    # What a dead supervisor recorded says nothing about the parts of now.
    _state_file(home).unlink(missing_ok=True)
    supervisor = Supervisor(home, arguments.groups)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.end())
    # The terminal that started the supervisor may close.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor.run()


if __name__ == "__main__":
    main()
