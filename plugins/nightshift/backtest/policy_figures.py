"""Draw a policy backtest as SVG: gains on never training again, overall and by month, and the cost of staleness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.backtest.policies import Rhythm
from nightshift.contracts.metrics import METRICS
from nightshift.training.figures import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nightshift.backtest.policy_backtest import PolicyBacktest
    from nightshift.backtest.policy_quality import PolicyResult

_COLOURS = {
    Rhythm.NEVER: "#8a8a8a",
    Rhythm.WEEKLY: "#1f5f8b",
    Rhythm.TRIGGERED: "#c46210",
    Rhythm.NIGHTLY: "#3a7d44",
}
_GUIDE = "#8a8a8a"


def draw_policies(found: PolicyBacktest) -> str:
    """Return the gain of each policy on ``never`` with its interval and cost, and beside it month by month."""
    return svg(policies_figure(found))


def draw_staleness(found: PolicyBacktest) -> str:
    """Return the gain on the freshest model by age, with its interval."""
    return svg(staleness_figure(found))


def policies_figure(found: PolicyBacktest) -> Figure:
    """Return the figure of ``draw_policies``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    metric, others = found.spec.promotion.metric, found.results[1:]
    places = range(len(others), 0, -1)
    for place, result in zip(places, others, strict=True):
        _interval(left, result, place, metric)
    left.axvline(0, color=_GUIDE, lw=1, ls="--")
    left.set_yticks(list(places), [_label(result) for result in others], fontsize=8.5)
    left.set_ylim(0.4, len(others) + 0.6)
    _finish(
        left,
        f"{found.spec.name}: gain on never retraining",
        f"gain in {metric}; right of zero is better",
        "",
    )
    _by_month(right, found)
    return figure


def staleness_figure(found: PolicyBacktest) -> Figure:
    """Return the figure of ``draw_staleness``.

    Raises:
        ValueError: Too few nights for two ages.
    """
    from matplotlib.figure import Figure

    if found.staleness is None:
        raise ValueError("There are too few nights to compare ages.")
    metric, ages = found.spec.promotion.metric, found.staleness.ages
    older = [(age.days, age.gains[metric]) for age in ages if metric in age.gains]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=_GUIDE, lw=1, ls="--")
    axes.plot(
        [ages[0].days, *(days for days, _ in older)],
        [0, *(gain.value for _, gain in older)],
        color=_COLOURS[Rhythm.WEEKLY],
        lw=1,
    )
    for days, gain in older:
        axes.plot([days, days], [gain.low, gain.high], color=_COLOURS[Rhythm.WEEKLY], lw=1.6)
        axes.plot([days], [gain.value], "o", ms=5, color=_COLOURS[Rhythm.WEEKLY])
    axes.plot([ages[0].days], [0], "o", ms=5, color=_COLOURS[Rhythm.WEEKLY], mfc="white")
    axes.set_xticks([age.days for age in ages])
    _finish(
        axes,
        f"{found.spec.name}: cost of staleness",
        "age of the model in days",
        f"gain in {metric} on the model of the evening before",
    )
    return figure


def _interval(axes: Axes, result: PolicyResult, place: int, metric: str) -> None:
    gain, colour = result.gains[metric], _COLOURS[result.policy.rhythm]
    axes.plot([gain.low, gain.high], [place, place], color=colour, lw=1.6)
    axes.plot(
        [gain.value],
        [place],
        "o",
        ms=5,
        color=colour,
        mfc="white" if result.policy.is_gated else colour,
    )


def _label(result: PolicyResult) -> str:
    n = len(result.course.trained)
    return f"{result.policy}\n{n} training{'' if n == 1 else 's'}, {len(result.course.promoted)} served"


def _by_month(axes: Axes, found: PolicyBacktest) -> None:
    metric, never = found.spec.promotion.metric, found.results[0]
    months = [f"{month:%b}" for month in never.by_month]
    sign = 1 if METRICS[metric].better == "higher" else -1
    axes.axhline(0, color=_GUIDE, lw=1, ls="--")
    for result in found.results[1:]:
        pairs = zip(result.by_month.values(), never.by_month.values(), strict=True)
        gains = [
            sign * (_defined(value[metric]) - _defined(before[metric])) for value, before in pairs
        ]
        style = "o--" if result.policy.is_gated else "o-"
        face = "white" if result.policy.is_gated else None
        axes.plot(
            months,
            gains,
            style,
            ms=4,
            lw=1.3,
            mfc=face,
            color=_COLOURS[result.policy.rhythm],
            label=str(result.policy),
        )
    _finish(axes, "The same by month of the predicted days", "", f"gain in {metric}")
    axes.legend(frameon=False, fontsize=8, ncols=2)


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)


def _defined(value: float | None) -> float:
    return float("nan") if value is None else value
