"""The charts of each page, drawn from its document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from nightshift.page.charts.bars import (
    GanttBar,
    Period,
    gantt,
    share_grid,
    timeline,
    two_distributions,
)
from nightshift.page.charts.grids import HeatCell, HeatRow, calendar, heat_map
from nightshift.page.charts.lines import ChartLine, day_lines

Row = Mapping[str, Any]


class Drawings:
    """Draw the charts.

    Args:
        root: Prefix of every address of the application.
    """

    def __init__(self, root: str) -> None:
        self._root = root

    def quality(self, rows: Sequence[Row], estimates: Sequence[Row], metric: str) -> Markup:
        """Return a metric over the partitions that made the predictions.

        Args:
            rows: What came true, and the fallback rule on the same rows.
            estimates: What was expected before labels were known, with bands.
            metric: Its name.
        """
        sure = [row for row in rows if row.get("low") is not None]
        bounds = [(row["partition_date"], row["low"], row["high"]) for row in sure]
        name = "model, 95 % interval" if bounds else "model"
        model = ChartLine(name, "accent", _points(rows, "value"), bounds)
        baseline = ChartLine("fallback rule", "second", _points(rows, "baseline_value"))
        known = [row for row in estimates if row["low"] is not None]
        band = [(row["partition_date"], row["low"], row["high"]) for row in known]
        expected = ChartLine(
            "estimate, 90 % band", "quiet-line", _points(estimates, "estimate"), band
        )
        title = f"{metric} of the model and of the fallback rule, by partition"
        # The rule has no interval: metrics of those have one line.
        lines = (baseline, model) if baseline.points or not model.points else (model,)
        lines = (expected, *lines) if estimates else lines
        return day_lines(title, lines, metric)

    def levels(self, rows: Sequence[Row]) -> Markup:
        """Return what was added to each night's answers."""
        line = ChartLine("level", "accent", _points(rows, "shift"))
        return day_lines("Level by partition", (line,), "added")

    def metric(self, rows: Sequence[Row], metric: str) -> Markup:
        """Return one metric alone."""
        chosen = [row for row in rows if row["metric"] == metric]
        line = ChartLine(metric, "accent", _points(chosen, "value"))
        return day_lines(f"{metric} by partition", (line,), metric)

    def champions(self, periods: Sequence[Row], refused: Sequence[Row]) -> Markup:
        """Return who was champion when, and the refused challengers below."""
        ends = [row["last_partition"] or row["first_partition"] for row in periods]
        # The champion of today serves until the newest day that anything is known of.
        last = max([*ends, *(row["partition_date"] for row in refused)])
        bars = []
        for index, row in enumerate(periods):
            # Two colours in turn: neighbours of one colour would look like one champion.
            css = "period-a" if index % 2 else "period-b"
            end = row["last_partition"] or max(last, row["first_partition"])
            bars.append(Period(f"v{row['version']}", row["first_partition"], end, css))
        marks = []
        for row in refused:
            day = row["partition_date"]
            marks.append(Period(f"v{row['version']} refused", day, day, "bad"))
        return timeline("Champions by partition, refused challengers below", bars, marks)

    def importance(self, rows: Sequence[Row], features: Sequence[str]) -> Markup:
        """Return how much each version leans on each feature, the oldest version first."""
        columns: dict[str, None] = {}
        shares = {}
        for row in rows:
            version = f"v{row['version']}"
            columns[version] = None
            shares[row["feature"], version] = row["share"]
        shown = {key: share for key, share in shares.items() if key[0] in features}
        return share_grid("Importance by feature and version", features, list(columns), shown)

    def heat_map(self, document: Mapping[str, Any]) -> Markup:
        """Return the heat map of a page Drift."""
        # The features are in the order of their table, the series in that of their names.
        series = {row["feature"]: row for row in document["series"]}
        rows = []
        for feature in document["features"]:
            row = series[feature["feature"]]
            rows.append(
                HeatRow(row["feature"], row["days"], row["units"], row["drifted"], row["slow"])
            )
        model = quote(document["model"], safe="")

        def href(cell: HeatCell) -> str:
            return f"{self._root}/drift/{model}/{quote(cell.feature, safe='')}/{cell.day}"

        title = f"Distance of the features of {document['model']} by day, in units of the usual"
        return heat_map(title, rows, document["days"], href)

    def distance(self, history: Sequence[Row]) -> Markup:
        """Return a feature's distance over days, in units of its usual variation."""
        line = ChartLine("distance", "accent", _points(history, "distance"))
        return day_lines("Distance from the usual by day", (line,), "units")

    def distributions(self, bins: Sequence[Row], title: str) -> Markup:
        """Return a feature's two distributions."""
        labels = [row["bin"] for row in bins]
        reference = [row["reference_share"] for row in bins]
        current = [row["partition_share"] for row in bins]
        return two_distributions(title, labels, reference, current)

    def calendar(self, rows: Sequence[Row], model: str) -> Markup:
        """Return a model's calendar."""
        statuses = {row["partition_date"]: row["status"] for row in rows}
        query = urlencode({"model": model})

        def href(day: dt.date) -> str:
            return f"{self._root}/partitions/{day}?{query}"

        return calendar(f"Partitions of {model} by day", statuses, href)

    def steps(self, rows: Sequence[Row], deadline: dt.datetime | None, now: dt.datetime) -> Markup:
        """Return the steps of a partition over time."""
        spans = []
        for row in rows:
            css = "critical" if row["is_critical"] else "blank"
            if row["outcome"] not in ("success", "published", "duplicate", "waiting", "skipped"):
                css = "bad" if row["ended_at"] or row["outcome"] == "refused" else "fair"
            # A killed try has no end; only what runs reaches until now.
            end = row["ended_at"] or (now if row["outcome"] is None else row["started_at"])
            note = f"{row['outcome'] or 'running'}, attempt {row['attempt']}"
            spans.append(GanttBar(row["step"], row["started_at"], end, css, note))
        return gantt("Steps of the partition over time, UTC", spans, deadline)

    def volume(self, rows: Sequence[Row]) -> Markup:
        """Return the rows of a dataset's partitions with the expected band."""
        band = []
        for row in rows:
            if row["expected_low"] is not None:
                bounds = (row["expected_low"], row["expected_high"])
                band.append((row["partition_date"], *bounds))
        line = ChartLine("rows", "accent", _points(rows, "n_rows"), band)
        return day_lines("Rows by partition, and the expected band", (line,), "rows")


def _points(rows: Iterable[Row], column: str) -> list[tuple[dt.date, float]]:
    known = [row for row in rows if row[column] is not None]
    return [(row["partition_date"], float(row[column])) for row in known]
