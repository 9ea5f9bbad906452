"""Findings about features: one number each, as the table ``ml.feature_findings`` has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FindingType = Literal[
    "gain",
    "shapley",
    "cause",
    "benefit",
    "learning_days",
    "learning_rows",
    "learning_features",
    "redundant",
    "night_constant",
    "seconds",
    "bytes",
]


@dataclass(frozen=True)
class Finding:
    """One number.

    Attributes:
        finding: What it says.
        name: Of the feature, the group of features, the size of a fit, or the view.
        value: The number.
        period: Week, night, or the group that it belongs to; empty without one.
        low: Lower bound, by draws of days; None without an interval.
        high: Upper bound.
        note: In words.
    """

    finding: FindingType
    name: str
    value: float
    period: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""
