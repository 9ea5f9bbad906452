"""Values over days: lines with gaps, and intervals or bands below them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from markupsafe import Markup

from nightshift.page.charts.svg import (
    WIDTH,
    Scale,
    figure,
    line,
    month_starts,
    number,
    polygon,
    polyline,
    text,
    ticks,
)

Point = TypeVar(
    "Point",
    tuple[dt.date, float],
    tuple[dt.date, float, float],
)

HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 240, 28, 26, 70, 16
MAX_GAP_DAYS = 3
"""A line is interrupted where more days than this have no value."""
LETTER = 6.6
"""Units that a letter takes on average."""
MAX_MARKS = 60
"""Up to so many values, each has a dot."""


@dataclass(frozen=True)
class ChartLine:
    """One line of a chart.

    Attributes:
        name: For the key.
        css: Class of its colour.
        points: Day and value, by day.
        intervals: Day, lower and upper bound, by day; drawn as an area under the line.
    """

    name: str
    css: str
    points: Sequence[tuple[dt.date, float]]
    intervals: Sequence[tuple[dt.date, float, float]] = field(
        default=(),
    )


def day_lines(title: str, series: Sequence[ChartLine], unit: str = "") -> Markup:
    """Return a chart of values over days; a text says so if there is no value.

    Args:
        title: What it shows.
        series: The lines; the last one lies on top.
        unit: Of the values.
    """
    days: list[dt.date] = []
    for one_series in series:
        days += [day for day, _ in one_series.points]
    if not days:
        return Markup(
            '<p class="quiet">No value yet.</p>',
        )
    first, last = (
        min(days),
        max(days),
    )
    low, high = _bounds(series)
    # Days by their number: a day without a value keeps its width.
    x = Scale(
        first.toordinal(),
        last.toordinal(),
        LEFT,
        WIDTH - RIGHT,
    )
    y = Scale(
        low,
        high,
        HEIGHT - BOTTOM,
        TOP,
    )
    parts = [
        *_axes(x, y, first, last),
        text(LEFT, 14, unit, "quiet"),
    ]
    for one_series in series:
        parts += _draw(
            one_series,
            x,
            y,
        )
    # A single line is named by the title of the chart.
    if len(series) > 1:
        parts += _key(series)
    return figure(
        title,
        parts,
        HEIGHT,
    )


def _bounds(series: Sequence[ChartLine]) -> tuple[float, float]:
    values = []
    for one_series in series:
        values += [value for _, value in one_series.points]
        for _, low, high in one_series.intervals:
            values += [low, high]
    low, high = (
        min(values),
        max(values),
    )
    # A constant line lies in the middle.
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _axes(x: Scale, y: Scale, first: dt.date, last: dt.date) -> Iterator[str]:
    for value in ticks(y.low, y.high):
        # The grid first, so that lines lie on top of it.
        height = y.at(value)
        yield line(
            LEFT,
            height,
            WIDTH - RIGHT,
            height,
        )
        yield text(
            LEFT - 8,
            height + 4,
            number(value),
            "quiet",
            "end",
        )
    starts = month_starts(first, last)
    # Twelve names fit; a label of every second month would hide where a year begins.
    for start in starts:
        name = f"{start:%b %Y}" if start.month == 1 or start == starts[0] else f"{start:%b}"
        position = x.at(
            start.toordinal(),
        )
        yield line(
            position,
            HEIGHT - BOTTOM,
            position,
            HEIGHT - BOTTOM + 4,
        )
        yield text(
            position,
            HEIGHT - 6,
            name,
            "quiet",
        )


def _draw(series: ChartLine, x: Scale, y: Scale) -> Iterator[str]:
    for part in _pieces(
        series.intervals,
    ):
        # Along the upper bounds and back along the lower ones.
        upper = [
            (
                x.at(day.toordinal()),
                y.at(high),
            )
            for day, _, high in part
        ]
        lower = [
            (
                x.at(day.toordinal()),
                y.at(low),
            )
            for day, low, _ in part
        ]
        yield polygon(
            [
                *upper,
                *reversed(lower),
            ],
            "band",
        )
    # A gap is not bridged: nobody knows what was there.
    for piece in _pieces(
        series.points,
    ):
        yield polyline(
            [
                (
                    x.at(
                        day.toordinal(),
                    ),
                    y.at(value),
                )
                for day, value in piece
            ],
            series.css,
        )
    # A year of dots would hide the line; its tooltip is the table below.
    if len(series.points) <= MAX_MARKS:
        for day, value in series.points:
            tooltip = f"<title>{day}: {number(value)}</title>"
            centre = f'cx="{x.at(day.toordinal()):g}" cy="{y.at(value):g}"'
            yield f'<circle {centre} r="3" class="dot {series.css}">{tooltip}</circle>'


def _pieces(points: Iterable[Point]) -> Iterator[list[Point]]:
    """Yield the runs of points between gaps."""
    piece: list[Point] = []
    for point in points:
        if piece and (point[0] - piece[-1][0]).days > MAX_GAP_DAYS:
            yield piece
            piece = []
        piece.append(point)
    if piece:
        yield piece


def _key(series: Sequence[ChartLine]) -> Iterator[str]:
    position: float = WIDTH - RIGHT
    # From the right: the names have different lengths, the edge is known.
    for one_series in reversed(
        series,
    ):
        yield text(
            position,
            14,
            one_series.name,
            f"key {one_series.css}",
            "end",
        )
        position -= LETTER * len(one_series.name) + 30
        yield line(
            position + 4,
            10,
            position + 20,
            10,
            one_series.css,
        )
        position -= 10
