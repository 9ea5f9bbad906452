"""Charts: names are escaped, gaps stay gaps, scales are round."""

from __future__ import annotations

import datetime as dt
import xml.etree.ElementTree as ET

import pytest

from nightshift.page.charts.bars import (
    GanttBar,
    Period,
    gantt,
    share_grid,
    timeline,
    two_distributions,
)
from nightshift.page.charts.grids import HeatRow, calendar, heat_class, heat_map
from nightshift.page.charts.lines import ChartLine, day_lines
from nightshift.page.charts.svg import month_starts, number, ticks

DAY = dt.date(2024, 1, 1)
HOSTILE = "<script>alert(1)</script>\"'&"


def days(*offsets):
    return [DAY + dt.timedelta(days=offset) for offset in offsets]


def parse(chart):
    """Return the elements; an unescaped name would be no XML, or a script element."""
    elements = list(ET.fromstring(str(chart)).iter())  # noqa: S314 - our own charts
    assert not [element for element in elements if element.tag.endswith("script")]
    return elements


def texts(chart):
    return [element.text for element in parse(chart) if element.text]


def test_every_chart_escapes_names():
    start = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    span = GanttBar(HOSTILE, start, start + dt.timedelta(minutes=1), "accent", HOSTILE)
    row = HeatRow(HOSTILE, [DAY], [1.5], [True], [True])
    charts = [
        gantt(HOSTILE, [span], None),
        timeline(
            HOSTILE, [Period(HOSTILE, *days(0, 90), "period-a")], [Period(HOSTILE, DAY, DAY, "bad")]
        ),
        two_distributions(HOSTILE, [HOSTILE, "b"], [0.1, 0.9], [0.4, 0.6]),
        share_grid(HOSTILE, [HOSTILE], [HOSTILE], {(HOSTILE, HOSTILE): 0.5}),
        heat_map(HOSTILE, [row], [DAY], lambda cell: f"/drift/{cell.feature}"),
        calendar(HOSTILE, {DAY: "hole"}, lambda day: f"/{day}?model={HOSTILE}"),
        day_lines(
            HOSTILE,
            [ChartLine(HOSTILE, "accent", [(DAY, 1.0)]), ChartLine("b", "second", [])],
            HOSTILE,
        ),
    ]
    for chart in charts:
        assert HOSTILE not in str(chart)
        parse(chart)
    assert any(HOSTILE in words for words in texts(charts[0]))


def test_a_line_is_interrupted_when_days_are_missing():
    points = [(day, 1.0) for day in days(0, 1, 2, 30, 31)]
    chart = day_lines("x", [ChartLine("x", "accent", points)])
    lines = [element for element in parse(chart) if element.tag == "polyline"]
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 2]


def test_a_chart_without_values_says_so():
    assert "No value yet." in str(day_lines("x", [ChartLine("x", "accent", [])]))


def test_intervals_are_drawn_under_their_line():
    series = ChartLine("x", "accent", [(DAY, 2.0)], [(DAY, 1.0, 3.0)])
    assert "polygon" in [element.tag for element in parse(day_lines("x", [series]))]


def test_bars_of_a_grid_have_one_scale_and_no_bar_where_nothing_is_known():
    shares = {("a", "v1"): 0.8, ("b", "v1"): 0.2, ("a", "v2"): 0.4}
    chart = share_grid("x", ["a", "b"], ["v1", "v2"], shares)
    widths = [float(e.attrib["width"]) for e in parse(chart) if e.tag == "rect"]
    assert len(widths) == 3
    assert widths[0] == pytest.approx(4 * widths[1], abs=0.2)
    assert widths[0] == pytest.approx(2 * widths[2], abs=0.2)
    assert {"80%", "20%", "40%"} <= set(texts(chart))


def test_a_chart_with_links_is_no_picture():
    links = heat_map("x", [HeatRow("a", [DAY], [1.0], [False], [False])], [DAY], lambda _: "/")
    picture = share_grid("x", ["a"], ["v1"], {("a", "v1"): 0.5})
    assert parse(links)[0].attrib["role"] == "group"
    assert parse(picture)[0].attrib["role"] == "img"


def test_a_large_map_has_shapes_instead_of_links():
    columns = days(*range(100))
    never = [False] * 100
    rows = [HeatRow(f"f{index}", columns, [0.1] * 100, never, never) for index in range(40)]
    small = heat_map("x", rows[:20], columns, lambda _: "/x")
    large = heat_map("x", rows, columns, lambda _: "/x")
    assert str(small).count("<a ") == 2000
    assert "<a " not in str(large)
    assert len(str(large)) < 150_000


def test_a_slow_change_is_a_bar_in_maps_of_both_sizes():
    columns = days(0, 1)
    row = HeatRow("f", columns, [0.1, 0.1], [False, False], [True, False])
    small = heat_map("x", [row], columns, lambda _: "/x")
    assert sum(element.get("class") == "slow" for element in parse(small)) == 1
    assert "f, 2024-01-01: 0.10 units, slow change" in texts(small)
    many = days(*range(3001))
    large = heat_map(
        "x", [HeatRow("f", many, [0.1] * 3001, [True] * 3001, [True] * 3001)], many, str
    )
    paths = {element.get("class"): element.get("d") for element in parse(large) if element.get("d")}
    # What is drawn later lies above.
    assert list(paths) == ["cell heat0", "drifted", "slow"]
    assert {path.count("M") for path in paths.values()} == {3001}


def test_a_deadline_is_drawn_when_it_is_near():
    start = dt.datetime(2024, 1, 1, 1, tzinfo=dt.UTC)
    span = GanttBar("x", start, start + dt.timedelta(hours=1), "accent")
    assert "deadline" in str(gantt("x", [span], start + dt.timedelta(hours=2)))
    assert "deadline" not in str(gantt("x", [span], start + dt.timedelta(hours=20)))


@pytest.mark.parametrize(
    ("units", "css"),
    [
        (None, "unmeasured"),
        (0.0, "heat0"),
        (1.0, "heat1"),
        (2.0, "heat2"),
        (4.0, "heat3"),
        (9.0, "heat4"),
    ],
)
def test_a_distance_has_the_colour_of_its_class(units, css):
    assert heat_class(units) == css


def test_ticks_are_round_numbers_within_the_bounds():
    assert ticks(0.43, 0.61) == pytest.approx([0.45, 0.5, 0.55, 0.6])
    assert ticks(5.0, 5.0) == [5.0]


def test_month_starts_of_a_short_span_is_its_first_day():
    assert month_starts(dt.date(2024, 1, 3), dt.date(2024, 1, 9)) == [dt.date(2024, 1, 3)]
    assert month_starts(dt.date(2024, 1, 3), dt.date(2024, 3, 9)) == [
        dt.date(2024, 2, 1),
        dt.date(2024, 3, 1),
    ]


def test_numbers_are_short():
    assert [number(value) for value in (None, 0.123456, 12345, 12345.6, 3)] == [
        "\N{EN DASH}",
        "0.1235",
        "12,345",
        "12,346",
        "3",
    ]
