"""Drift: the distance of a partition's columns from the champion's reference, from exact counts.

All rows of a day share one weather and one day of the week, so a day always differs from a season.
A column drifts only if it is further from the reference than the training set's own partitions.
Source: docs/adr/0009-gates-and-monitoring.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nightshift.quality.drift_statistics import (
    binned_stability_index,
    kolmogorov_smirnov,
    total_variation,
)
from nightshift.quality.sketches.bin_counts import BinCounter, CategoricalColumn, NumericColumn

if TYPE_CHECKING:
    from nightshift.contracts.monitoring_spec import Monitoring
    from nightshift.quality.sketches.bin_counts import BinnedColumn

SCORE = "score"
Kind = Literal["numeric", "categorical", "score"]


@dataclass(frozen=True)
class Drift:
    """The distance of one column of a partition from the reference.

    Attributes:
        feature: Column; ``score`` for the model's own output.
        kind: Type of the column.
        psi: Population stability index in nats; 0 is best.
        psi_noise: Index that one in twenty training partitions exceeds.
        effect: Kolmogorov-Smirnov distance of the binned numbers, total variation distance of the
            levels; 0 to 1, 0 is best.
        missing_share: Share of null rows, 0 to 1; with that of the reference.
        mean: Mean of the numbers; with that of the reference.
        n_rows: Rows of the partition.
        is_drifted: Whether the index is above the threshold and above the noise.
    """

    feature: str
    kind: Kind
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
    """The reference that partitions are compared with, and the thresholds.

    Attributes:
        profile: The ``reference`` section of the champion's ``model.json``.
        noise: Index that one in twenty training partitions exceeds, by column.
        limits: Thresholds of the index and of the effect size.
    """

    profile: Mapping[str, Any]
    noise: Mapping[str, float]
    limits: Monitoring


def feature_counter(profile: Mapping[str, Any]) -> BinCounter:
    """Return the counter of the features in the reference's bins and levels."""
    numeric = [
        NumericColumn(name, tuple(part["edges"])) for name, part in profile["numeric"].items()
    ]
    categorical = [
        CategoricalColumn(name, tuple(sorted(part["shares"])))
        for name, part in profile["categorical"].items()
    ]
    return BinCounter(numeric, categorical)


def score_counter(profile: Mapping[str, Any]) -> BinCounter:
    """Return the counter of the score in the reference's bins."""
    edges = tuple(profile[SCORE]["edges"])
    return BinCounter([NumericColumn(SCORE, edges)], [])


def feature_drift(columns: Mapping[str, BinnedColumn], reference: DriftReference) -> list[Drift]:
    """Compare all features of a partition: numeric ones, then categorical ones, each by name."""
    drifts: list[Drift] = []
    kinds: tuple[Kind, ...] = ("numeric", "categorical")
    for kind in kinds:
        profiles = reference.profile[kind]
        drifts += [
            _compare(name, kind, columns[name], profiles[name], reference)
            for name in sorted(profiles)
        ]
    return drifts


def score_drift(column: BinnedColumn, reference: DriftReference) -> Drift:
    """Compare the published scores with the champion's scores of unseen training rows."""
    return _compare(SCORE, "score", column, reference.profile[SCORE], reference)


def expected_shares(profile: Mapping[str, Any]) -> list[float]:
    """Return the reference's share of each bin, and of missing rows last; they sum to 1.

    Of a categorical column the bins are its levels, sorted, and then all other levels.
    """
    missing = float(profile["missing_share"])
    shares = profile["shares"]
    if isinstance(shares, Mapping):
        by_level = [shares[level] for level in sorted(shares)]
        # The reference has no row of other levels.
        shares = [*by_level, 0.0]
    known = [share * (1 - missing) for share in shares]
    return [*known, missing]


def _compare(
    name: str,
    kind: Kind,
    current: BinnedColumn,
    profile: Mapping[str, Any],
    reference: DriftReference,
) -> Drift:
    *known, missing = expected_shares(profile)
    # Missing rows are a bin of their own: a column that vanishes has drifted.
    counts = [*current.counts, current.n_missing]
    n_reference = int(profile["n"])
    psi = binned_stability_index(counts, [*known, missing], n_reference)
    noise = reference.noise[name]
    limits = reference.limits
    threshold = limits.score_psi_threshold if kind == "score" else limits.psi_threshold
    is_far = psi > max(threshold, noise)

    # The index grows with the number of rows; the effect tells whether a difference matters.
    distance = total_variation if kind == "categorical" else kolmogorov_smirnov
    effect = distance(current.counts, known)
    missing_change = abs(current.missing_share - missing)
    has_effect = max(effect, missing_change) >= limits.minimum_effect
    return Drift(
        feature=name,
        kind=kind,
        psi=psi,
        psi_noise=noise,
        effect=effect,
        missing_share=current.missing_share,
        reference_missing_share=missing,
        mean=current.mean,
        reference_mean=profile.get("mean"),
        n_rows=current.n_rows,
        is_drifted=is_far and has_effect,
    )
