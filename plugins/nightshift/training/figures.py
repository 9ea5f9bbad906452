"""Draw the evidence: reliability, ROC and precision-recall or residuals, importance, metric by day. PNG bytes, for people."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import METRICS
from nightshift.training.evaluation import reliability

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nightshift.models.predictions import Predictions

    Vector = npt.NDArray[np.float64]

_MODEL, _BASELINE, _GUIDE = "#1f5f8b", "#c46210", "#8a8a8a"
_N_IMPORTANT = 20
_DPI = 90


def draw_binary(label: Vector, challenger: Predictions, baseline: Predictions) -> dict[str, bytes]:
    """Return ``reliability.png`` and ``curves.png`` of some hold-out rows; labels and predictions of shape (n,)."""
    return {
        "reliability.png": _draw_reliability(label, challenger, baseline),
        "curves.png": _draw_curves(label, challenger, baseline),
    }


def draw_regression(
    label: Vector, challenger: Predictions, baseline: Predictions
) -> dict[str, bytes]:
    """Return ``predicted.png``: mean label against mean prediction in twenty equally filled bins; arrays of shape (n,)."""
    import numpy as np

    figure, axes = _canvas(1)
    for name, predictions, colour in (
        ("challenger", challenger, _MODEL),
        ("rule baseline", baseline, _BASELINE),
    ):
        parts = [
            part
            for part in np.array_split(np.argsort(predictions.score, kind="stable"), 20)
            if part.size
        ]
        axes[0].plot(
            [predictions.score[p].mean() for p in parts],
            [label[p].mean() for p in parts],
            "o-",
            ms=4,
            color=colour,
            label=name,
        )
    _finish(axes[0], "Prediction against outcome", "mean prediction", "mean outcome")
    axes[0].axline((0, 0), slope=1, color=_GUIDE, lw=1, ls="--")
    return {"predicted.png": _png(figure)}


def draw_importance(importance: dict[str, float]) -> bytes:
    """Return a PNG of the most important features; values are shares of the total gain."""
    names = list(importance)[:_N_IMPORTANT][::-1]
    figure, axes = _canvas(1, height=1.5 + 0.22 * len(names))
    axes[0].barh(names, [100 * importance[name] for name in names], color=_MODEL)
    axes[0].tick_params(axis="y", labelsize=8)
    _finish(axes[0], "Importance", "share of total gain, %", "", has_legend=False)
    return _png(figure)


def draw_by_day(metric: str, by_source: dict[str, dict[str, float]]) -> bytes:
    """Return a PNG of one metric per day; ``by_source`` maps source to day (ISO) to value."""
    figure, axes = _canvas(1, width=8)
    days = sorted({day for values in by_source.values() for day in values})
    for (source, values), colour in zip(
        by_source.items(), (_MODEL, _BASELINE, _GUIDE), strict=False
    ):
        shown = [day for day in days if day in values]
        axes[0].plot(
            [days.index(day) for day in shown],
            [values[day] for day in shown],
            "o-",
            ms=3,
            color=colour,
            label=source,
        )
    step = max(1, len(days) // 8)
    axes[0].set_xticks(range(0, len(days), step), days[::step], fontsize=8)
    _finish(
        axes[0],
        f"Backtest by day ({METRICS[metric].better} is better)",
        "predicted from the evening of",
        metric,
    )
    return _png(figure)


def _draw_reliability(label: Vector, challenger: Predictions, baseline: Predictions) -> bytes:
    figure, axes = _canvas(1)
    highest = 0.0
    for name, predictions, colour in (
        ("challenger", challenger, _MODEL),
        ("rule baseline", baseline, _BASELINE),
    ):
        if predictions.probability is not None:
            bins = reliability(label, predictions.probability)
            highest = max([highest, *(max(mean, rate) for mean, rate, _ in bins)])
            axes[0].plot(
                [mean for mean, _, _ in bins],
                [rate for _, rate, _ in bins],
                "o-",
                ms=4,
                color=colour,
                label=name,
            )
    axes[0].plot([0, highest], [0, highest], color=_GUIDE, lw=1, ls="--", label="perfect")
    _finish(
        axes[0], "Reliability, ten equally filled bins", "mean probability", "share of positives"
    )
    return _png(figure)


def _draw_curves(label: Vector, challenger: Predictions, baseline: Predictions) -> bytes:
    from sklearn.metrics import precision_recall_curve, roc_curve

    figure, axes = _canvas(2)
    for name, predictions, colour in (
        ("challenger", challenger, _MODEL),
        ("rule baseline", baseline, _BASELINE),
    ):
        false_rate, true_rate, _ = roc_curve(label, predictions.score)
        precision, recall, _ = precision_recall_curve(label, predictions.score)
        axes[0].plot(false_rate, true_rate, color=colour, label=name)
        # The curve's end at recall 0 is a convention, not a measured point.
        axes[1].step(
            recall, [*precision[:-1], precision[-2]], where="post", color=colour, label=name
        )
    axes[0].plot([0, 1], [0, 1], color=_GUIDE, lw=1, ls="--", label="chance")
    axes[1].axhline(float(label.mean()), color=_GUIDE, lw=1, ls="--", label="chance")
    _finish(axes[0], "ROC", "false positive rate", "true positive rate")
    _finish(axes[1], "Precision and recall", "recall", "precision")
    axes[1].set_ylim(0, 1)
    return _png(figure)


def _canvas(n: int, width: float = 5, height: float = 4) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * n, height), dpi=_DPI, layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _finish(axes: Axes, title: str, x: str, y: str, *, has_legend: bool = True) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    if has_legend:
        axes.legend(frameon=False, fontsize=8)


def _png(figure: Figure) -> bytes:
    sink = BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()
