"""Drift: all rows of a night against the reference that the champion was trained on, from exact counts.

A night always differs from a season: all its flights share one weather and one day of the week. So
a column drifts only when the night is further from the reference than the training set's own nights
are. Source: docs/adr/0009-gates-and-monitoring.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from nightshift.quality.bin_counts import BinnedColumn, CategoricalColumn, NumericColumn

PSEUDO_COUNT = 0.5
"""Added to every bin, so that an empty one has a finite logarithm. Source: Jeffreys' prior of a
proportion.
"""
SCORE = "score"


@dataclass(frozen=True)
class Drift:
    """How far one column of a partition is from the reference.

    Attributes:
        feature: Column; ``score`` for the model's own output.
        kind: What was compared.
        psi: Population stability index in nats; 0 is best.
        psi_noise: What the index exceeded in one of twenty nights of the training set.
        effect: Kolmogorov-Smirnov distance of the binned numbers, total variation distance of the
            levels; 0 to 1, 0 is best.
        missing_share: Share of null rows, 0 to 1; with that of the reference.
        mean: Mean of the numbers; with that of the reference.
        n_rows: Rows of the partition.
        is_drifted: Whether the index is above the threshold and above the noise.
    """

    feature: str
    kind: Literal["numeric", "categorical", "score"]
    psi: float
    psi_noise: float
    effect: float
    missing_share: float
    reference_missing_share: float
    mean: float | None
    reference_mean: float | None
    n_rows: int
    is_drifted: bool


@dataclass(frozen=True)
class DriftReference:
    """What the nights are measured against.

    Attributes:
        reference: The ``reference`` section of the champion's ``model.json``.
        noise: Index that one of twenty training nights exceeds, by column.
        psi_threshold: Index below which nothing counts as drift, for features.
        score_psi_threshold: The same for the score.
        minimum_effect: Effect size, or change of the missing share, below which nothing counts as
            drift.
    """

    reference: Mapping[str, Any]
    noise: Mapping[str, float]
    psi_threshold: float
    score_psi_threshold: float
    minimum_effect: float


def features_to_count(
    reference: Mapping[str, Any],
) -> tuple[list[NumericColumn], list[CategoricalColumn]]:
    """Return the features and their bins in the reference, numeric ones first, each in the order of their names."""
    numeric, categorical = reference["numeric"], reference["categorical"]
    return (
        [NumericColumn(name, tuple(numeric[name]["edges"])) for name in sorted(numeric)],
        [
            CategoricalColumn(name, tuple(sorted(categorical[name]["shares"])))
            for name in sorted(categorical)
        ],
    )


def score_to_count(reference: Mapping[str, Any]) -> NumericColumn:
    """Return the score and its bins in the reference."""
    return NumericColumn(SCORE, tuple(reference[SCORE]["edges"]))


def feature_drift(columns: Mapping[str, BinnedColumn], yardstick: DriftReference) -> list[Drift]:
    """Compare all features of a night with the reference, in the order of ``features_to_count``.

    Args:
        columns: What was counted of the night.
        yardstick: Reference, noise and threshold.
    """
    numeric, categorical = yardstick.reference["numeric"], yardstick.reference["categorical"]
    numbers = [
        _compare(name, "numeric", columns[name], numeric[name], yardstick)
        for name in sorted(numeric)
    ]
    return numbers + [
        _compare(name, "categorical", columns[name], categorical[name], yardstick)
        for name in sorted(categorical)
    ]


def score_drift(column: BinnedColumn, yardstick: DriftReference) -> Drift:
    """Compare the published scores of a night with those that the champion gave to unseen rows of its training."""
    return _compare(SCORE, "score", column, yardstick.reference[SCORE], yardstick)


def expected_shares(reference: Mapping[str, Any]) -> list[float]:
    """Return the reference's share of each bin or level, of all other levels if it has levels, and of missing rows; they sum to 1."""
    missing, shares = float(reference["missing_share"]), reference["shares"]
    known = (
        [*(shares[level] for level in sorted(shares)), 0.0]
        if isinstance(shares, Mapping)
        else shares
    )
    return [share * (1 - missing) for share in known] + [missing]


def _compare(
    name: str,
    kind: Literal["numeric", "categorical", "score"],
    current: BinnedColumn,
    reference: Mapping[str, Any],
    yardstick: DriftReference,
) -> Drift:
    expected = expected_shares(reference)
    psi = stability_index([*current.counts, current.n_missing], expected, int(reference["n"]))
    threshold = yardstick.score_psi_threshold if kind == "score" else yardstick.psi_threshold
    effect = (total_variation if kind == "categorical" else ks_distance)(
        current.counts, expected[:-1]
    )
    change = max(effect, abs(current.missing_share - expected[-1]))
    return Drift(
        feature=name,
        kind=kind,
        psi=psi,
        psi_noise=yardstick.noise[name],
        effect=effect,
        missing_share=current.missing_share,
        reference_missing_share=expected[-1],
        mean=current.mean,
        reference_mean=reference.get("mean"),
        n_rows=current.n_rows,
        is_drifted=psi > max(threshold, yardstick.noise[name])
        and change >= yardstick.minimum_effect,
    )


def stability_index(counts: Sequence[int], expected: Sequence[float], n_reference: int) -> float:
    """Return the population stability index of some rows against expected shares, in nats; 0 is best.

    Bins that are empty on both sides are left out.

    Args:
        counts: Rows per bin; shape (k,).
        expected: Share per bin in the reference, sums to 1; shape (k,).
        n_reference: Rows of the reference.

    Source: Siddiqi, Credit Risk Scorecards (2006), chapter 9.
    """
    used = [
        (n, share * n_reference)
        for n, share in zip(counts, expected, strict=True)
        if n > 0 or share > 0
    ]
    n_rows, n_expected = (
        sum(n for n, _ in used) + PSEUDO_COUNT * len(used),
        sum(n for _, n in used) + PSEUDO_COUNT * len(used),
    )
    pairs = [((n + PSEUDO_COUNT) / n_rows, (m + PSEUDO_COUNT) / n_expected) for n, m in used]
    return math.fsum((p - q) * math.log(p / q) for p, q in pairs)


def ks_distance(counts: Sequence[int], expected: Sequence[float]) -> float:
    """Return the Kolmogorov-Smirnov distance of binned numbers, missing ones left out; 0 to 1, 0 is best."""
    n, total = sum(counts), math.fsum(expected)
    if n == 0 or total == 0:
        return float((n == 0) != (total == 0))
    return max(
        abs(have / n - want / total)
        for have, want in zip(accumulate(counts), accumulate(expected), strict=True)
    )


def total_variation(counts: Sequence[int], expected: Sequence[float]) -> float:
    """Return half the sum of the differences of the shares, missing ones left out; 0 to 1, 0 is best."""
    n, total = sum(counts), math.fsum(expected)
    if n == 0 or total == 0:
        return float((n == 0) != (total == 0))
    return (
        math.fsum(abs(have / n - want / total) for have, want in zip(counts, expected, strict=True))
        / 2
    )
