"""Kept machine code: what a turned bit left of it is never run."""

from __future__ import annotations

import os
import subprocess
import sys
from random import Random

import pytest

from nightshift.settings import PROJECT_ROOT

LOOP = """
import numpy as np

def add_up(values, factor):
    total = 0.0
    for value in values:
        total += value * factor
    return total
"""
CALL = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from loop import add_up
from nightshift.kernels import jit
print(jit(add_up)(np.arange(100.0), 2.0))
"""


@pytest.fixture
def call(tmp_path):
    """Return a function that runs the kernel in an own process, and the folder of its code."""
    (tmp_path / "loop.py").write_text(LOOP)
    folder = tmp_path / "kernels"
    environment = {
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
        "NUMBA_CACHE_DIR": str(folder),
        "PATH": os.environ["PATH"],
    }

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CALL, str(tmp_path)]
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=100, check=False
        )

    return run, folder


def test_machine_code_is_kept_and_read_again(call):
    run, folder = call
    assert run().stdout == "9900.0\n"
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb?")}
    assert {path.suffix for path in kept} == {".nbi", ".nbc"}

    assert run().stdout == "9900.0\n"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nb?")} == kept


def _damage_and_run(call, seed: int, n: int) -> None:
    run, folder = call
    run()
    whole = {path: path.read_bytes() for path in sorted(folder.rglob("*.nb?"))}
    dice = Random(seed)  # noqa: S311 - reproducible damage, no secret
    for number in range(n):
        path = list(whole)[number % len(whole)]
        damaged = bytearray(whole[path])
        kind = number // len(whole) % 3
        if kind == 0:
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        elif kind == 1:
            damaged = damaged[: dice.randrange(len(damaged))]
        else:
            start = dice.randrange(len(damaged))
            damaged[start : start + 64] = bytes(len(damaged[start : start + 64]))
        path.write_bytes(damaged)
        done = run()
        assert (done.returncode, done.stdout) == (0, "9900.0\n"), (
            number,
            path.name,
            kind,
            done.stderr[-300:],
        )
        for one, content in whole.items():
            one.write_bytes(content)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_damaged_machine_code_is_compiled_again(call):
    _damage_and_run(call, 1, 4)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_damage_of_kept_machine_code_ends_the_process(call):
    _damage_and_run(call, 2, 120)
