"""Measure medians, intervals and bands: each by its own loss and its own bias.

Source: Koenker & Bassett (1978), Regression quantiles (the pinball loss); Gneiting & Raftery
(2007), Strictly proper scoring rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Matrix, Vector

INTERVAL_METRICS = (
    "interval_coverage",
    "interval_width",
    "pinball_low",
    "pinball_median",
    "pinball_high",
    "median_bias",
)
"""Of a regression. Coverage is the share of outcomes within, width the mean distance of the ends;
the median's bias is the share of outcomes below it, minus a half.
"""
BAND_METRICS = ("band_coverage", "band_width")
"""Of a binary night: 1 if its rate lay within the mean ends, else 0; and their distance."""


def measure_answers(spec: ModelSpec, label: Vector, answers: Matrix) -> dict[str, float]:
    """Return the metrics of rows that have an interval or a band; empty if none has.

    Their names are ``INTERVAL_METRICS`` or ``BAND_METRICS``.

    Args:
        spec: Task and level.
        label: Shape (n,).
        answers: Median, lower and upper end, NaN without; shape (n, 3).
    """
    import numpy as np

    declared = spec.scoring.interval
    is_measured = np.isfinite(answers[:, 1]) & np.isfinite(answers[:, 2])
    if declared is None or not is_measured.any():
        return {}
    outcome = label[is_measured]
    median, low, high = answers[is_measured].T
    if spec.task is Task.BINARY:
        # The band is a promise about the night: single rows are 0 or 1.
        is_within = low.mean() <= outcome.mean() <= high.mean()
        width = (high - low).mean()
        values = (float(is_within), float(width))
        return dict(zip(BAND_METRICS, values, strict=True))
    # The level is that of the spec of today: a night that was scored with another one is measured
    # by the quantiles that are asked for now.
    below = (1 - declared.level) / 2
    # In the order of ``INTERVAL_METRICS``.
    values_of_rows = (
        (low <= outcome) & (outcome <= high),
        high - low,
        pinball(outcome - low, below),
        pinball(outcome - median, 0.5),
        pinball(outcome - high, 1 - below),
        (outcome < median) - 0.5,
    )
    means = [float(values.mean()) for values in values_of_rows]
    return dict(zip(INTERVAL_METRICS, means, strict=True))


def pinball(error: Vector, share: float) -> Vector:
    """Return the loss of a quantile for each row, shape (n,).

    Its mean is smallest for the true quantile.

    Args:
        error: Outcome minus quantile, shape (n,).
        share: Share of the outcomes below the quantile.
    """
    import numpy as np

    loss: Vector = np.maximum(share * error, (share - 1) * error)
    return loss
