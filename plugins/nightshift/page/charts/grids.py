"""Two grids of days: the calendar of a model's partitions, and the heat map of drift."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from nightshift.page.charts.svg import WIDTH, figure, line, link, month_starts, rect, text

CELL, GAP = 15, 2
PITCH = CELL + GAP
CALENDAR_LEFT, CALENDAR_TOP = 40, 22
MAP_LEFT, MAP_TOP, ROW = 250, 22, 17
LABEL_LENGTH = 34
STATUS_MARKS = {
    "late": "L",
    "fallback": "F",
    "republished": "R",
    "backfilled": "b",
    "hole": "\N{MULTIPLICATION SIGN}",
}
"""Letters in the cells, so that colour alone carries no status."""
MAX_LINKED_CELLS = 3000
"""Of a larger map the names of features are the links, in the table below it."""
UNIT_CLASSES = (1.0, 2.0, 4.0, 8.0)
"""Bounds of the five colours, in units of a feature's usual variation."""


class HeatCell(NamedTuple):
    """A feature on a day.

    Attributes:
        feature: The column.
        day: The partition.
        units: Distance in units of the feature's usual variation; None if that is unknown.
        is_drifted: Whether the monitor calls it drifted.
        is_slow: Whether small deviations have added up to a slow change.
    """

    feature: str
    day: dt.date
    units: float | None
    is_drifted: bool
    is_slow: bool = False


class HeatRow(NamedTuple):
    """A feature over days: the same as cells, by column.

    Attributes:
        feature: The column.
        days: The partitions that were measured.
        units: Of each day, as ``HeatCell`` has it.
        is_drifted: Of each day.
        is_slow: Of each day.
    """

    feature: str
    days: Sequence[dt.date]
    units: Sequence[float | None]
    is_drifted: Sequence[bool]
    is_slow: Sequence[bool]

    @property
    def cells(self) -> Iterator[HeatCell]:
        """Yield the feature on each day."""
        for values in zip(*self[1:], strict=True):
            yield HeatCell(self.feature, *values)


def calendar(title: str, statuses: Mapping[dt.date, str], href: Callable[[dt.date], str]) -> Markup:
    """Return a calendar: a column per week, a row per weekday, a link per day.

    Args:
        title: What it shows.
        statuses: Word of ``ops.model_calendar`` by day; at least one.
        href: Page of a day.
    """
    first, last = min(statuses), max(statuses)
    # Each column begins on a Monday, also the first one.
    monday = first - dt.timedelta(days=first.weekday())
    n_weeks = (last - monday).days // 7 + 1
    # Every second weekday has a name: the rows are narrower than seven names.
    parts = []
    for row, name in enumerate(("Mon", "", "Wed", "", "Fri", "", "Sun")):
        parts.append(
            text(
                0,
                CALENDAR_TOP + row * PITCH + 12,
                name,
                "quiet",
            )
        )
    for start in month_starts(
        first,
        last,
    ):
        week = (start - monday).days // 7
        parts.append(
            text(
                CALENDAR_LEFT + week * PITCH,
                14,
                f"{start:%b}",
                "quiet",
            )
        )
    for day, status in sorted(statuses.items()):
        n_days = (day - monday).days
        week, weekday = divmod(
            n_days,
            7,
        )
        parts.append(
            _day(
                CALENDAR_LEFT + week * PITCH,
                CALENDAR_TOP + weekday * PITCH,
                day,
                status,
                href(day),
            )
        )
    width = max(
        CALENDAR_LEFT + n_weeks * PITCH,
        480,
    )
    return figure(
        title,
        parts,
        CALENDAR_TOP + 7 * PITCH + 4,
        width,
    )


def _day(
    x: float,
    y: float,
    day: dt.date,
    status: str,
    href: str,
) -> str:
    """Return the cell of a day with its mark, which leads to its page."""
    cell = rect(
        x,
        y,
        CELL,
        CELL,
        f"cell {status}",
        f"{day}: {status}",
    )
    mark = STATUS_MARKS.get(
        status,
        "",
    )
    if mark:
        cell += text(
            x + CELL / 2,
            y + 11.5,
            mark,
            f"mark {status}",
            "middle",
        )
    # Problems are stops of the Tab key; the form of the page reaches every day.
    return link(
        href,
        cell,
        f"{day} {status}",
        is_reachable=bool(mark),
    )


def heat_map(
    title: str,
    rows: Sequence[HeatRow],
    days: Sequence[dt.date],
    href: Callable[[HeatCell], str],
) -> Markup:
    """Return the heat map: a row per feature, a column per day.

    Args:
        title: What it shows.
        rows: What was measured, from the top; other positions stay empty.
        days: Columns, from the left.
        href: Page of a cell.
    """
    # By name, since cells of days without a monitor run are missing.
    columns = {day: column for column, day in enumerate(days)}
    # A few days do not fill the chart: cells wider than long look like bars.
    pitch = (WIDTH - MAP_LEFT) / max(
        len(days),
        12,
    )
    height = MAP_TOP + len(rows) * ROW + 4
    parts = [
        *_feature_names([row.feature for row in rows]),
        *_day_names(days, pitch),
    ]
    # A link and a tooltip take 150 bytes: a year of forty features would be 3 MB.
    if sum(len(row.days) for row in rows) > MAX_LINKED_CELLS:
        parts += _painted(rows, columns, pitch)
        rows = ()
    for index, row in enumerate(rows):
        y = MAP_TOP + index * ROW
        for cell in row.cells:
            x = MAP_LEFT + columns[cell.day] * pitch
            parts.append(
                _heat_cell(
                    cell,
                    round(x, 1),
                    y,
                    round(pitch - 1, 1),
                    href(cell),
                )
            )
    return figure(
        title,
        parts,
        height,
    )


def heat_class(units: float | None) -> str:
    """Return the CSS class of a distance."""
    if units is None:
        return "unmeasured"
    return f"heat{bisect_right(UNIT_CLASSES, units)}"


def _feature_names(features: Sequence[str]) -> Iterator[str]:
    for row, feature in enumerate(features):
        name = feature
        if len(name) > LABEL_LENGTH:
            name = f"{name[: LABEL_LENGTH - 1]}…"
        yield text(
            MAP_LEFT - 8,
            MAP_TOP + row * ROW + 12,
            name,
            "small",
            "end",
        )


def _day_names(days: Sequence[dt.date], pitch: float) -> Iterator[str]:
    # Labels of at least 56 units each, so that they do not touch.
    step = max(round(56 / pitch), 1)
    for column in range(
        0,
        len(days),
        step,
    ):
        x = MAP_LEFT + column * pitch
        yield line(
            x,
            MAP_TOP - 5,
            x,
            MAP_TOP - 1,
        )
        yield text(
            x,
            14,
            f"{days[column]:%d %b}",
            "quiet",
        )


def _painted(
    rows: Sequence[HeatRow],
    columns: Mapping[dt.date, int],
    pitch: float,
) -> Iterator[str]:
    """Yield all cells of a colour as one shape, and all dots as another."""
    # A year of forty features has 15,000 cells: each number is formatted once for its column or
    # row, and no object is made for a cell.
    width = f"{pitch - 0.4:.1f}"
    lefts, middles = {}, {}
    for day, column in columns.items():
        x = MAP_LEFT + column * pitch
        lefts[day] = f"M{x:.1f} "
        middles[day] = f"M{x + pitch / 2 - 1:.1f} "
    shapes: dict[str, list[str]] = defaultdict(list)
    dots: list[str] = []
    bars: list[str] = []
    for index, row in enumerate(rows):
        y = MAP_TOP + index * ROW
        box = f"{y}h{width}v{ROW - 2}h-{width}z"
        # Two units in the middle.
        dot = f"{y + 6}h2v2h-2z"
        bar = f"{y + ROW - 4}h{width}v2h-{width}z"
        for day, units, is_drifted, is_slow in zip(*row[1:], strict=True):
            colour = heat_class(units)
            shapes[colour].append(lefts[day] + box)
            if is_drifted:
                dots.append(middles[day] + dot)
            if is_slow:
                bars.append(lefts[day] + bar)
    for css, paths in sorted(shapes.items()):
        yield f'<path class="cell {css}" d="{"".join(paths)}"/>'
    # Above the cells.
    marks = {
        "drifted": dots,
        "slow": bars,
    }
    for css, paths in marks.items():
        if paths:
            yield f'<path class="{css}" d="{"".join(paths)}"/>'


def _bar(x: float, y: float, width: float) -> str:
    """Return the path of the bar below a cell."""
    # Nights of one change join to a line.
    return f"M{x:.1f} {y + ROW - 4:g}h{width:.1f}v2h-{width:.1f}z"


def _heat_cell(cell: HeatCell, x: float, y: float, width: float, href: str) -> str:
    distance = "unknown" if cell.units is None else f"{cell.units:.2f}"
    # The words are the tooltip, and what a pointer's reader hears.
    words = f"{cell.feature}, {cell.day}: {distance} units"
    if cell.is_drifted:
        words += ", drifted"
    if cell.is_slow:
        words += ", slow change"
    content = rect(
        x,
        y,
        width,
        ROW - 2,
        f"cell {heat_class(cell.units)}",
        words,
    )
    if cell.is_drifted:
        centre = f'cx="{x + width / 2:g}" cy="{y + 7.5:g}"'
        content += f'<circle {centre} r="{min(width / 3, 2.5):.2g}" class="drifted"/>'
    if cell.is_slow:
        content += f'<path class="slow" d="{_bar(x, y, width)}"/>'
    return link(
        href,
        content,
        is_reachable=False,
    )
