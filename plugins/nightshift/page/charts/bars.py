"""Bars: spans of time of a partition's steps and of champions, and two distributions."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nightshift.page.charts.svg import (
    WIDTH,
    Scale,
    figure,
    line,
    month_starts,
    number,
    rect,
    text,
)

ROW, TOP, BOTTOM = 22, 8, 26
GANTT_LEFT, SHARE_LEFT = 300, 150
GRID_LEFT, GRID_TOP, GRID_PITCH = 250, 24, 200
LABEL_LENGTH = 40
CLOCK_STEPS = (1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600)
"""Seconds between the lines of a clock."""
MAX_CLOCK_LINES = 7


@dataclass(frozen=True)
class GanttBar:
    """A bar of a Gantt chart.

    Attributes:
        name: What ran.
        start: When it began, UTC.
        end: When it ended, UTC.
        css: Class of its colour.
        note: More for the tooltip.
    """

    name: str
    start: dt.datetime
    end: dt.datetime
    css: str
    note: str = ""


@dataclass(frozen=True)
class Period:
    """A bar of a timeline of days.

    Attributes:
        name: Written on the bar if there is room.
        first: First day.
        last: Last day, included.
        css: Class of its colour.
    """

    name: str
    first: dt.date
    last: dt.date
    css: str


def gantt(title: str, spans: Sequence[GanttBar], deadline: dt.datetime | None) -> Markup:
    """Return the steps of a partition over the time of day, UTC.

    Args:
        title: What it shows.
        spans: From top to bottom; at least one.
        deadline: A line, if it lies near.
    """
    start = min(span.start for span in spans)
    end = max(span.end for span in spans)
    # A deadline hours away would press all bars into a corner.
    if deadline and start < deadline < end + 2 * (end - start):
        end = max(end, deadline)
    else:
        deadline = None
    x = Scale(
        start.timestamp(),
        max(
            end.timestamp(),
            start.timestamp() + 1,
        ),
        GANTT_LEFT,
        WIDTH - 8,
    )
    height = TOP + len(spans) * ROW + BOTTOM
    # The clock first, so that bars lie on its lines.
    parts = list(_clock(x, start, height))
    for row, span in enumerate(spans):
        parts += _step(x, TOP + row * ROW, span)
    if deadline is not None:
        parts += _deadline(x.at(deadline.timestamp()), height)
    return figure(
        title,
        parts,
        height,
    )


def _step(x: Scale, y: float, span: GanttBar) -> Iterator[str]:
    """Yield the name and the bar of one step."""
    yield text(
        GANTT_LEFT - 8,
        y + 14,
        _shortened(span.name),
        "small",
        "end",
    )
    left = x.at(span.start.timestamp())
    # A step of no length is still seen.
    right = x.at(span.end.timestamp())
    width = max(
        right - left,
        1.5,
    )
    seconds = (span.end - span.start).total_seconds()
    words = f"{span.name}: {span.start:%H:%M:%S} to {span.end:%H:%M:%S}, {seconds:.1f} s"
    note = f" {span.note}" if span.note else ""
    yield rect(
        left,
        y + 3,
        width,
        ROW - 8,
        f"span {span.css}",
        f"{words}{note}",
    )


def _deadline(position: float, height: float) -> Iterator[str]:
    """Yield the line of a deadline and its name."""
    yield line(
        position,
        TOP - 6,
        position,
        height - BOTTOM,
        "deadline",
    )
    yield text(
        position - 4,
        height - 6,
        "deadline",
        "bad-text",
        "end",
    )


def _clock(x: Scale, start: dt.datetime, height: float) -> Iterator[str]:
    # Steps that a clock has: 3 min 20 s would be round only in the decimal system.
    step = next(
        (step for step in CLOCK_STEPS if (x.high - x.low) / step <= MAX_CLOCK_LINES), 86_400
    )
    for seconds in range(0, int(x.high - x.low) + 1, step):
        position = x.at(x.low + seconds)
        moment = start + dt.timedelta(seconds=seconds)
        yield line(
            position,
            TOP - 6,
            position,
            height - BOTTOM,
        )
        yield text(
            position,
            height - 6,
            f"{moment:%H:%M:%S}",
            "quiet",
            "middle",
        )


def timeline(title: str, periods: Sequence[Period], marks: Sequence[Period]) -> Markup:
    """Return who was champion when, and below it the days of refused challengers.

    Args:
        title: What it shows.
        periods: By day; at least one.
        marks: Short ticks of a second row.
    """
    days = [*(period.first for period in periods), *(mark.first for mark in marks)]
    first = min(days)
    last = max(period.last for period in (*periods, *marks))
    # A period ends with its last day, so the scale has one day more.
    x = Scale(
        first.toordinal(),
        last.toordinal() + 1,
        4,
        WIDTH - 4,
    )
    parts: list[str] = []
    for period in periods:
        parts += _reign(x, period)
    for mark in marks:
        parts.append(_tick(x, mark))
    for day in month_starts(first, last):
        month = text(
            x.at(day.toordinal()),
            TOP + 62,
            f"{day:%b %Y}",
            "quiet",
        )
        parts.append(month)
    return figure(
        title,
        parts,
        TOP + 68,
    )


def _reign(x: Scale, period: Period) -> Iterator[str]:
    """Yield the bar of a champion, and its name if there is room."""
    left = x.at(period.first.toordinal())
    # The last day is included.
    right = x.at(period.last.toordinal() + 1)
    yield rect(
        left,
        TOP,
        right - left - 1,
        26,
        f"span {period.css}",
        f"{period.name}: {period.first} to {period.last}",
    )
    # A letter takes about 9 units; a name that does not fit is in the tooltip.
    if right - left > 9 * len(period.name):
        yield text(
            left + 6,
            TOP + 18,
            period.name,
            "on-bar",
        )


def _tick(x: Scale, mark: Period) -> str:
    """Return the tick of a refused challenger."""
    return rect(
        x.at(mark.first.toordinal()),
        TOP + 32,
        3,
        12,
        f"span {mark.css}",
        f"{mark.name}: {mark.first}",
    )


def two_distributions(
    title: str, labels: Sequence[str], reference: Sequence[float], current: Sequence[float]
) -> Markup:
    """Return the shares of two samples bin by bin, one bar above the other.

    Args:
        title: What it shows.
        labels: Names of the bins; shape (k,).
        reference: Shares of the reference, 0 to 1; shape (k,).
        current: Shares of the partition, 0 to 1; shape (k,).
    """
    # Both samples have one scale, or their bars could not be compared.
    largest = max(
        *reference,
        *current,
        0.01,
    )
    x = Scale(
        0,
        largest,
        SHARE_LEFT + 60,
        WIDTH - 90,
    )
    row_height = 34
    parts = []
    for row, label in enumerate(labels):
        y = TOP + row * row_height
        parts.append(
            text(
                x.start - 8,
                y + 19,
                _shortened(
                    label,
                    28,
                ),
                "small",
                "end",
            )
        )
        for offset, share, css in ((2, reference[row], "blank"), (15, current[row], "accent")):
            end = x.at(share)
            parts.append(
                rect(
                    x.start,
                    y + offset,
                    end - x.start,
                    12,
                    f"span {css}",
                )
            )
            parts.append(
                text(
                    end + 5,
                    y + offset + 10,
                    f"{number(share * 100)} %",
                    "tiny",
                )
            )
    return figure(
        title,
        parts,
        TOP + len(labels) * row_height + 8,
    )


def share_grid(
    title: str, rows: Sequence[str], columns: Sequence[str], shares: Mapping[tuple[str, str], float]
) -> Markup:
    """Return a bar with its percentage for each row and column, all of one scale.

    Args:
        title: What it shows.
        rows: Names, from top to bottom.
        columns: Names, from left to right; at least one.
        shares: By row and column, 0 to 1; one that is not there leaves its place empty.
    """
    largest = max(
        shares.values(),
        default=0.0,
    )
    pitch = (WIDTH - GRID_LEFT) / len(columns)
    # A bar leaves room for its percentage, up to "100%".
    room = min(pitch, GRID_PITCH) - 46
    width = Scale(
        0,
        largest or 1.0,
        0,
        room,
    )
    left = {name: GRID_LEFT + index * pitch for index, name in enumerate(columns)}
    top = {name: GRID_TOP + index * ROW for index, name in enumerate(rows)}
    parts = []
    for name, x in left.items():
        parts.append(
            text(
                x,
                14,
                name,
                "quiet",
            )
        )
    for name, y in top.items():
        parts.append(
            text(
                GRID_LEFT - 8,
                y + 14,
                _shortened(
                    name,
                    34,
                ),
                "small",
                "end",
            )
        )
    for (row, column), share in shares.items():
        words = f"{row}, {column}: {share:.1%}"
        parts += _share(
            left[column],
            top[row],
            width.at(share),
            share,
            words,
        )
    return figure(
        title,
        parts,
        GRID_TOP + len(rows) * ROW + 4,
    )


def _share(x: float, y: float, width: float, share: float, words: str) -> Iterator[str]:
    """Yield the bar of one share and its percentage."""
    # A share of nothing is still seen.
    end = max(width, 1.0)
    yield rect(
        x,
        y + 3,
        end,
        ROW - 8,
        "span accent",
        words,
    )
    yield text(
        x + end + 4,
        y + 14,
        f"{share:.0%}",
        "tiny",
    )


def _shortened(name: str, length: int = LABEL_LENGTH) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
