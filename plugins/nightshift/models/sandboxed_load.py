"""Let a model be loaded and answer in a child process first, with little memory and little time: LightGBM may die of a bad file.

The guard in ``model_text`` should leave nothing to die of; the child is there for what nobody has
thought of.
"""

from __future__ import annotations

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
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 4.0
"""With the checks before it and the end of the child a file that keeps LightGBM busy is refused
within five seconds.
"""
CPU_SECONDS = 3
"""Processor time, which a busy machine does not use up; a model of 400 trees takes about 0.1."""
N_TRIES, STARVED_SECONDS = 4, 2.4
"""A child that is out of time but had less processor time than this was starved by the machine,
which proves nothing about the model.

Each further child gets twice the time: a minute in all.
"""
MEMORY_BYTES = 1 << 30
"""Address space beside what the text takes."""
_MEMORY_PER_TEXT_BYTE = 20
_DOUBLE_BYTES = 8
_proved: set[str] = set()


class LoadTrialError(ModelTextError):
    """A model did not survive being loaded in a child process, or took too long."""

    code = "NS-MODEL-004"


class LoadTimeoutError(ModelTextError):
    """The machine gave a model no time to be loaded: nothing is known about the model."""

    code = "NS-MODEL-007"
    is_retryable = True


def retry_starved(work: Callable[[], Result], seconds: float) -> Result:
    """Return what ``work`` gives; while the machine is too busy to load a model, try again, as long as there is time.

    Raises:
        LoadTimeoutError: It is too busy all the time.
    """
    give_up = time.monotonic() + seconds
    while True:
        try:
            return work()
        except LoadTimeoutError as error:
            if time.monotonic() > give_up:
                raise
            logger.warning("The model is loaded again:\n%s", error)


def check_in_child(text: str, golden: Golden, library: Path) -> None:
    """Load a checked text and let it answer in a child process, unless this process has seen the same text pass.

    Args:
        text: A text model that ``check_model_text`` has taken.
        golden: What it must answer.
        library: LightGBM's shared library.

    Raises:
        LoadTrialError: The child died, took too much processor time or memory.
        LoadTimeoutError: The machine was too busy to tell.
        GoldenError: It answers otherwise.
        ModelTextError: LightGBM refuses the text.
    """
    digest = sha256(f"{library} {text}".encode()).hexdigest()
    if digest in _proved:
        return
    golden.compare(*_answers(text, golden.matrix, library))
    _proved.add(digest)


def _answers(text: str, matrix: Matrix, library: Path) -> tuple[Vector, Matrix]:
    """Return the child's raw scores, shape (n,), and contributions, shape (n, k + 1)."""
    import numpy as np

    n_rows, n_columns = matrix.shape
    order = {
        "library": str(library),
        "n_rows": n_rows,
        "n_columns": n_columns,
        "memory_bytes": MEMORY_BYTES + _MEMORY_PER_TEXT_BYTE * len(text),
        "cpu_seconds": CPU_SECONDS,
        "text_bytes": len(text.encode()),
    }
    answer = _run(json.dumps(order).encode() + b"\n" + text.encode() + matrix.tobytes())
    if len(answer) != _DOUBLE_BYTES * n_rows * (n_columns + 2):
        raise LoadTrialError(
            "The child that loaded the model gave half an answer.",
            got=f"{len(answer)} bytes",
            todo=_TODO,
        )
    values = np.frombuffer(answer, dtype=np.float64)
    return values[:n_rows], values[n_rows:].reshape(n_rows, n_columns + 1)


def _run(content: bytes) -> bytes:
    """Return what the child wrote."""
    # Nothing of our environment, credentials least of all; -I -S keep the start at 0.03 s.
    command = [sys.executable, "-I", "-S", str(sandboxed_load_child.__file__)]
    environment = {
        "OMP_NUM_THREADS": "1",
        **{name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in os.environ},
    }
    deadlines = [DEADLINE_SECONDS * 2**place for place in range(N_TRIES)]
    done: subprocess.CompletedProcess[bytes] | None = None
    for seconds in deadlines:
        before = _seconds_of_children()
        try:
            done = subprocess.run(  # noqa: S603
                command,
                input=content,
                capture_output=True,
                env=environment,
                timeout=seconds,
                check=False,
            )
            break
        except subprocess.TimeoutExpired:
            used = _seconds_of_children() - before
            if used >= STARVED_SECONDS:
                raise LoadTrialError(
                    "Loading the model took too long.",
                    expected=f"at most {CPU_SECONDS} s",
                    todo=_TODO,
                ) from None
    if done is None:
        raise LoadTimeoutError(
            "The machine was too busy to load the model.",
            expected=f"{STARVED_SECONDS:g} s of processor time within {sum(deadlines):g} s",
            got="less",
            todo="Rerun the task when the machine is less busy; nothing is wrong with the model as far as is known.",
        )
    if done.returncode == sandboxed_load_child.REFUSED:
        raise refused(
            "LightGBM does not take it", "a model", done.stderr.decode(errors="replace").strip()
        )
    if done.returncode:
        raise LoadTrialError(
            "Loading the model ended a child process.", got=_ending(done.returncode), todo=_TODO
        )
    return done.stdout


def _seconds_of_children() -> float:
    """Return the processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


_TODO = "Load another version, or train again; nothing was loaded in this process."
