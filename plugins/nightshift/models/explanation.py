"""What a version's contributions start from, and which values its training rows usually had.

Analysts read reasons in words from SQL, so both stand in the warehouse next to the version.
Source: docs/adr/0048-analysts-contract.md.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nightshift.models.calibration import apply_calibration

if TYPE_CHECKING:
    from collections.abc import Sequence

TAIL = 0.2
"""Share of the training rows below, and above, what counts as usual: the middle three of five."""
TOLERANCE = 0.02
"""A bin edge whose share is so near to the tail's is taken for it: quantiles of ties are coarse."""


def explanation_of(model_json: bytes) -> dict[str, Any]:
    """Return the base and the usual values that ``model.json`` holds.

    Args:
        model_json: Content of the file, as the trainer wrote it.

    Returns:
        ``base_raw``: what the model answers before it knows a row, on the scale of raw scores; None
            of classes, which have one each;
        ``base_probability``: the same, calibrated; None unless the model is binary;
        ``base_by_class``: by class the base of its raw score; None without classes;
        ``usual``: by feature its ``usual_low``, ``usual_high`` and ``usual_level``, each None
            where it does not apply.
    """
    document = json.loads(model_json)
    return {
        **_bases(document),
        "usual": _usual_values(document["reference"]),
    }


def _bases(document: dict[str, Any]) -> dict[str, Any]:
    """Return the three parts of an explanation that say what contributions add up from."""
    if "classes" in document:
        return {
            "base_raw": None,
            "base_probability": None,
            "base_by_class": _base_by_class(document),
        }
    # The last contribution of every row is the trees' base; the line has one of its own.
    base = float(document["golden"]["contributions"][0][-1])
    if "linear" in document:
        base += document["linear"]["intercept"]
    return {
        "base_raw": base,
        "base_probability": _base_probability(document, base),
        "base_by_class": None,
    }


def _base_by_class(document: dict[str, Any]) -> dict[str, float]:
    """Return the expected raw score of each class."""
    classes = document["classes"]
    # One class after the other, each with its base last; the same in every row.
    first = document["golden"]["contributions"][0]
    width = len(first) // len(classes)
    bases = first[width - 1 :: width]
    return dict(
        zip(
            classes,
            bases,
            strict=True,
        )
    )


def _base_probability(document: dict[str, Any], base: float) -> float | None:
    import numpy as np

    if document["task"] != "binary":
        return None
    calibration = document["calibration"]
    probability = apply_calibration(calibration, np.array([base]))
    return float(probability[0])


def _usual_values(reference: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the usual values of each feature; a model that never serves has no reference."""
    usual = {}
    for name, profile in reference.get("numeric", {}).items():
        low, high = usual_range(profile["edges"], profile["shares"])
        usual[name] = {
            "usual_low": low,
            "usual_high": high,
            "usual_level": None,
        }
    for name, profile in reference.get("categorical", {}).items():
        shares = profile["shares"]
        # No level at all: every training row lacked a value.
        level = max(shares, key=shares.get, default=None)
        usual[name] = {
            "usual_low": None,
            "usual_high": None,
            "usual_level": level,
        }
    return usual


def usual_range(
    edges: Sequence[float],
    shares: Sequence[float],
) -> tuple[float | None, float | None]:
    """Return bounds of the middle of a column's values; None where no bin ends close enough.

    Args:
        edges: Rising inner edges of bins, shape (m,).
        shares: Share of the rows in each bin, shape (m + 1,).
    """
    below = 0.0
    low = None
    high = None
    # The last bin has no edge to its right.
    for edge, share in zip(edges, shares, strict=False):
        below += share
        if below <= TAIL + TOLERANCE:
            low = edge
        is_above = below >= 1 - TAIL - TOLERANCE
        if is_above and high is None:
            high = edge
    return low, high
