"""A part is known by its pid and start time, and what it leaves behind is ended."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from nightshift_local.placement import prepare_home
from nightshift_local.process import Launch, ServerProcess

SLEEP = Launch([sys.executable, "-c", "import time; time.sleep(60)"], {"PATH": "/usr/bin:/bin"})
PARENT = Launch(
    [
        sys.executable,
        "-c",
        "import subprocess, sys\n"  # noqa: ISC004 - one program
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])",
    ],
    {"PATH": "/usr/bin:/bin"},
)

GRANDPARENT = Launch(
    [sys.executable, "-c", f"import subprocess; subprocess.run({list(PARENT.argv)!r})"],
    {"PATH": "/usr/bin:/bin"},
)


@pytest.fixture
def part(tmp_path):
    process = ServerProcess(prepare_home(tmp_path / "a home"), "part")
    yield process
    process.stop(grace_seconds=2)


def _wait_for(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_process_is_found_by_another_program_when_it_runs(part, tmp_path):
    started = part.start(SLEEP)
    assert ServerProcess((tmp_path / "a home").resolve(), "part").find() == started


def test_nothing_is_found_when_process_was_killed(part):
    os.kill(part.start(SLEEP).pid, signal.SIGKILL)
    assert _wait_for(lambda: part.find() is None)


def test_pid_of_another_program_is_not_ours_when_start_time_differs(part, tmp_path):
    record = tmp_path / "a home" / "run" / "part.json"
    record.write_text(json.dumps({"pid": os.getpid(), "started_at": 1000.0, "sessions": []}))
    assert part.find() is None
    part.stop()
    assert psutil.pid_exists(os.getpid())


def test_leftover_child_is_ended_when_its_parent_was_killed(part):
    leader = part.start(PARENT)
    assert _wait_for(leader.children)
    child = leader.children()[0]
    leader.kill()
    assert _wait_for(lambda: part.find() is None)
    assert part.members() == [child]
    part.end_idle_leftovers()
    assert _wait_for(lambda: not child.is_running())


def test_busy_worker_and_its_task_go_on_when_the_part_was_killed(part):
    leader = part.start(GRANDPARENT)
    assert _wait_for(lambda: len(leader.children(recursive=True)) == 2)
    worker, task = leader.children(recursive=True)
    leader.kill()
    assert _wait_for(lambda: part.find() is None)
    part.end_idle_leftovers()
    assert worker.is_running()
    assert task.is_running()
    task.kill()
    _wait_for(lambda: not task.is_running())


def test_children_end_too_when_part_is_stopped(part):
    leader = part.start(PARENT)
    assert _wait_for(leader.children)
    family = [leader, *leader.children()]
    part.stop(grace_seconds=2)
    assert _wait_for(lambda: not any(process.is_running() for process in family))
    assert not part.was_started


def test_process_is_outdated_when_its_settings_changed(part):
    part.start(SLEEP)
    assert not part.is_outdated(SLEEP)
    assert part.is_outdated(Launch(SLEEP.argv, {**SLEEP.env, "X": "1"}))


def test_log_is_closed_to_others_when_part_starts(part):
    part.start(SLEEP)
    assert Path(part.log_file).stat().st_mode & 0o077 == 0
