"""Start, recognise and end one server process by its recorded pid and start time, never by its name."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil

START_TIME_TOLERANCE_SECONDS = 2.0
MAX_LOG_BYTES = 20_000_000
MARK = "NIGHTSHIFT_PROCESS"


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
        return hashlib.sha256(json.dumps([list(self.argv), dict(self.env), str(self.cwd)], sort_keys=True).encode()).hexdigest()


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
        """Start the process in its own session, with its output in the log file, and record it."""
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
        partial = self._record.with_suffix(".partial")
        partial.write_text(json.dumps({"pid": child.pid, "started_at": process.create_time(), "launch": launch.digest}))
        partial.replace(self._record)
        return process

    def stop(self, polite: signal.Signals = signal.SIGTERM, grace_seconds: float = 10.0) -> None:
        """End the process and whatever it has left behind; the polite signal comes first, then SIGKILL.

        Args:
            polite: Signal that asks the process to end.
            grace_seconds: How long it may take.
        """
        if (process := self.find()) is not None:
            process.send_signal(polite)
            _gone(process, grace_seconds)
        for survivor in [p for p in (self.find(), *self.members()) if p is not None]:
            _kill(survivor)
        self._record.unlink(missing_ok=True)

    def members(self) -> Iterator[psutil.Process]:
        """Yield every running process that was started by this part, also after the part itself was killed."""
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and not _is_ended(process):
                    yield process
            except psutil.Error:
                continue

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

    def _open_log(self) -> BinaryIO:
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        return os.fdopen(os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


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
