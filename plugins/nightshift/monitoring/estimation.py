"""Estimate what a partition's predictions are worth before their labels are known.

A calibrated probability, of a binary label or of each class, tells its own expected loss (CBPE). A
regression has the mean loss that predictions of the same size had lately (DLE by decile). Both know
nothing of what all rows of a day share, tomorrow's weather, so each estimate has a band, learnt
from the errors of matured nights. Neither sees that the world has changed. Source:
docs/adr/0045-the-night-is-the-unit.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from nightshift.contracts.metrics import Task
from nightshift.models.calibration import EDGE
from nightshift.quality.sketches.number_sketch import NumberSketch

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.warehouse.connection import Connection

    Doubles = npt.NDArray[np.float64]
    Counted = tuple[Doubles, Doubles]

REGRESSION_METRICS = ("mae",)
DECILE = "decile"
"""Slice of ``monitoring.performance`` that a regression's losses are read from."""
MISS_RATE = 0.1
"""Share of the nights that a band misses."""
STEP_SIZE = 0.05
"""How fast a band that missed widens. Source: Gibbs & Candès (2021), Adaptive conformal inference
under distribution shift.
"""
MIN_NIGHTS = 20
HISTORY_DAYS = 120
LOSS_DAYS = 28
WEEK = 7
MIN_WEEK = 4


@dataclass(frozen=True)
class Estimate:
    """The expected value of one metric.

    Attributes:
        span: The night, or the week that ends with it.
        metric: The metric.
        estimate: Its expected value, in the metric's unit.
        low, high: The band; None until enough nights have matured.
        n_calibration: Matured nights that the band was learnt from.
    """

    span: Literal["night", "week"]
    metric: str
    estimate: float
    low: float | None
    high: float | None
    n_calibration: int


class MaturedEstimate(NamedTuple):
    """An estimate of an earlier night, with the realised value once it is known."""

    day: dt.date
    estimate: float
    realised: float | None


@dataclass(frozen=True)
class EstimationHistory:
    """What is known of earlier nights when a partition is estimated.

    Attributes:
        estimates: By metric, the earlier estimates by day.
        losses: By metric, the mean loss of each decile lately; of a regression only.
    """

    estimates: Mapping[str, Sequence[MaturedEstimate]]
    losses: Mapping[str, Mapping[int, float]]

    @classmethod
    def read(cls, conn: Connection, spec: ModelSpec, partition: Partition) -> EstimationHistory:
        """Read what was published of the days before a partition."""
        has_losses = spec.task is Task.REGRESSION
        losses = _recent_losses(conn, spec, partition) if has_losses else {}
        return cls(_read_estimates(conn, spec, partition), losses)

    @property
    def digest(self) -> str:
        """Return a digest of all of it."""
        return sha256(repr((self.estimates, self.losses)).encode()).hexdigest()


def estimate_performance(
    spec: ModelSpec,
    partition: Partition,
    scores: Mapping[str, Sketch],
    history: EstimationHistory,
) -> list[Estimate]:
    """Return the estimates of a partition whose predictions a model published.

    Args:
        spec: The model.
        partition: The partition.
        scores: Sketches of the published predictions.
        history: What is known of earlier nights.
    """
    if spec.task is Task.BINARY:
        expected = binary_estimates(*_counted(scores.get("probability")))
    elif spec.classes:
        columns = spec.class_columns.values()
        expected = class_estimates(
            [_counted(scores.get(name)) for name in columns], _counted(scores.get("probability"))
        )
    else:
        expected = regression_estimates(*_counted(scores.get(DECILE)), history.losses)
    estimates = []
    for metric, value in expected.items():
        earlier = history.estimates.get(metric, ())
        estimates += with_bands(metric, value, partition.day, earlier)
    return estimates


def binary_estimates(probability: Doubles, n_rows: Doubles) -> dict[str, float]:
    """Return the expected metrics of probabilities that are right; shapes (k,).

    Source: CBPE, NannyML; the expectation of each loss over the outcome.
    """
    total = n_rows.sum()
    if not total:
        return {}
    p = np.clip(probability, EDGE, 1 - EDGE)
    # The expectation over both outcomes, each with its own probability.
    per_row = {
        "positive_rate": p,
        "log_loss": -p * np.log(p) - (1 - p) * np.log1p(-p),
        "brier": p * (1 - p),
    }
    return {name: float((values * n_rows).sum() / total) for name, values in per_row.items()}


def class_estimates(classes: Sequence[Counted], predicted: Counted) -> dict[str, float]:
    """Return the expected metrics of probabilities of classes that are right.

    The expectation of a loss over the classes is a sum of one term for each class, so the numbers
    of each class alone are enough: no row has to be read.

    Args:
        classes: Probabilities of each class, and how many rows have each.
        predicted: Probabilities of the predicted class, likewise.
    """
    total = sum(float(n_rows.sum()) for _, n_rows in classes)
    if not total:
        return {}
    n_all = total / len(classes)
    expected = {"log_loss": 0.0, "brier": 0.0}
    for probability, n_rows in classes:
        p = np.clip(probability, EDGE, 1)
        expected["log_loss"] += float((-p * np.log(p) * n_rows).sum() / n_all)
        expected["brier"] += float((p * (1 - p) * n_rows).sum() / n_all)
    probability, n_rows = predicted
    return {**expected, "accuracy": float((probability * n_rows).sum() / n_all)}


def regression_estimates(
    decile: Doubles, n_rows: Doubles, losses: Mapping[str, Mapping[int, float]]
) -> dict[str, float]:
    """Return the expected metrics of predictions by decile, given the losses of each decile.

    Args:
        decile: Deciles that the predictions have; shape (k,).
        n_rows: Predictions of each; shape (k,).
        losses: By metric, the mean loss of each decile.
    """
    expected = {}
    for metric, by_decile in losses.items():
        if not by_decile:
            continue
        usual = float(np.mean(list(by_decile.values())))
        values = [by_decile.get(round(number), usual) for number in decile]
        if n_rows.sum():
            expected[metric] = float(np.average(values, weights=n_rows))
    return expected


def with_bands(
    metric: str, value: float, day: dt.date, history: Sequence[MaturedEstimate]
) -> list[Estimate]:
    """Return the estimate of a night and of its week, with their bands.

    Args:
        metric: The metric.
        value: The night's estimate.
        day: The night.
        history: Earlier estimates, by day.
    """
    estimates = [_banded("night", metric, value, history)]
    # The newest night has no realised number yet; earlier weeks are made as this one is.
    series = [*history, MaturedEstimate(day, value, None)]
    week = _week_ending(series, len(history))
    if week is not None:
        weeks = [_week_ending(series, last) for last in range(len(history))]
        earlier = [past for past in weeks if past is not None]
        estimates.append(_banded("week", metric, week.estimate, earlier))
    return estimates


def _week_ending(series: Sequence[MaturedEstimate], last: int) -> MaturedEstimate | None:
    """Return the mean of the nights of a week; None for too few of them.

    It has matured once all its nights have.
    """
    day = series[last].day
    week = [known for known in series[: last + 1] if (day - known.day).days < WEEK]
    if len(week) < MIN_WEEK:
        return None
    realised = [known.realised for known in week if known.realised is not None]
    estimate = float(np.mean([known.estimate for known in week]))
    if len(realised) < len(week):
        return MaturedEstimate(day, estimate, None)
    return MaturedEstimate(day, estimate, float(np.mean(realised)))


def _banded(
    span: Literal["night", "week"], metric: str, value: float, history: Sequence[MaturedEstimate]
) -> Estimate:
    errors = [known.realised - known.estimate for known in history if known.realised is not None]
    band = error_band(np.array(errors, np.float64))
    if band is None:
        return Estimate(
            span,
            metric,
            value,
            None,
            None,
            len(errors),
        )
    # No metric that is estimated can be below zero.
    return Estimate(
        span,
        metric,
        value,
        max(value + band[0], 0.0),
        value + band[1],
        len(errors),
    )


def error_band(errors: Doubles) -> tuple[float, float] | None:
    """Return the band of the next error; None for too few of them.

    The share that its quantiles leave out follows what earlier bands missed, so that the coverage
    stays even where errors are larger in one season than in another.

    Args:
        errors: Realised minus estimated, oldest first; shape (n,).
    """
    if errors.size < MIN_NIGHTS:
        return None
    share = MISS_RATE
    for index in range(MIN_NIGHTS, errors.size):
        low, high = _quantiles(errors[:index], share)
        # A band that missed widens the next ones, one that held narrows them a little.
        has_missed = not low <= errors[index] <= high
        share = float(np.clip(share + STEP_SIZE * (MISS_RATE - has_missed), 0.0, 0.5))
    return _quantiles(errors, share)


def _quantiles(errors: Doubles, share: float) -> tuple[float, float]:
    """Return both ends of the band that leaves out a share of errors, widened for few of them."""
    n = errors.size
    # The next error is one of n + 1 that are equally likely in any order.
    tail = max(share / 2 - 1 / (n + 1), 0.0)
    low, high = np.quantile(errors, [tail, 1 - tail])
    return float(low), float(high)


def _counted(sketch: Sketch | None) -> Counted:
    """Return numbers and how many rows have each."""
    if not isinstance(sketch, NumberSketch):
        return np.empty(0), np.empty(0)
    numbers, counts = sketch.midpoints()
    return numbers, counts.astype(np.float64)


def _read_estimates(
    conn: Connection, spec: ModelSpec, partition: Partition
) -> dict[str, list[MaturedEstimate]]:
    """Return earlier estimates by metric, with what was realised by the evening before."""
    rows = conn.execute(
        """
        select e.metric, e.partition_date, e.estimate,
            case when r.measured_on < %(day)s and r.maturity = 'mature' then r.value end
        from monitoring.estimates_published e
        left join monitoring.performance_published r
            on r.model = e.model and r.partition_date = e.partition_date and r.metric = e.metric
            and r.slice_name = 'all'
        where e.model = %(model)s and e.span = 'night'
            and e.partition_date < %(day)s and e.partition_date >= %(day)s::date - %(reach)s
        order by 1, 2
        """,
        {"model": spec.name, "day": partition.day, "reach": HISTORY_DAYS},
    )
    estimates: dict[str, list[MaturedEstimate]] = {}
    for metric, *estimate in rows:
        estimates.setdefault(metric, []).append(MaturedEstimate(*estimate))
    return estimates


def _recent_losses(
    conn: Connection, spec: ModelSpec, partition: Partition
) -> dict[str, dict[int, float]]:
    """Return the mean loss of each decile of the predictions over the last matured nights."""
    rows = conn.execute(
        """
        select metric, slice_value::integer,
            -- In the order of the nights: doubles add up to other bits in another one.
            sum(value * n_labels order by partition_date) / sum(n_labels)
        from monitoring.performance_published
        where model = %(model)s and slice_name = %(decile)s and metric = any(%(metrics)s)
            and measured_on < %(day)s and partition_date >= %(day)s::date - %(reach)s
            and value is not null and n_labels > 0
        group by 1, 2 order by 1, 2
        """,
        {
            "model": spec.name,
            "decile": DECILE,
            "metrics": list(REGRESSION_METRICS),
            "day": partition.day,
            "reach": LOSS_DAYS,
        },
    )
    losses: dict[str, dict[int, float]] = {}
    for metric, decile, loss in rows:
        losses.setdefault(metric, {})[decile] = loss
    return losses
