"""Draw the evidence about a model: PNG files of a training, SVG figures of a promotion page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import METRICS, Task
from nightshift.models.booster import importance
from nightshift.training.evaluation import reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Integers, Vector
    from nightshift.training.holdout import HoldoutResult

    Lines = dict[str, Vector]
    Answered = dict[str, tuple[Vector, Vector]]

COLOURS = {
    "challenger": "#1f5f8b",
    "champion": "#c46210",
    "baseline": "#c46210",
    "rule": "#7a7a7a",
}
GUIDE: dict[str, Any] = {"color": "#8a8a8a", "lw": 1, "ls": "--"}
"""Style of a line that nothing was measured for."""
_REFUSAL = "#b3261e"
_MAX_FEATURES = 20
_PNG_DPI = 90


@dataclass(frozen=True)
class Bar:
    """One line of a forest plot.

    Attributes:
        name: What was compared.
        value: The gain.
        low: Lower bound.
        high: Upper bound.
        is_refusal: Whether it speaks against the challenger.
    """

    name: str
    value: float
    low: float
    high: float
    is_refusal: bool


def draw_training(
    spec: ModelSpec, result: HoldoutResult, by_day: dict[str, dict[str, float]]
) -> dict[str, bytes]:
    """Return the figures of a training as PNG, by file name.

    Args:
        spec: Task and primary metric.
        result: The model on its hold-out.
        by_day: The primary metric by source and day (ISO).
    """
    label = result.label
    scores = {source: part.score for source, part in result.predictions.items()}
    drawn: dict[str, Figure] = {}
    if spec.task is Task.REGRESSION:
        drawn["predicted.png"] = _predicted_figure(label, scores)
    elif spec.task.has_probability:
        answered = {source: part.answered(label) for source, part in result.predictions.items()}
        drawn["reliability.png"] = _reliability_figure(answered, "probability")
    if spec.task is Task.BINARY:
        drawn["curves.png"] = _curves_figure(label, scores)
    drawn["importance.png"] = _importance_figure(importance(result.trained.booster))
    drawn["backtest.png"] = _by_day_figure(spec.promotion.metric, by_day)
    return {name: _png(figure) for name, figure in drawn.items()}


def draw_reliability(answered: Answered, unit: str) -> str:
    """Return mean outcome against mean prediction in ten equally filled bins as SVG.

    Args:
        answered: Outcome and prediction by source; shape (n,) each.
        unit: Unit of the predictions.
    """
    return svg(_reliability_figure(answered, unit))


def draw_lift(label: Vector, predicted: Lines) -> str:
    """Return the mean outcome in each tenth of the rows, highest scores first, as SVG.

    A binary outcome is shown in multiples of its mean.
    """
    import numpy as np

    mean = float(label.mean())
    is_binary = bool(np.isin(label, (0.0, 1.0)).all())
    scale, unit = mean, "times the mean"
    # A regression is shown in its own unit, and no mean of 0 is a scale.
    if not is_binary or mean <= 0:
        scale, unit = 1.0, "outcome"
    figure, (axes,) = _canvas(1, 5.2, 4.2)
    for source, values in predicted.items():
        tenths = _equal_parts(-values, 10)
        means = [float(label[part].mean()) / scale for part in tenths]
        _plot(axes, source, range(1, len(means) + 1), means)
    axes.axhline(mean / scale, **GUIDE, label="all rows")
    axes.set_xticks(range(1, 11))
    title = "Lift: outcome by tenth of the score"
    finish(axes, title, "tenth of the rows, highest scores first", unit)
    return svg(figure)


def draw_forest(bars: list[Bar], metric: str) -> str:
    """Return gains with their intervals as SVG, one line for each comparison."""
    figure, (axes,) = _canvas(1, 8.4, 0.9 + 0.28 * len(bars))
    heights = list(range(len(bars), 0, -1))
    for height, bar in zip(heights, bars, strict=True):
        colour = _REFUSAL if bar.is_refusal else COLOURS["challenger"]
        axes.plot([bar.low, bar.high], [height, height], color=colour, lw=1.6)
        axes.plot([bar.value], [height], "o", ms=4.5, color=colour)
    axes.axvline(0, **GUIDE)
    axes.set_yticks(heights, [bar.name for bar in bars], fontsize=8.5)
    axes.set_ylim(0.4, len(bars) + 0.6)
    x_label = f"gain in {metric}; right of zero the challenger is better"
    finish(axes, "Gains with their intervals", x_label, "", has_legend=False)
    return svg(figure)


def _reliability_figure(answered: Answered, unit: str) -> Figure:
    figure, (axes,) = _canvas(1, 5.2, 4.2)
    ends: list[float] = []
    for source, (label, values) in answered.items():
        means, rates, _ = zip(*reliability(label, values), strict=True)
        _plot(axes, source, means, rates)
        ends += [*means, *rates]
    # Bins end where predictions and outcomes do; a perfect model lies on the diagonal.
    diagonal = [min(ends), max(ends)]
    axes.plot(diagonal, diagonal, **GUIDE, label="perfect")
    title = "Reliability, ten equally filled bins"
    finish(axes, title, f"mean prediction ({unit})", f"mean outcome ({unit})")
    return figure


def _curves_figure(label: Vector, scores: Lines) -> Figure:
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, (roc, recalls) = _canvas(2)
    for source, score in scores.items():
        false_rate, true_rate, _ = roc_curve(label, score)
        roc.plot(false_rate, true_rate, color=COLOURS[source], label=source)
        precision, recall, _ = precision_recall_curve(label, score)
        # The curve's end at recall 0 is a convention, not a measured point.
        measured = [*precision[:-1], precision[-2]]
        recalls.step(recall, measured, where="post", color=COLOURS[source], label=source)
    roc.plot([0, 1], [0, 1], **GUIDE, label="chance")
    finish(roc, "ROC", "false positive rate", "true positive rate")
    recalls.axhline(float(label.mean()), **GUIDE, label="chance")
    recalls.set_ylim(0, 1)
    finish(recalls, "Precision and recall", "recall", "precision")
    return figure


def _predicted_figure(label: Vector, scores: Lines) -> Figure:
    figure, (axes,) = _canvas(1)
    for source, score in scores.items():
        parts = _equal_parts(score, 20)
        means = [score[part].mean() for part in parts]
        outcomes = [label[part].mean() for part in parts]
        _plot(axes, source, means, outcomes)
    axes.axline((0, 0), slope=1, **GUIDE)
    finish(axes, "Prediction against outcome", "mean prediction", "mean outcome")
    return figure


def _importance_figure(shares: dict[str, float]) -> Figure:
    # Bars are drawn from below, and the largest share belongs on top.
    names = list(shares)[:_MAX_FEATURES][::-1]
    percent = [100 * shares[name] for name in names]
    figure, (axes,) = _canvas(1, height=1.5 + 0.22 * len(names))
    axes.barh(names, percent, color=COLOURS["challenger"])
    finish(axes, "Importance", "share of total gain, %", "", has_legend=False)
    return figure


def _by_day_figure(metric: str, by_source: dict[str, dict[str, float]]) -> Figure:
    figure, (axes,) = _canvas(1, width=8)
    days = sorted(set().union(*by_source.values()))
    for source, values in by_source.items():
        known = [day for day in days if day in values]
        positions = [days.index(day) for day in known]
        _plot(axes, source, positions, [values[day] for day in known])
    # About eight dates are readable.
    step = max(1, len(days) // 8)
    axes.set_xticks(range(0, len(days), step), days[::step])
    title = f"Backtest by day ({METRICS[metric].better} is better)"
    finish(axes, title, "predicted from the evening of", metric)
    return figure


def _equal_parts(values: Vector, n_parts: int) -> list[Integers]:
    """Return row positions in equally filled parts, by rising value, without empty parts."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, n_parts)
    return [part for part in parts if part.size]


def _plot(axes: Axes, source: str, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, "o-", ms=4, color=COLOURS[source], label=source)


def _canvas(n_axes: int, width: float = 5, height: float = 4) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * n_axes, height), layout="constrained")
    return figure, list(figure.subplots(1, n_axes, squeeze=False)[0])


def finish(axes: Axes, title: str, x: str, y: str, *, has_legend: bool = True) -> None:
    """Write title and labels, and draw no frame above and to the right."""
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    if has_legend:
        axes.legend(frameon=False, fontsize=8.5)


def _png(figure: Figure) -> bytes:
    """Return a drawing as PNG."""
    sink = BytesIO()
    figure.savefig(sink, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return sink.getvalue()


def svg(figure: Figure) -> str:
    """Return a drawing as an SVG element, the same for the same numbers: no date, no random ids."""
    import matplotlib as mpl

    sink = StringIO()
    style = {
        "svg.hashsalt": "nightshift",
        # Text stays text: smaller, and readable by a screen reader.
        "svg.fonttype": "none",
        "font.family": "sans-serif",
    }
    with mpl.rc_context(style):  # type: ignore[arg-type]
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]
