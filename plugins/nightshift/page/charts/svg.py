"""The parts of every chart: the frame with its text alternative, scales, axes and marks."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 960
"""Units of a chart's width; the browser scales it to the column."""
SMALLEST_WIDTH = 780
"""Pixels; below them letters could not be read, so the chart scrolls."""
N_TICKS = 5
LARGE = 10_000
"""From here on digits after the point say nothing to a person."""
NOTHING = "\N{EN DASH}"
"""Stands where there is no value."""


@dataclass(frozen=True)
class Scale:
    """A linear map from values to coordinates.

    Attributes:
        low, high: Values at the two ends.
        start, end: Coordinates at the two ends; ``end`` may be smaller.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the coordinate of a value, with one decimal."""
        span = self.high - self.low or 1.0
        share = (value - self.low) / span
        return round(self.start + share * (self.end - self.start), 1)


def figure(title: str, parts: Iterable[str], height: float, width: float = WIDTH) -> Markup:
    """Return a chart with its title as the text that screen readers speak.

    Args:
        title: What the chart shows, one sentence.
        parts: SVG, already escaped.
        height: Units of height.
        width: Units of width.
    """
    # On a phone a chart scrolls: letters that shrink with it could not be read.
    body = "".join(parts)
    # A picture has no parts for who hears it: links would be lost in it.
    role = "group" if "<a " in body else "img"
    return Markup(  # noqa: S704 - parts are escaped where they are made
        f'<svg viewBox="0 0 {width:g} {height:g}" role="{role}" aria-label="{escape(title)}"'
        f' style="min-width:{min(width, SMALLEST_WIDTH):g}px">{body}</svg>'
    )


def text(x: float, y: float, words: object, css: str = "", anchor: str = "start") -> str:
    """Return a text; the words are escaped."""
    return f'<text x="{x:g}" y="{y:g}" class="{css}" text-anchor="{anchor}">{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, css: str, title: object = "") -> str:
    """Return a rectangle; the title, which is escaped, shows when a pointer rests on it."""
    tooltip = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{max(width, 0):g}" height="{height:g}"'
        f' class="{css}">{tooltip}</rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str = "axis") -> str:
    """Return a straight line."""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{css}"/>'


def link(href: str, content: str, label: object = "", *, is_reachable: bool = True) -> str:
    """Return a link around SVG.

    Args:
        href: Where to; it is escaped.
        content: SVG, already escaped.
        label: What screen readers speak.
        is_reachable: Whether the Tab key stops here. A map of a thousand cells is no thousand
            stops: its page has a form for the keyboard.
    """
    stop = "" if is_reachable else ' tabindex="-1"'
    spoken = f' aria-label="{escape(label)}"' if label else ""
    return f'<a href="{escape(href)}"{stop}{spoken}>{content}</a>'


def polyline(points: Sequence[tuple[float, float]], css: str) -> str:
    """Return a line through points."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" class="{css}"/>'


def polygon(points: Sequence[tuple[float, float]], css: str) -> str:
    """Return an area."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polygon points="{path}" class="{css}"/>'


def ticks(low: float, high: float, n_ticks: int = N_TICKS) -> list[float]:
    """Return round numbers between two bounds, about ``n_ticks`` of them."""
    span = high - low
    # One value, or none that can be drawn.
    if span <= 0 or not math.isfinite(span):
        return [low]
    # Steps of 1, 2 or 5 times a power of ten, as on a ruler.
    rough = span / n_ticks
    power = 10 ** math.floor(math.log10(rough))
    step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda size: abs(size - rough))
    first = math.ceil(low / step)
    last = math.floor(high / step)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float | None) -> str:
    """Return a number in a form for people: about four digits, thousands with a comma."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or abs(value) >= LARGE:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def month_starts(first: dt.date, last: dt.date) -> list[dt.date]:
    """Return the first days of the months of a span; the first day itself of a shorter span."""
    starts = []
    day = first.replace(day=1)
    while day <= last:
        if day >= first:
            starts.append(day)
        day = (day + dt.timedelta(days=32)).replace(day=1)
    return starts or [first]
