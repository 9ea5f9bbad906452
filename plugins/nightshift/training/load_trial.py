"""Let a model be loaded and answer in a child process first, with little memory and little time: LightGBM may die of a bad file.

The guard in ``model_text`` should leave nothing to die of; the child is there for what nobody has thought of.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.training import load_trial_child
from nightshift.training.golden import Golden
from nightshift.training.model_tokens import ModelTextError, refused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

DEADLINE_SECONDS = 4.0
"""With the checks before it and the end of the child a file that keeps LightGBM busy is refused within five seconds."""
CPU_SECONDS = 3
"""Processor time, which a busy machine does not use up; a model of 400 trees takes about 0.1."""
N_TRIES, STARVED_SECONDS = 3, 0.5
"""A child that is out of time but had less processor time than this was starved by the machine, which proves nothing about the model."""
MEMORY_BYTES = 1 << 30
"""Address space beside what the text takes."""
_MEMORY_PER_TEXT_BYTE = 20
_DOUBLE_BYTES = 8
_proved: set[str] = set()


class LoadTrialError(ModelTextError):
    """A model did not survive being loaded in a child process, or took too long."""

    code = "NS-MODEL-004"


def prove_in_child(text: str, golden: Golden, library: Path) -> None:
    """Load a checked text and let it answer in a child process, unless this process has seen the same text pass.

    Args:
        text: A text model that ``check_model_text`` has taken.
        golden: What it must answer.
        library: LightGBM's shared library.

    Raises:
        LoadTrialError: The child died, took too long or too much memory.
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
        raise LoadTrialError("The child that loaded the model gave half an answer.", got=f"{len(answer)} bytes", todo=_TODO)
    values = np.frombuffer(answer, dtype=np.float64)
    return values[:n_rows], values[n_rows:].reshape(n_rows, n_columns + 1)


def _run(content: bytes) -> bytes:
    """Return what the child wrote."""
    # Nothing of our environment, credentials least of all; -I -S keep the start at 0.03 s.
    command = [sys.executable, "-I", "-S", str(load_trial_child.__file__)]
    environment = {"OMP_NUM_THREADS": "1", **{name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}}
    for n_left in reversed(range(N_TRIES)):
        before = _seconds_of_children()
        try:
            done = subprocess.run(command, input=content, capture_output=True, env=environment, timeout=DEADLINE_SECONDS, check=False)  # noqa: S603
            break
        except subprocess.TimeoutExpired:
            was_starved = _seconds_of_children() - before < STARVED_SECONDS
            if not was_starved or not n_left:
                raise LoadTrialError("Loading the model took too long.", expected=f"at most {DEADLINE_SECONDS:g} s", todo=_TODO) from None
    if done.returncode == load_trial_child.REFUSED:
        raise refused("LightGBM does not take it", "a model", done.stderr.decode(errors="replace").strip())
    if done.returncode:
        raise LoadTrialError("Loading the model ended a child process.", got=_ending(done.returncode), todo=_TODO)
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
