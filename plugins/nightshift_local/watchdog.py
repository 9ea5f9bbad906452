"""End the servers of a home when the program that started them is gone, however it died.

Tests and benchmarks stop their servers themselves; a SIGKILL leaves them no time for it. So each
starts one small process that waits for the starter's end on a pidfd, which the kernel makes
readable at any death, and then stops what the home runs. A death signal (PR_SET_PDEATHSIG) would be
simpler, but it fires when the starting *thread* ends, and a server that becomes another user loses
it.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from nightshift.settings import LIBRARY_ROOT
from nightshift_local.part import stop_parts
from nightshift_local.placement import prepare_home
from nightshift_local.process import START_TIME_TOLERANCE_SECONDS, Launch, ServerProcess
from nightshift_local.stack import all_parts
from nightshift_local.supervisor import stop_supervisor

NAME = "watchdog"


@contextmanager
def ends_with_us(home: Path) -> Iterator[None]:
    """Stop each server of a home when the block or this process ends, in whatever way.

    Args:
        home: Folder of local state; the block starts its servers.
    """
    process = ServerProcess(prepare_home(home), NAME)
    started_at = psutil.Process().create_time()
    argv = [sys.executable, "-m", __name__]
    argv += ["--home", str(home)]
    # The start time too: the pid may belong to another program when the child looks.
    argv += ["--pid", str(os.getpid()), "--started-at", str(started_at)]
    environment = {"PYTHONPATH": str(LIBRARY_ROOT)}
    launch = Launch(argv, environment, inherits_env=True)
    child = process.start(launch)
    try:
        yield
    finally:
        # The child is killed by its handle: its record is gone when the block deleted the home.
        child.kill()
        child.wait()
        if home.is_dir():
            stop_everything(prepare_home(home))


def wait_for_end(pid: int, started_at: float) -> None:
    """Return when the process that had this pid and start time has ended, or is no longer there."""
    try:
        starter = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        age_difference = abs(psutil.Process(pid).create_time() - started_at)
        if age_difference < START_TIME_TOLERANCE_SECONDS:
            select.select([starter], [], [])
    except psutil.NoSuchProcess:
        return
    finally:
        os.close(starter)


def stop_everything(home: Path) -> None:
    """Stop the supervisor, which would restart the parts, then every part; data remains."""
    stop_supervisor(home)
    stop_parts([part for part in all_parts(home) if part.process.was_started])


def main() -> None:
    """Wait for the starter's end, then stop the servers of its home."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--started-at", type=float, required=True)
    arguments = parser.parse_args()
    wait_for_end(arguments.pid, arguments.started_at)
    # A home that is deleted by now must not be created again.
    if arguments.home.is_dir():
        home = prepare_home(arguments.home)
        stop_everything(home)


if __name__ == "__main__":
    main()
