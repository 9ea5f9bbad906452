"""Run the benchmarks one after another, keep their results, and write docs/performance.md from them.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks [--quick] [--only scoring,ingest] [--against
    HEAD~1] [--page-only]

A full run takes an hour or two on two cores and replaces ``benchmarks/results/*.json``; ``--quick``
takes minutes, compares with the last full results, leaves the slowest peers out, and writes
nothing. ``--against`` runs each benchmark of another commit just before ours, with the same
packages, and keeps the ratios of all figures beside ours.
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
    """Run what was asked for; return 1 when something failed or a limit is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes; results are shown and not kept"
    )
    parser.add_argument("--only", default="", help="comma separated names")
    parser.add_argument("--against", default="", help="a commit, run in the same call")
    parser.add_argument(
        "--page-only", action="store_true", help="write the page from the results that are there"
    )
    given = parser.parse_args()
    if given.page_only:
        write_page()
        return 0
    wanted = given.only.split(",") if given.only else [one.module for one in BENCHMARKS]
    chosen = [
        one
        for one in BENCHMARKS
        if one.module in wanted and not (given.quick and one.quick is None)
    ]
    with tempfile.TemporaryDirectory() as folder, _checkout(given.against) as other:
        kept = Path(folder) if given.quick else RESULTS
        ended = {}
        for one in chosen:
            theirs = Path(folder) / "against"
            if other is not None:
                _run(one, theirs, is_quick=given.quick, project=other)
            ended[one.module] = _run(one, kept, is_quick=given.quick)
            _keep_ratios(kept / f"{one.module}.json", theirs / f"{one.module}.json")
        before, now = read_results(RESULTS), read_results(kept)
    print("\n=== summary")
    for name, (code, seconds) in ended.items():
        print(
            f"{name:16} {'limits met' if code == 0 else 'MISSED a limit, or failed':26} {seconds:6.0f} s"
        )
        if given.quick and name in before and name in now:
            print(
                "".join(
                    f"    {line}\n"
                    for line in _beside(before[name]["limited"], now[name]["limited"])
                ),
                end="",
            )
        if against := now.get(name, {}).get("against"):
            print(
                "".join(
                    f"    {what}: {ratio:.2f} x that of {against['commit']}\n"
                    for what, ratio in against["ratios"].items()
                ),
                end="",
            )
    if not given.quick:
        write_page()
    return int(any(code for code, _ in ended.values()) and not given.quick)


def _run(
    one: Benchmark, folder: Path, *, is_quick: bool, project: Path = PROJECT_ROOT
) -> tuple[int, float]:
    arguments = (one.quick or ()) if is_quick else one.full
    print(
        f"\n=== {one.module} {' '.join(arguments)}{'' if project == PROJECT_ROOT else ' (the other commit)'}",
        flush=True,
    )
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        f"benchmarks.{one.module}",
        *arguments,
        f"--json={folder / f'{one.module}.json'}",
    ]
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


def _keep_ratios(ours: Path, theirs: Path) -> None:
    """Write into our result how its figures stand to the other commit's, where both have them."""
    if not (ours.is_file() and theirs.is_file()):
        return
    now, before = (json.loads(path.read_text(encoding="utf-8")) for path in (ours, theirs))
    numbers = [
        {**one["figures"], **{name: limited["value"] for name, limited in one["limited"].items()}}
        for one in (now, before)
    ]
    ratios = {
        name: number / numbers[1][name]
        for name, number in numbers[0].items()
        if numbers[1].get(name)
    }
    ours.write_text(
        json.dumps({**now, "against": {"commit": before["commit"], "ratios": ratios}}, indent=1)
        + "\n",
        encoding="utf-8",
    )


def _beside(before: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> list[str]:
    """Return the limited figures of this run beside those of the last full one; other sizes, so only their order says something."""
    return [
        f"{name}: {now[name]['value']:.3g}, at full size {before[name]['value']:.3g}"
        for name in now
        if name in before
    ]


if __name__ == "__main__":
    sys.exit(main())
