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
MIN_CONCENTRATION = 1.5
"""Share of the loss over share of the rows from which a segment explains a loss: one of three shops
has a third of whatever is lost everywhere.
"""


def loss_segment(performance: Sequence[Performance], metric: str, expected: float) -> str | None:
    """Return the slice that explains most of a loss, for people; None if none does.

    It is the one with most of the loss beyond its share of the rows. Only a mean over rows adds up
    from its slices, so the metric must be one that is better lower.

    Args:
        performance: All metrics, of all rows and of the slices.
        metric: The watched metric.
        expected: What the champion's advantage over the rule was on its hold-out; negative is
            better than the rule.
    """
    if METRICS[metric].better != "lower":
        return None
    excess, n_rows = {}, {}
    for part in performance:
        if part.metric == metric and part.value is not None and part.baseline_value is not None:
            # What the champion lost on these rows, in the metric's unit times rows.
            lost = metric_loss(metric, part.value, part.baseline_value) - expected
            excess[part.slice_name, part.slice_value] = lost * part.n_labels
            n_rows[part.slice_name, part.slice_value] = part.n_labels
    everything = (ALL_ROWS, "")
    total = excess.get(everything, 0.0)
    if total <= 0:
        return None
    concentrated = {}
    for key, lost in excess.items():
        share, share_of_rows = lost / total, n_rows[key] / n_rows[everything]
        # A class that came true is no segment: nobody knew it before.
        if key[0] not in (ALL_ROWS, OUTCOME) and share >= max(
            MIN_SHARE, MIN_CONCENTRATION * share_of_rows
        ):
            concentrated[key] = (share - share_of_rows, share, share_of_rows)
    if not concentrated:
        return None
    name, value = max(concentrated, key=concentrated.__getitem__)
    _, share, share_of_rows = concentrated[name, value]
    return f"{name}={value}: {share:.0%} of the loss, {share_of_rows:.0%} of the rows"


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
