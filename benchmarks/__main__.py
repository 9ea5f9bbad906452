"""Run the benchmarks one after another, store their results, and write docs/performance.md.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks [--quick] [--only scoring,ingest] [--against
    HEAD~1] [--page-only]

A full run takes an hour or two on two cores and replaces ``benchmarks/results/*.json``; ``--quick``
takes minutes, compares with the last full results, leaves the slowest peers out, and writes
nothing. ``--against`` runs each benchmark of another commit just before ours, with the same
packages, and stores the ratios of all figures with ours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    Benchmark("training", quick=("--rows=200000", "--trees=100", "--repeats=1", "--ways=")),
    Benchmark("profiles", quick=("--rows=300000", "--peer-rows=50000", "--repeats=1")),
    Benchmark(
        "scoring",
        quick=(
            "--rows=200000",
            "--repeats=1",
            "--ways=predict only,pandas,nightshift lightgbm,nightshift quickscorer",
        ),
    ),
    Benchmark("empty_night", quick=None),
    Benchmark("scaling", quick=None),
)


def main() -> int:
    """Run the requested benchmarks; return 1 when one failed or missed a limit."""
    arguments = _parse_arguments()
    if arguments.page_only:
        write_page()
        return 0
    selected = _select(arguments.only, is_quick=arguments.quick)
    with tempfile.TemporaryDirectory() as folder, _checkout(arguments.against) as other:
        results = Path(folder) if arguments.quick else RESULTS
        other_results = Path(folder) / "against"
        ended = {}
        for benchmark in selected:
            if other is not None:
                _run(benchmark, other_results, is_quick=arguments.quick, project=other)
            ended[benchmark.module] = _run(benchmark, results, is_quick=arguments.quick)
            file = f"{benchmark.module}.json"
            _store_ratios(results / file, other_results / file)
        _print_summary(ended, read_results(results), is_quick=arguments.quick)
    if arguments.quick:
        return 0
    write_page()
    return int(any(code for code, _ in ended.values()))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes; results are shown and not stored"
    )
    parser.add_argument("--only", default="", help="comma separated names")
    parser.add_argument("--against", default="", help="a commit, run in the same call")
    parser.add_argument(
        "--page-only", action="store_true", help="write the page from the stored results"
    )
    return parser.parse_args()


def _select(only: str, *, is_quick: bool) -> list[Benchmark]:
    names = only.split(",") if only else [benchmark.module for benchmark in BENCHMARKS]
    selected = [benchmark for benchmark in BENCHMARKS if benchmark.module in names]
    if is_quick:
        selected = [benchmark for benchmark in selected if benchmark.quick is not None]
    return selected


def _print_summary(
    ended: dict[str, tuple[int, float]], results: dict[str, Any], *, is_quick: bool
) -> None:
    """Print one line per benchmark, and its figures at full size and at the other commit."""
    full_results = read_results(RESULTS)
    print("\n=== summary")
    for name, (code, seconds) in ended.items():
        status = "limits met" if code == 0 else "MISSED a limit, or failed"
        print(f"{name:16} {status:26} {seconds:6.0f} s")
        result = results.get(name, {})
        if is_quick and result and name in full_results:
            _print_full_size(full_results[name]["limited"], result["limited"])
        if against := result.get("against"):
            for what, ratio in against["ratios"].items():
                print(f"    {what}: {ratio:.2f} x that of {against['commit']}")


def _print_full_size(full: dict[str, Any], quick: dict[str, Any]) -> None:
    """Print the limited figures next to those at full size; only their order is comparable."""
    for name, limited in quick.items():
        if name in full:
            print(f"    {name}: {limited['value']:.3g}, at full size {full[name]['value']:.3g}")


def _run(
    benchmark: Benchmark, folder: Path, *, is_quick: bool, project: Path = PROJECT_ROOT
) -> tuple[int, float]:
    """Run one benchmark; return its exit code and its seconds."""
    arguments = (benchmark.quick or ()) if is_quick else benchmark.full
    note = "" if project == PROJECT_ROOT else " (the other commit)"
    print(f"\n=== {benchmark.module} {' '.join(arguments)}{note}", flush=True)
    started = time.monotonic()
    result = f"--json={folder / f'{benchmark.module}.json'}"
    command = [sys.executable, "-m", f"benchmarks.{benchmark.module}", *arguments, result]
    environment = {**os.environ, "PYTHONPATH": str(project / "plugins")}
    code = subprocess.run(command, cwd=project, env=environment, check=False).returncode
    return code, time.monotonic() - started


@contextmanager
def _checkout(commit: str) -> Iterator[Path | None]:
    """Yield a working tree of another commit; None without one."""
    if not commit:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(PROJECT_ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", f"{folder}/tree", commit], check=True)
        try:
            yield Path(folder) / "tree"
        finally:
            subprocess.run([*git, "remove", "--force", f"{folder}/tree"], check=True)


def _store_ratios(ours: Path, theirs: Path) -> None:
    """Add to our result the ratios of its figures to those of the other commit."""
    if not (ours.is_file() and theirs.is_file()):
        return
    result = json.loads(ours.read_text(encoding="utf-8"))
    other = json.loads(theirs.read_text(encoding="utf-8"))
    other_figures = _figures(other)
    ratios = {}
    for name, value in _figures(result).items():
        if other_figures.get(name):
            ratios[name] = value / other_figures[name]
    result["against"] = {"commit": other["commit"], "ratios": ratios}
    ours.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _figures(result: dict[str, Any]) -> dict[str, float]:
    """Return all numbers of a result, those with a limit included."""
    limited = {name: limited["value"] for name, limited in result["limited"].items()}
    return {**result["figures"], **limited}


if __name__ == "__main__":
    sys.exit(main())
