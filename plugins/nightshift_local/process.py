"""Start, recognise and end one server process by its recorded pid and start time, never by its name."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil

START_TIME_TOLERANCE_SECONDS = 2.0
MAX_LOG_BYTES = 20_000_000
MARK = "NIGHTSHIFT_PROCESS"
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
        """Return a digest of what the process is told; another digest means that a running process is outdated."""
        return hashlib.sha256(
            json.dumps([list(self.argv), dict(self.env), str(self.cwd)], sort_keys=True).encode()
        ).hexdigest()


class ServerProcess:
    """One detached server process of a home, found again by any later program.

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
        """Return whether a start is recorded that no stop has ended, whatever became of the process."""
        return self._record.exists()

    def find(self) -> psutil.Process | None:
        """Return the running process that was recorded at its start, or None."""
        record = self._read_record()
        try:
            process = psutil.Process(record["pid"])
            if abs(process.create_time() - record["started_at"]) > START_TIME_TOLERANCE_SECONDS:
                return None
            return None if _is_ended(process) else process
        except (KeyError, psutil.NoSuchProcess):
            return None

    def is_outdated(self, launch: Launch) -> bool:
        """Return whether the recorded process was started with other arguments or settings than these."""
        return self._read_record().get("launch") != launch.digest

    def start(self, launch: Launch) -> psutil.Process:
        """Start the process in its own session, with its output in the log file, and record it.

        What a killed predecessor left behind is ended first, except for workers that are busy (they
        have children).
        """
        self.end_idle_leftovers()
        with self._open_log() as log:
            child = subprocess.Popen(  # noqa: S603 - argv is ours
                list(launch.argv),
                env={**(os.environ if launch.inherits_env else {}), **launch.env, MARK: self._mark},
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
        child.returncode = 0  # detached on purpose: it outlives us, and find() reaps it
        process = psutil.Process(child.pid)
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
        """End the process and whatever it has left behind; the polite signal comes first, then SIGKILL.

        Args:
            polite: Signal that asks the process to end.
            grace_seconds: How long it may take.
            with_children: Whether its children end too when they have opened a session of their
                own.
        """
        process = self.find()
        family = process.children(recursive=True) if process is not None and with_children else []
        if process is not None:
            process.send_signal(polite)
            _gone(process, grace_seconds)
        for survivor in {*family, *self.members(), *([process] if process else [])}:
            _kill(survivor)
        self._record.unlink(missing_ok=True)

    def end_idle_leftovers(self) -> None:
        """End the idle workers that an earlier, killed process of this part has left behind; a busy one and its task go on to their end."""
        leader = self.find()
        members = self.members()
        pids = {member.pid for member in members}
        for member in members:
            if (
                (leader is None or os.getsid(member.pid) != leader.pid)
                and not member.children()
                and member.ppid() not in pids
            ):
                _kill(member)

    def members(self) -> list[psutil.Process]:
        """Return the running processes in the sessions that this part has opened, also after the part itself was killed."""
        sessions = set(self._read_record().get("sessions", []))
        return [
            process
            for process in psutil.process_iter()
            if sessions and self._is_member(process, sessions)
        ]

    def _is_member(self, process: psutil.Process, sessions: set[int]) -> bool:
        """Return whether a process is in one of the sessions and carries our mark, or had it overwritten by its title."""
        try:
            if os.getsid(process.pid) not in sessions or _is_ended(process):
                return False
            environment = process.environ()
            return environment.get(MARK, self._mark) == self._mark and bool(
                MARK in environment or process.exe() == PYTHON
            )
        except (OSError, psutil.Error):
            return False

    def log_tail(self, n_lines: int = 12) -> str:
        """Return the last lines of the log file."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-n_lines:])

    def _read_record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(self._record.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return record

    def _write_record(self, **content: object) -> None:
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps(content))
        partial.replace(self._record)

    def _open_log(self) -> BinaryIO:
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        return os.fdopen(
            os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab"
        )


def _is_ended(process: psutil.Process) -> bool:
    """Return whether the process is dead; a dead child of ours is reaped."""
    if process.status() != psutil.STATUS_ZOMBIE:
        return False
    _gone(process, 0)
    return True


def _gone(process: psutil.Process, seconds: float) -> bool:
    try:
        process.wait(seconds)
    except psutil.TimeoutExpired:
        return False
    return True


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        process.wait(5)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        return
