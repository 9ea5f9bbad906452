"""Run the benchmarks one after another, keep their results, and write docs/performance.md from them.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks [--quick] [--only scoring,ingest] [--page-only]

A full run takes an hour or two on two cores and replaces ``benchmarks/results/*.json``; ``--quick`` takes minutes, compares with the last
full results, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.page import RESULTS, read_results, write_page

from nightshift.settings import PROJECT_ROOT


@dataclass(frozen=True)
class Benchmark:
    """One module of this folder.

    Attributes:
        module: Its name.
        full: Arguments of a full run.
        quick: Arguments of a quick one; None leaves it out there.
    """

    module: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ()


BENCHMARKS = (
    Benchmark("dag_parsing", quick=("--repeats=2",)),
    Benchmark("exact_reasons", quick=("--rounds=1",)),
    Benchmark("write_path", quick=("--rows=100000", "--repeats=3")),
    Benchmark("evidence_gate", quick=("--rows=20000",)),
    Benchmark("ingest", quick=("--rows=600000", "--repeats=1")),
    Benchmark("training", quick=("--rows=200000", "--trees=100", "--repeats=1")),
    Benchmark("profiles", quick=("--rows=300000", "--peer-rows=50000", "--repeats=1")),
    Benchmark("scoring", quick=("--rows=200000", "--repeats=1")),
    Benchmark("scaling", quick=None),
)


def main() -> int:
    """Run what was asked for; return 1 when something failed or a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes; results are shown and not kept")
    parser.add_argument("--only", default="", help="comma separated names")
    parser.add_argument("--page-only", action="store_true", help="write the page from the results that are there")
    given = parser.parse_args()
    if given.page_only:
        write_page()
        return 0
    wanted = given.only.split(",") if given.only else [one.module for one in BENCHMARKS]
    chosen = [one for one in BENCHMARKS if one.module in wanted and not (given.quick and one.quick is None)]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) if given.quick else RESULTS
        ended = {one.module: _run(one, kept, is_quick=given.quick) for one in chosen}
        before, now = read_results(RESULTS), read_results(kept)
    print("\n=== summary")
    for name, (code, seconds) in ended.items():
        print(f"{name:16} {'limits met' if code == 0 else 'MISSED a limit, or failed':26} {seconds:6.0f} s")
        if given.quick and name in before and name in now:
            print("".join(f"    {line}\n" for line in _against(before[name]["limited"], now[name]["limited"])), end="")
    if not given.quick:
        write_page()
    return int(any(code for code, _ in ended.values()) and not given.quick)


def _run(one: Benchmark, folder: Path, *, is_quick: bool) -> tuple[int, float]:
    arguments = (one.quick or ()) if is_quick else one.full
    print(f"\n=== {one.module} {' '.join(arguments)}", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.{one.module}", *arguments, f"--json={folder / f'{one.module}.json'}"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "plugins")}
    code = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, check=False).returncode
    return code, time.monotonic() - started


def _against(before: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> list[str]:
    """Return the limited figures of this run beside those of the last full one; other sizes, so only their order says something."""
    return [f"{name}: {now[name]['value']:.3g}, at full size {before[name]['value']:.3g}" for name in now if name in before]


if __name__ == "__main__":
    sys.exit(main())
