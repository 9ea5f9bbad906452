"""Start, recognise and end a server process by its recorded pid and start time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from nightshift_local.home_files import write_private

START_TIME_TOLERANCE_SECONDS = 2.0
MAX_LOG_BYTES = 20_000_000
TAIL_LINES = 12
MARK = "NIGHTSHIFT_PROCESS"
"""Variable that marks every process of a part with home and name."""
PYTHON = os.path.realpath(sys.executable)


@dataclass(frozen=True)
class Launch:
    """How a server process is started.

    Attributes:
        argv: Program and arguments.
        env: Environment of the process.
        cwd: Working folder.
        uid: User to become; None: stay who we are.
        gid: Group to become; None: stay who we are.
        inherits_env: Whether our own environment is added, below ``env``.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = Path("/")
    uid: int | None = None
    gid: int | None = None
    inherits_env: bool = False

    @property
    def digest(self) -> str:
        """Return a digest of the settings; a process with another digest is outdated."""
        settings = [list(self.argv), dict(self.env), str(self.cwd)]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class ServerProcess:
    """One detached server process of a home; any later program finds it again.

    Args:
        home: Folder of local state, prepared.
        name: Name of the part; also of its record and log file.
    """

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self.log_file = home / "logs" / f"{name}.log"
        self._record = home / "run" / f"{name}.json"
        self._mark = f"{home}:{name}"

    @property
    def was_started(self) -> bool:
        """Return whether a start is recorded that no stop has ended; the process may be dead."""
        return self._record.exists()

    def find(self) -> psutil.Process | None:
        """Return the running process that was recorded at its start, or None."""
        record = self._read_record()
        try:
            process = psutil.Process(record["pid"])
            # The pid of an ended process may belong to another program by now.
            age_difference = abs(process.create_time() - record["started_at"])
            if age_difference > START_TIME_TOLERANCE_SECONDS or _is_ended(process):
                return None
        except (KeyError, psutil.NoSuchProcess):
            return None
        return process

    def is_outdated(self, launch: Launch) -> bool:
        """Return whether the recorded process was started with other arguments or settings."""
        return self._read_record().get("launch") != launch.digest

    def start(self, launch: Launch) -> psutil.Process:
        """Start the process in its own session, with its output in the log file, and record it.

        Idle workers of a killed predecessor are ended first; busy ones have children and continue.
        """
        self.end_idle_leftovers()
        inherited = dict(os.environ) if launch.inherits_env else {}
        with self._open_log() as log:
            child = subprocess.Popen(  # noqa: S603 - argv is ours
                list(launch.argv),
                env=inherited | dict(launch.env) | {MARK: self._mark},
                cwd=launch.cwd,
                user=launch.uid,
                group=launch.gid,
                extra_groups=None if launch.uid is None else [],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        # Detached on purpose: the child outlives this process, and find() reaps it.
        child.returncode = 0
        process = psutil.Process(child.pid)
        # Busy workers of a predecessor keep their session, so that stop() still finds them.
        sessions = sorted({os.getsid(member.pid) for member in self.members()} | {child.pid})
        self._write_record(
            pid=child.pid, started_at=process.create_time(), launch=launch.digest, sessions=sessions
        )
        return process

    def stop(
        self,
        polite: signal.Signals = signal.SIGTERM,
        grace_seconds: float = 10.0,
        *,
        with_children: bool = True,
    ) -> None:
        """End the process and its leftovers: by a polite signal first, then by SIGKILL.

        Args:
            polite: Signal that asks the process to end.
            grace_seconds: How long it may take.
            with_children: Whether its children end too when they have opened a session of their
                own.
        """
        survivors: list[psutil.Process] = []
        if (process := self.find()) is not None:
            survivors.append(process)
            # Children are listed before the signal: afterwards nobody knows whose they were.
            if with_children:
                survivors += process.children(recursive=True)
            process.send_signal(polite)
            _wait_for_end(process, grace_seconds)
        for survivor in {*survivors, *self.members()}:
            _kill(survivor)
        self._record.unlink(missing_ok=True)

    def end_idle_leftovers(self) -> None:
        """End the idle workers of an earlier, killed process; busy ones finish their tasks."""
        leader = self.find()
        members = self.members()
        pids = {member.pid for member in members}
        for member in members:
            is_current = leader is not None and os.getsid(member.pid) == leader.pid
            is_task = member.ppid() in pids
            if not (is_current or is_task or member.children()):
                _kill(member)

    def members(self) -> list[psutil.Process]:
        """Return the running processes of this part's sessions, also when the part was killed."""
        sessions = set(self._read_record().get("sessions", []))
        if not sessions:
            return []
        return [member for member in psutil.process_iter() if self._is_member(member, sessions)]

    def _is_member(self, process: psutil.Process, sessions: set[int]) -> bool:
        """Return whether a process is in one of the sessions and carries our mark."""
        try:
            if os.getsid(process.pid) not in sessions or _is_ended(process):
                return False
            mark = process.environ().get(MARK)
            if mark is None:
                # A process title overwrites the environment: our own interpreter counts as ours.
                return bool(process.exe() == PYTHON)
        except (OSError, psutil.Error):
            return False
        return bool(mark == self._mark)

    def log_tail(self) -> str:
        """Return the last lines of the log file."""
        if not self.log_file.exists():
            return ""
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def _read_record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._record.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return record

    def _write_record(self, **content: object) -> None:
        write_private(self._record, json.dumps(content))

    def _open_log(self) -> BinaryIO:
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        descriptor = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "ab")


def _is_ended(process: psutil.Process) -> bool:
    """Return whether the process is dead; a dead child of ours is reaped."""
    if process.status() != psutil.STATUS_ZOMBIE:
        return False
    _wait_for_end(process, 0)
    return True


def _wait_for_end(process: psutil.Process, seconds: float) -> None:
    with suppress(psutil.TimeoutExpired):
        process.wait(seconds)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        process.kill()
        process.wait(5)
