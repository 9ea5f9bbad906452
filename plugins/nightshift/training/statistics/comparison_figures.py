"""Draw a comparison: reliability, lift, and gains with their intervals. SVG, so that a page stays sharp and its text can be searched."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from nightshift.training.evaluation import reliability

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Vector = npt.NDArray[np.float64]

_COLOURS = {"challenger": "#1f5f8b", "champion": "#c46210", "rule": "#7a7a7a"}
_GUIDE = "#8a8a8a"
_BAD = "#b3261e"
_TENTHS = 10


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


def draw_reliability(label: Vector, by_source: dict[str, Vector], unit: str) -> str:
    """Return the mean outcome against the mean prediction in ten equally filled bins, one line a source; arrays of shape (n,)."""
    figure, axes = _canvas(5.2, 4.2)
    points = {source: reliability(label, predicted) for source, predicted in by_source.items()}
    ends = [value for bins in points.values() for mean, rate, _ in bins for value in (mean, rate)]
    axes.plot(
        [min(ends), max(ends)], [min(ends), max(ends)], color=_GUIDE, lw=1, ls="--", label="perfect"
    )
    for source, bins in points.items():
        axes.plot(
            [mean for mean, _, _ in bins],
            [rate for _, rate, _ in bins],
            "o-",
            ms=4,
            color=_COLOURS[source],
            label=source,
        )
    _finish(
        axes,
        "Reliability: prediction against outcome",
        f"mean prediction ({unit})",
        f"mean outcome ({unit})",
    )
    return svg(figure)


def draw_lift(label: Vector, by_source: dict[str, Vector]) -> str:
    """Return the mean outcome in each tenth of the rows by falling score, over the mean of all, one line a source."""
    import numpy as np

    figure, axes = _canvas(5.2, 4.2)
    is_ratio = bool(np.isin(label, (0.0, 1.0)).all()) and label.mean() > 0
    for source, predicted in by_source.items():
        parts = [
            part
            for part in np.array_split(np.argsort(-predicted, kind="stable"), _TENTHS)
            if part.size
        ]
        means = [float(label[part].mean() / (label.mean() if is_ratio else 1.0)) for part in parts]
        axes.plot(range(1, len(means) + 1), means, "o-", ms=4, color=_COLOURS[source], label=source)
    axes.axhline(
        1.0 if is_ratio else float(label.mean()), color=_GUIDE, lw=1, ls="--", label="all rows"
    )
    axes.set_xticks(range(1, _TENTHS + 1))
    _finish(
        axes,
        "Lift: outcome by tenth of the score",
        "tenth of the rows, highest scores first",
        "times the mean" if is_ratio else "outcome",
    )
    return svg(figure)


def draw_forest(bars: list[Bar], metric: str) -> str:
    """Return gains with their intervals, one line a comparison; right of zero the challenger is better."""
    figure, axes = _canvas(8.4, 0.9 + 0.28 * len(bars))
    places = range(len(bars), 0, -1)
    for place, bar in zip(places, bars, strict=True):
        colour = _BAD if bar.is_refusal else _COLOURS["challenger"]
        axes.plot([bar.low, bar.high], [place, place], color=colour, lw=1.6)
        axes.plot([bar.value], [place], "o", ms=4.5, color=colour)
    axes.axvline(0, color=_GUIDE, lw=1, ls="--")
    axes.set_yticks(list(places), [bar.name for bar in bars], fontsize=8.5)
    axes.set_ylim(0.4, len(bars) + 0.6)
    _finish(
        axes,
        "Gains with their intervals",
        f"gain in {metric}; right of zero the challenger is better",
        "",
        has_legend=False,
    )
    return svg(figure)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _finish(axes: Axes, title: str, x: str, y: str, *, has_legend: bool = True) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    if has_legend:
        axes.legend(frameon=False, fontsize=8.5)


def svg(figure: Figure) -> str:
    """Return the drawing alone, the same for the same numbers: no date, no random ids."""
    import matplotlib as mpl

    sink = StringIO()
    with mpl.rc_context(
        {"svg.hashsalt": "nightshift", "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]
