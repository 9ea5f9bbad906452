"""Kept machine code: what a turned bit left of it is never run."""

from __future__ import annotations

import os
import subprocess
import sys
from random import Random

import pytest

from nightshift import sealed_file
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
import resource, sys
sys.path.insert(0, sys.argv[1])
if len(sys.argv) > 2:
    # As on a full disk: no file may grow beyond so many bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
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
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"],
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CALL, str(tmp_path), *arguments]
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


def test_kernel_runs_when_the_disk_has_no_space_for_its_machine_code(call):
    run, folder = call
    done = run("100")
    assert (done.returncode, done.stdout) == (0, "9900.0\n"), done.stderr[-300:]
    assert "cannot be written" in done.stderr
    # What is left there hinders nobody later.
    assert run().stdout == "9900.0\n"
    assert len([path for path in folder.rglob("*.nb?") if path.stat().st_size > 100]) == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_machine_code_is_compiled_again_when_its_file_is_of_no_use(call, suffix):
    run, folder = call
    run()
    (path,) = folder.rglob(f"*{suffix}")
    # A class that another release of numba had.
    sealed_file.write(path, b"cnumba.core.of_another_release\nThing\n.")
    done = run()
    assert (done.returncode, done.stdout) == (0, "9900.0\n"), done.stderr[-300:]

    path.unlink()
    path.mkdir()
    done = run()
    assert (done.returncode, done.stdout) == (0, "9900.0\n"), done.stderr[-300:]


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
