"""Load a model in a child process first, with limited memory and time: LightGBM may die of it.

The checks of ``model_format`` should leave nothing to die of; the child is there for what they
overlook.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nightshift.models import sandboxed_load_child
from nightshift.models.golden import Golden
from nightshift.models.model_format.tokens import ModelTextError, refused

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix


Result = TypeVar("Result")
logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 4.0
"""Of the first child. With the checks before and the end of the child, a file that keeps LightGBM
busy is refused within five seconds.
"""
CPU_SECONDS = 3
"""Processor time, which a busy machine does not use up; a model of 400 trees takes about 0.1."""
N_TRIES = 4
"""Each further child gets twice the time: a minute in all."""
STARVED_SECONDS = 2.4
"""A child that ran out of time with less processor time than this was starved by the machine,
which says nothing about the model.
"""
MEMORY_BYTES = 1 << 30
"""Address space besides that of the text."""
_MEMORY_PER_TEXT_BYTE = 20
_DOUBLE_BYTES = 8
_INHERITED = ("LD_LIBRARY_PATH", "TMPDIR")
_NO_PROCESS = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
"""Why the system starts no further process; no fault of the model."""
_TODO = "Load another version, or train again; nothing was loaded in this process."
proved: set[str] = set()
"""Digests of library and text that passed in this process: a model is proved once."""


class LoadTrialError(ModelTextError):
    """A model did not survive being loaded in a child process, or took too long."""

    code = "NS-MODEL-004"


class LoadTimeoutError(ModelTextError):
    """The machine was too busy to load a model: nothing is known about the model."""

    code = "NS-MODEL-007"
    is_retryable = True


def retry_starved(work: Callable[[], Result], seconds: float) -> Result:
    """Return the result of ``work``; repeat it while the machine is too busy to load a model.

    Raises:
        LoadTimeoutError: The machine is too busy for all of the seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except LoadTimeoutError as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("The model is loaded again:\n%s", error)


def check_in_child(text: str, golden: Golden, library: Path) -> None:
    """Load a text in a child process and compare its answers, once per process and text.

    Args:
        text: A text model that ``read_model`` has accepted.
        golden: Its expected answers.
        library: LightGBM's shared library.

    Raises:
        LoadTrialError: The child died, or took too much processor time or memory.
        LoadTimeoutError: The machine was too busy to tell.
        GoldenError: The answers differ.
        ModelTextError: LightGBM refuses the text.
    """
    # A proof counts for the library that the child has loaded.
    digest = sha256(f"{library} {text}".encode()).hexdigest()
    if digest in proved:
        return
    golden.compare(*_answers(text, golden, library))
    proved.add(digest)


def _answers(text: str, golden: Golden, library: Path) -> tuple[Matrix, Matrix]:
    """Return the child's raw scores and contributions, in the shapes of the golden ones."""
    import numpy as np

    matrix, n_scores = golden.matrix, golden.n_scores
    n_rows, n_columns = matrix.shape
    request = {
        "library": str(library),
        "n_rows": n_rows,
        "n_columns": n_columns,
        "n_scores": n_scores,
        "memory_bytes": MEMORY_BYTES + _MEMORY_PER_TEXT_BYTE * len(text),
        "cpu_seconds": CPU_SECONDS,
        "text_bytes": len(text.encode()),
    }
    answer = _run(json.dumps(request).encode() + b"\n" + text.encode() + matrix.tobytes())
    if len(answer) != _DOUBLE_BYTES * n_rows * n_scores * (n_columns + 2):
        raise LoadTrialError(
            "The child that loaded the model gave an incomplete answer.",
            got=f"{len(answer)} bytes",
            todo=_TODO,
        )
    values = np.frombuffer(answer, dtype=np.float64)
    # The child wrote the scores of n rows, then n rows of contributions.
    raw, added = np.split(values, [n_rows * n_scores])
    raw = raw.reshape(n_rows, n_scores) if n_scores > 1 else raw
    return raw, added.reshape(n_rows, -1)


def _run(content: bytes) -> bytes:
    """Return the child's output for an input."""
    finished = _run_with_patience(content)
    if finished.returncode == sandboxed_load_child.REFUSED:
        message = finished.stderr.decode(errors="replace").strip()
        raise refused("LightGBM does not accept it", "a model", message)
    if finished.returncode:
        raise LoadTrialError(
            "Loading the model ended a child process.",
            got=_ending(finished.returncode),
            todo=_TODO,
        )
    return finished.stdout


def _run_with_patience(content: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run children with longer and longer deadlines until one is not starved by the machine."""
    # -I -S keep the start at 0.03 s.
    command = [sys.executable, "-I", "-S", str(sandboxed_load_child.__file__)]
    # Nothing else of our environment: credentials least of all.
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    deadlines = [DEADLINE_SECONDS * 2**number for number in range(N_TRIES)]
    for seconds in deadlines:
        used_before = _seconds_of_children()
        try:
            return subprocess.run(  # noqa: S603
                command,
                input=content,
                capture_output=True,
                env={**environment, "OMP_NUM_THREADS": "1"},
                timeout=seconds,
                check=False,
            )
        except OSError as error:
            if error.errno not in _NO_PROCESS:
                raise
            # As long as a child would have had: other processes may end meanwhile.
            time.sleep(seconds)
        except subprocess.TimeoutExpired:
            used = _seconds_of_children() - used_before
            # It had the processor and did not finish: the model is to blame, not the machine.
            if used >= STARVED_SECONDS:
                raise LoadTrialError(
                    "Loading the model took too long.",
                    expected=f"at most {CPU_SECONDS} s",
                    todo=_TODO,
                ) from None
    raise LoadTimeoutError(
        "The machine was too busy to load the model.",
        expected=f"a child process with {STARVED_SECONDS:g} s of processor time within"
        f" {sum(deadlines):g} s",
        got="none, or one with less",
        todo="Rerun the task when the machine is less busy; no fault of the model is known.",
    )


def _seconds_of_children() -> float:
    """Return the processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # RLIMIT_CPU counts the kernel's share too.
    return used.ru_utime + used.ru_stime


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    # Real-time signals have no name.
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
