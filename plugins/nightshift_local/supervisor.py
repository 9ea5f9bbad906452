"""Keep the parts of a home running: start, watch, restart with growing pauses.

The supervisor is one small process. It is not the parts' parent in any way that matters: each part
is found again by its recorded pid and start time, so a supervisor that was killed is replaced by
`nightshift up` without touching a part.
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
from nightshift_local.local_env import write_env
from nightshift_local.placement import prepare_home
from nightshift_local.process import Launch, ServerProcess
from nightshift_local.servers.airflow_parts import API_SERVER, DAG_PROCESSOR, SCHEDULER
from nightshift_local.stack import Part, compose

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "supervisor"
TICK_SECONDS = 0.5
HEALTH_INTERVAL_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
STABLE_AFTER_SECONDS = 60.0
SILENT_INTERVAL_SECONDS = 2.0
"""Between two checks of a part that does not answer, so that what waits for it goes on soon."""
SILENT_CHECKS = 6
"""Checks in a row without an answer after which a running part counts as away, half a minute or
more: late answers of a busy machine are no outage. One whose process is gone is away at once.
"""
SETTLE_SECONDS = 20.0
"""How long a part answers before what was held back goes on: tasks that have waited for it send
their heartbeats first, or the scheduler would take them for dead. Workers ask again every 15
seconds at the latest (``airflow_settings``).
"""
HELD_BACK_BY: Mapping[str, str] = {SCHEDULER: API_SERVER}
"""Parts that do not run while another one does not answer: each task that is dispatched
meanwhile loses a try.
"""
JUDGED_THROUGH: Mapping[str, str] = {SCHEDULER: API_SERVER, DAG_PROCESSOR: API_SERVER}
"""Parts whose health another one reports: while that is away, nobody knows theirs."""

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

    @property
    def is_away(self) -> bool:
        """Return whether the part does not run or does not answer."""
        return self.n_silent >= SILENT_CHECKS

    def note_answer(self, now: float, *, is_healthy: bool) -> None:
        """Remember what a check came to."""
        if is_healthy and self.is_away:
            self.answers_since = now
        self.n_silent = 0 if is_healthy else self.n_silent + 1

    def note_end(self) -> None:
        """Remember that the process is gone."""
        self.n_silent = SILENT_CHECKS


class Supervisor:
    """Keeps some groups of parts running until it is told to end.

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
        """Watch the parts until asked to end, or until the home is deleted, which a start would make anew."""
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
            except Exception as error:  # noqa: BLE001 - whatever one part raises, the others are still watched
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
            state.next_check_at = now + (
                SILENT_INTERVAL_SECONDS if state.n_silent else HEALTH_INTERVAL_SECONDS
            )

    def _is_held_back(self, part: Part, process: psutil.Process | None, now: float) -> bool:
        """Return whether a part must not run now; one that runs is stopped by SIGSTOP, since its end would end its tasks."""
        if (leader := self._states.get(HELD_BACK_BY.get(part.name, ""))) is None:
            return False
        is_suspended = process is not None and process.status() == psutil.STATUS_STOPPED
        if leader.is_away:
            if process is not None and not is_suspended:
                log.warning("%s is suspended: %s is away", part.name, HELD_BACK_BY[part.name])
                process.suspend()
            return True
        if process is None or not is_suspended:
            return False
        if now - leader.answers_since < SETTLE_SECONDS:
            return True
        log.info("%s goes on", part.name)
        process.resume()
        return False

    def _start(self, part: Part, state: PartState, now: float) -> None:
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
        part.process.end_idle_leftovers()
        judge = self._states.get(JUDGED_THROUGH.get(part.name, ""))
        if judge is not None and judge.is_away:
            state.healthy_at = now
            return
        is_healthy = part.is_healthy()
        state.note_answer(now, is_healthy=is_healthy)
        if is_healthy:
            state.healthy_at = now
            part.ensure_started()
        elif (
            part.unhealthy_limit_seconds is not None
            and state.healthy_at
            and now - state.healthy_at > part.unhealthy_limit_seconds
        ):
            log.warning(
                "%s does not answer since %.0f s: restarting it", part.name, now - state.healthy_at
            )
            part.stop()
        state.healthy_at = state.healthy_at or now

    def _note_failure(self, part: Part, state: PartState, reason: str) -> None:
        state.last_error = reason
        self._pause(state, time.monotonic())
        log.error("%s could not be started: %s", part.name, reason)
        self._publish()

    @staticmethod
    def _pause(state: PartState, now: float) -> None:
        state.n_failures += 1
        state.next_try_at = now + min(
            FIRST_PAUSE_SECONDS * 2**state.n_failures, LONGEST_PAUSE_SECONDS
        )

    def _publish(self) -> None:
        """Rewrite the env file (a part may have got another port) and what `status` shows."""
        write_env(self._home, compose(self._home, self._groups).settings)
        state_file = self._home / "run" / "states.json"
        partial = state_file.with_suffix(".partial")
        partial.write_text(
            json.dumps({name: asdict(state) for name, state in self._states.items()})
        )
        partial.replace(state_file)


def read_states(home: Path) -> dict[str, PartState]:
    """Return what the running supervisor last said of each part; empty if none runs."""
    state_file = home / "run" / "states.json"
    if ServerProcess(home, NAME).find() is None or not state_file.is_file():
        return {}
    return {name: PartState(**state) for name, state in json.loads(state_file.read_text()).items()}


def ensure_supervisor(home: Path, groups: Sequence[str]) -> None:
    """Start the supervisor of a home for these groups, replacing one that watches others or was told other settings."""
    process = ServerProcess(home, NAME)
    argv = [sys.executable, "-m", __name__, "--home", str(home), "--groups", ",".join(groups)]
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("NIGHTSHIFT_") and name != "NIGHTSHIFT_PROCESS"
    }
    launch = Launch(argv, {**own, "NIGHTSHIFT_HOME": str(home)}, PROJECT_ROOT, inherits_env=True)
    if process.find() is not None:
        if not process.is_outdated(launch):
            return
        stop_supervisor(home)
    process.start(launch)


def stop_supervisor(home: Path) -> None:
    """End the supervisor; the parts, which are its children or were adopted, keep running."""
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
    lock = os.open(home / "run" / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("Another supervisor watches this home.")
    (home / "run" / "states.json").unlink(missing_ok=True)
    supervisor = Supervisor(home, arguments.groups)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.end())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor.run()


if __name__ == "__main__":
    main()
