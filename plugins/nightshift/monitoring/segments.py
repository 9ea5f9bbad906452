"""The segment that explains most of a loss, and the column that explains most of a shift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.metrics import METRICS
from nightshift.monitoring.performance import ALL_ROWS, metric_loss
from nightshift.training.evaluation import OUTCOME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.monitoring.columns.column_drift import Drift
    from nightshift.monitoring.performance import Performance

MIN_SHARE = 0.2
"""Share of a loss below which no segment explains it: it is everywhere."""


def loss_segment(performance: Sequence[Performance], metric: str, expected: float) -> str | None:
    """Return the slice that explains most of a loss, for people; None if none does.

    Only a mean over rows adds up from its slices, so the metric must be one that is better lower.

    Args:
        performance: All metrics, of all rows and of the slices.
        metric: The watched metric.
        expected: What the champion's advantage over the rule was on its hold-out; negative is
            better than the rule.
    """
    if METRICS[metric].better != "lower":
        return None
    excess = {}
    for part in performance:
        if part.metric == metric and part.value is not None and part.baseline_value is not None:
            # What the champion lost on these rows, in the metric's unit times rows.
            lost = metric_loss(metric, part.value, part.baseline_value) - expected
            excess[part.slice_name, part.slice_value] = lost * part.n_labels
    total = sum(lost for (name, _), lost in excess.items() if name == ALL_ROWS)
    # A class that came true is no segment: nobody knew it before.
    slices = {key: lost for key, lost in excess.items() if key[0] not in (ALL_ROWS, OUTCOME)}
    if total <= 0 or not slices:
        return None
    (name, value), lost = max(slices.items(), key=lambda item: item[1])
    share = lost / total
    return f"{name}={value}: {share:.0%} of the loss" if share >= MIN_SHARE else None


def shift_segment(drifts: Sequence[Drift]) -> str | None:
    """Return the column that is furthest from usual, for people; None if none has drifted."""
    drifted = [drift for drift in drifts if drift.is_drifted]
    slow = [drift for drift in drifts if drift.is_slow]
    if slow and not drifted:
        return max(slow, key=lambda drift: drift.slow_evidence or 0.0).slow_change
    if not drifted:
        return None
    furthest = max(drifted, key=lambda drift: drift.distance)
    return f"{furthest.feature}: {furthest.statistic} at {furthest.distance:.1f} usual variations"
