"""Load hostile files in a child process and report their cost: ``python -m … <seed> <n>``.

Settings are in the environment.

Files are made by another process beforehand: making one takes more memory than reading it may.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import ingest
from nightshift.settings import load_settings


def peak_mib() -> float:
    """Return the most memory that this process has had."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


def main(task: str, dataset: str, days: list[str]) -> None:
    settings, run = load_settings(), RunContext("test/hostile", 1, "test")
    if task == "range":
        began = time.monotonic()
        result = ingest(settings, dataset, PartitionRange.of(days[0], days[-1]), run)
        print(
            json.dumps(
                {
                    "n_rows": result.n_rows,
                    "seconds": time.monotonic() - began,
                    "peak_mib": peak_mib(),
                }
            )
        )
        return
    for day in days:
        began, outcome = time.monotonic(), "loaded"
        try:
            if task == "late":
                left = load_late_drops(settings, dataset, PartitionRange.of(day), run).left
                outcome = left[0][1] if left else "loaded"
            else:
                ingest(settings, dataset, PartitionRange.of(day), run)
        except NightshiftError as error:
            outcome = error.code
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            outcome = f"uncoded {type(error).__name__}"
        print(
            json.dumps(
                {
                    "day": day,
                    "outcome": outcome,
                    "seconds": time.monotonic() - began,
                    "peak_mib": peak_mib(),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
