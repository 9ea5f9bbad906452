"""Draw a policy backtest as SVG: gains on never retraining, and the cost of a model's age."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.backtest.policies import Schedule
from nightshift.contracts.metrics import METRICS
from nightshift.training.figures import GUIDE, finish, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nightshift.backtest.policy_backtest import PolicyBacktest
    from nightshift.backtest.policy_results import PolicyResult

_COLOURS = {
    Schedule.NEVER: "#8a8a8a",
    Schedule.WEEKLY: "#1f5f8b",
    Schedule.TRIGGERED: "#c46210",
    Schedule.NIGHTLY: "#3a7d44",
}


def draw_policies(backtest: PolicyBacktest) -> str:
    """Return the gain of each policy on ``never`` with its interval, and month by month."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    _draw_gains(left, backtest)
    _draw_months(right, backtest)
    return svg(figure)


def draw_staleness(backtest: PolicyBacktest) -> str:
    """Return the gain on the freshest model by age, with its interval.

    Raises:
        ValueError: There are too few partitions for two ages.
    """
    from matplotlib.figure import Figure

    if backtest.age_comparison is None:
        raise ValueError("There are too few partitions to compare ages.")
    metric = backtest.spec.promotion.metric
    freshest, *older = backtest.age_comparison.ages
    gains = [(age.days, age.gains[metric]) for age in older]
    days = [freshest.days, *(age.days for age in older)]
    values = [0.0, *(gain.value for _, gain in gains)]
    colour = _COLOURS[Schedule.WEEKLY]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, **GUIDE)
    axes.plot(days, values, color=colour, lw=1)
    for age, gain in gains:
        axes.plot([age, age], [gain.low, gain.high], color=colour, lw=1.6)
    axes.plot(days[1:], values[1:], "o", ms=5, color=colour)
    # The freshest model has no gain on itself: a hollow point.
    axes.plot(days[:1], [0], "o", ms=5, color=colour, mfc="white")
    axes.set_xticks(days)
    finish(
        axes,
        f"{backtest.spec.name}: cost of staleness",
        "age of the model in days",
        f"gain in {metric} on the model of the evening before",
        has_legend=False,
    )
    return svg(figure)


def _draw_gains(axes: Axes, backtest: PolicyBacktest) -> None:
    metric, results = backtest.spec.promotion.metric, backtest.results[1:]
    heights = range(len(results), 0, -1)
    for result, height in zip(results, heights, strict=True):
        gain, colour = result.gains[metric], _COLOURS[result.policy.schedule]
        # A policy has the colour of its schedule, and a hollow point if it is gated.
        fill = "white" if result.policy.is_gated else colour
        axes.plot([gain.low, gain.high], [height, height], color=colour, lw=1.6)
        axes.plot([gain.value], [height], "o", ms=5, color=colour, mfc=fill)
    axes.axvline(0, **GUIDE)
    axes.set_yticks(list(heights), map(_label, results), fontsize=8.5)
    axes.set_ylim(0.4, len(results) + 0.6)
    finish(
        axes,
        f"{backtest.spec.name}: gain on never retraining",
        f"gain in {metric}; right of zero is better",
        "",
        has_legend=False,
    )


def _label(result: PolicyResult) -> str:
    n = len(result.run.trained)
    trainings = "1 training" if n == 1 else f"{n} trainings"
    return f"{result.policy}\n{trainings}, {len(result.run.promoted)} served"


def _draw_months(axes: Axes, backtest: PolicyBacktest) -> None:
    metric = backtest.spec.promotion.metric
    never, *challengers = backtest.results
    months = [f"{month:%b}" for month in never.by_month]
    baseline = _monthly(never, metric)
    axes.axhline(0, **GUIDE)
    for result in challengers:
        is_gated = result.policy.is_gated
        gains = map(METRICS[metric].gain, _monthly(result, metric), baseline)
        axes.plot(
            months,
            list(gains),
            "o--" if is_gated else "o-",
            ms=4,
            lw=1.3,
            mfc="white" if is_gated else None,
            color=_COLOURS[result.policy.schedule],
            label=str(result.policy),
        )
    finish(
        axes, "The same by month of the predicted days", "", f"gain in {metric}", has_legend=False
    )
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _monthly(result: PolicyResult, metric: str) -> list[float]:
    # NaN leaves a gap in the line where a metric is not defined.
    values = [month[metric] for month in result.by_month.values()]
    return [float("nan") if value is None else value for value in values]
