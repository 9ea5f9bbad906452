"""What the test of streams promises: false promotions a year, and nights until a gain is proved.

``python -m benchmarks.sequential_test [--years 2000] [--nights 365]`` draws the nightly gains of
equal streams and of truly better ones, and looks at the e-value every night as the gate does. The
spread of a night is that of two fits of equal models (0.0140 log loss, measured on 2013); the
e-value does not depend on the unit. A promotion restarts the test, so a year of equal streams may
have more than one false promotion; a refresh does not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.result import Limited, Result

from nightshift.training.statistics.sequential_test import running_e_values

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix

THRESHOLD = 20.0
"""``1 / alpha`` of the default ``superiority_probability`` of 0.95."""
NOISE = 0.0140
EQUAL = (
    ("independent", 0.0, "normal"),
    ("correlation 0.1", 0.1, "normal"),
    ("correlation 0.2", 0.2, "normal"),
    ("correlation 0.4", 0.4, "normal"),
    ("correlation 0.6", 0.6, "normal"),
    ("heavy tails (t, 3 degrees)", 0.0, "t3"),
    ("heavy tails, correlation 0.3", 0.3, "t3"),
    ("skewed to bad nights", 0.0, "bad nights"),
    ("skewed to good nights", 0.0, "good nights"),
)
GAINS = ((0.0076, 40), (0.016, 22))
LIMIT = 0.05


def main() -> int:
    """Run the benchmark; return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=2000)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--seed", type=int, default=2013)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    dice = np.random.default_rng(given.seed)
    result = Result(
        name="sequential_test",
        sizes=f"{given.years} years of {given.nights} nights for each kind of stream",
    )
    for name, correlation, shape in EQUAL:
        gains = draw(dice, (given.years, given.nights), correlation, shape)
        promotions = np.array([n_promotions(year) for year in gains])
        label = f"false promotions a year, {name}"
        result.limited[label] = Limited(float(promotions.mean()), "at most", LIMIT)
        low, high = share_interval(int((promotions > 0).sum()), given.years)
        result.figures[f"years with one, {name}, 95 % interval, low"] = low
        result.figures[f"years with one, {name}, 95 % interval, high"] = high
    for gain, limit in GAINS:
        for correlation in (0.0, 0.1):
            drawn = draw(dice, (given.years, 200), correlation, "normal") + gain
            waited = nights_until_proved(drawn)
            label = f"nights until {gain} is proved, correlation {correlation}"
            result.limited[f"{label}, median"] = Limited(
                float(np.median(waited)), "at most", limit, "nights"
            )
            low, high = np.quantile(waited, [0.1, 0.9]).tolist()
            result.figures[f"{label}, 10th percentile"] = low
            result.figures[f"{label}, 90th percentile"] = high
    return result.tell(given.json)


def draw(
    dice: np.random.Generator, shape: tuple[int, int], correlation: float, tails: str
) -> Matrix:
    """Return gains of equal streams with this lag-1 correlation; shape (streams, nights)."""
    n_warm = 30
    size = (shape[0], shape[1] + n_warm)
    if tails == "t3":
        noise = dice.standard_t(3, size) / np.sqrt(3)
    elif tails == "bad nights":
        noise = 1 - dice.exponential(1.0, size)
    elif tails == "good nights":
        noise = dice.exponential(1.0, size) - 1
    else:
        noise = dice.standard_normal(size)
    fresh = np.sqrt(1 - correlation**2)
    for index in range(1, size[1]):
        noise[:, index] = correlation * noise[:, index - 1] + fresh * noise[:, index]
    return NOISE * noise[:, n_warm:]


def n_promotions(gains: Matrix) -> int:
    """Return how often a year's gains, shape (nights,), prove a gain; each begins a new test."""
    n, first = 0, 0
    while first < gains.size:
        is_proved = running_e_values(gains[first:]) >= THRESHOLD
        if not is_proved.any():
            break
        n += 1
        first += int(is_proved.argmax()) + 1
    return n


def nights_until_proved(gains: Matrix) -> Matrix:
    """Return the night on which each stream is proved better; all nights if it never is."""
    is_proved = running_e_values(gains) >= THRESHOLD
    numbers = is_proved.argmax(axis=1) + 1.0
    return np.where(is_proved.any(axis=1), numbers, float(gains.shape[1]))


def share_interval(n_hits: int, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share (Clopper & Pearson)."""
    from scipy.stats import beta

    low = beta.ppf(0.025, n_hits, n - n_hits + 1) if n_hits else 0.0
    high = beta.ppf(0.975, n_hits + 1, n - n_hits) if n_hits < n else 1.0
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(main())
