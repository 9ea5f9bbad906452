"""How time and memory of ingest, scoring and profile grow with the rows of one partition.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.scaling [--rows
    100000,1000000,10000000,30000000] [--parts ingest,scoring]

Each size is a run of the part's own benchmark, ours alone, with a server of its own; the slope is
that of the logarithms between the two largest sizes: 1 is proportional.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.result import Limited, Result

from nightshift.settings import PROJECT_ROOT

PARTS = {
    "ingest": (["--repeats=1"], "nightshift, s", "peak memory, MiB"),
    "scoring": (
        ["--repeats=1", "--ways=nightshift quickscorer"],
        "nightshift quickscorer, s",
        "nightshift quickscorer, peak MiB",
    ),
    "profiles": (["--repeats=1", "--peer-rows=50000"], "nightshift, s", "nightshift, peak MiB"),
}
"""Arguments of a part's benchmark, and the figures that count."""
STEEPEST = 1.15
"""Slope above which a part is called worse than proportional."""


def measure(part: str, n_rows: int) -> tuple[float, float]:
    """Run one part at one size and return seconds and peak memory in MiB."""
    arguments, seconds, memory = PARTS[part]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{part}",
            f"--rows={n_rows}",
            *arguments,
            f"--json={path}",
        ]
        subprocess.run(command, cwd=PROJECT_ROOT, check=False, stdout=subprocess.DEVNULL)
        measured = json.loads(path.read_text(encoding="utf-8"))
    figures = measured["figures"] | {
        name: limited["value"] for name, limited in measured["limited"].items()
    }
    return figures[seconds], figures[memory]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="100000,1000000,10000000,30000000")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes, parts = [int(size) for size in given.rows.split(",")], given.parts.split(",")
    result = Result(
        "scaling", ", ".join(f"{size:,}" for size in sizes) + " rows in one partition, one run each"
    )
    for part in parts:
        seconds = []
        for n_rows in sizes:
            took, memory = measure(part, n_rows)
            seconds.append(took)
            result.figures |= {
                f"{part} of {n_rows:,} rows, s": took,
                f"{part} of {n_rows:,} rows, peak MiB": memory,
            }
            print(f"{part:9} {n_rows:>12,} rows {took:8.1f} s {memory:7.0f} MiB", flush=True)
        if len(sizes) > 1:
            slope = math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])
            result.limited[f"slope of {part}"] = Limited(slope, "at most", STEEPEST)
    return result.tell(given.json)


if __name__ == "__main__":
    sys.exit(main())
