"""Which of some thirty kinds of challenger the promotion gate lets serve, each in many worlds.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.challengers [--worlds 20] [--nights 60]
    [--kinds PART-OF-A-NAME,...] [--json FILE]

A world has 46 days of parcels, a champion fitted on them, and nights that nobody has seen. Each
kind of challenger meets the gate on its hold-out; if it is not refused it scores in the shadow, and
the gate decides about it on every night on which the product would (``nightly_decision.is_due``),
until it serves, is refused, or the nights are over. All checks of the gate that need no file and no
warehouse are the product's: without ``provenance``, ``point_in_time`` and ``feature_agreement``,
which refuse challengers by their files and their view (``benchmarks.leaking_views``).

Wrong challengers must never serve. Equal ones must not be called better. Better ones must be proved
better: their champions are not refreshed for their age.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.challengers.kinds import KINDS
from benchmarks.challengers.life import Life
from benchmarks.challengers.world import World
from benchmarks.result import Limited, Result

from nightshift.registry.promotion_gate import SERVING_VERDICTS

if TYPE_CHECKING:
    from benchmarks.challengers.kinds import Kind


def main() -> int:
    """Run the benchmark; return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--first-world", type=int, default=1)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--kinds", default="", help="comma separated parts of names")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    # What a crashing check says stands in its verdict.
    logging.disable(logging.WARNING)
    parts = given.kinds.split(",")
    kinds = {name: case for name, case in KINDS.items() if any(part in name for part in parts)}
    ended: dict[str, list[tuple[str, int]]] = defaultdict(list)
    refusals: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(given.first_world, given.first_world + given.worlds):
        world = World(number, given.nights)
        for name, case in kinds.items():
            verdict, on, refused = Life(world, case).end()
            ended[name].append((verdict, on))
            refusals[name].update(refused)
        print(f"world {number}", flush=True)
    result = result_of(ended, kinds, given.worlds, given.nights)
    for name, lives in ended.items():
        counted = ", ".join(f"{n} {verdict}" for verdict, n in Counter(v for v, _ in lives).items())
        numbers_of = [number for verdict, number in lives if verdict in SERVING_VERDICTS]
        served = f" on night {np.median(numbers_of):g}" if numbers_of else ""
        by = ", ".join(f"{check} {n}" for check, n in refusals[name].most_common(3))
        print(f"{kinds[name].expected:6} {name:46} {counted}{served}; {by}")
    return result.tell(given.json)


def result_of(
    ended: dict[str, list[tuple[str, int]]], kinds: dict[str, Kind], n_worlds: int, n_nights: int
) -> Result:
    """Return the figures and their limits."""
    result = Result("challengers", f"{len(kinds)} kinds, {n_worlds} worlds, {n_nights} nights")
    counts: Counter[str] = Counter()
    for name, lives in ended.items():
        expected = kinds[name].expected
        served = [verdict for verdict, _ in lives if verdict in SERVING_VERDICTS]
        counts[f"{expected} challengers"] += len(lives)
        counts[f"{expected} served"] += len(served)
        counts[f"{expected} called better"] += served.count("promoted")
        if expected == "better":
            share = len(served) / len(lives)
            result.limited[f"{name}: share that serves"] = Limited(share, "at least", 0.95)
    result.figures |= counts
    result.limited["wrong challengers that serve"] = Limited(counts["wrong served"], "at most", 0)
    # One test in twenty may be wrong in all its nights together, and each world has one.
    share = counts["equal called better"] / max(counts["equal challengers"], 1)
    result.limited["equal challengers called better"] = Limited(share, "at most", 0.05)
    return result


if __name__ == "__main__":
    sys.exit(main())
