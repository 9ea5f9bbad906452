"""The feature report as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.studies.findings import Finding
    from nightshift.studies.report_store import FeatureReport

BARS = "▁▂▃▄▅▆▇█"
SHOWN_FEATURES = 25


def render_markdown(report: FeatureReport) -> str:
    """Return the page; every number of it is in ``ml.feature_findings``."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: FeatureReport) -> Iterator[str]:
    version = "no champion yet" if report.version is None else f"champion: version {report.version}"
    yield f"# Features of {report.model}, {report.partition_date}"
    yield ""
    yield (
        f"{report.n_rows:,} labelled rows of {report.window}; {version}. Losses are {report.loss},"
        f" on days that no fit of this report has seen; intervals draw days. It took"
        f" {report.seconds:,.0f} s."
    )
    if report.left_out:
        yield f"The budget of seconds left out: {', '.join(report.left_out)}."
    yield from _section(
        "What groups are worth",
        "Loss of a fit without the group minus loss with it: positive earns its place, an interval"
        " with 0 in it proves nothing.",
        ("group", "benefit", "interval", "judged"),
        map(_benefit_row, sorted(report.of("benefit"), key=lambda number: -number.value)),
    )
    yield from _section(
        "Causes over time",
        "Mean absolute contribution of the group's sum by week, oldest first, and the last week.",
        ("cause", "weeks", "last"),
        _over_time(report.of("cause")),
    )
    yield from _section(
        f"The {SHOWN_FEATURES} most important features over time",
        "Mean absolute Shapley value by week, oldest first, and the last week; gain: share of the"
        " trees' gain in the newest version.",
        ("feature", "weeks", "last", "gain"),
        _features(report),
    )
    curves = [*report.of("learning_days"), *report.of("learning_rows")]
    yield from _section(
        "Learning curves",
        "Loss of a smaller fit minus loss of the whole: near 0, more of it brings nothing.",
        ("fit on", "lost", "interval", "judged"),
        map(_benefit_row, [*curves, *report.of("learning_features")]),
    )
    yield from _section(
        "Redundant columns",
        "Groups of columns that rank the rows nearly alike, and each one's strongest correlation.",
        ("group", "feature", "correlation", "with"),
        (
            (number.period, number.name, f"{number.value:.3f}", number.note)
            for number in sorted(report.of("redundant"), key=lambda number: number.period)
        ),
    )
    yield from _section(
        "Columns with few values a night",
        "They cannot tell the rows of a night apart: their effect is that of the night.",
        ("feature", "what"),
        ((number.name, number.note) for number in report.of("night_constant")),
    )
    size = {number.name: number.value for number in report.of("bytes")}
    yield from _section(
        "What views cost",
        "Per partition, by the ledger.",
        ("view", "seconds", "KiB"),
        (
            (number.name, f"{number.value:.2f}", f"{size.get(number.name, 0) / 1024:,.0f}")
            for number in report.of("seconds")
        ),
    )


def _section(
    title: str,
    about: str,
    headers: Sequence[str],
    rows: Iterable[Sequence[str]],
) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        yield "None."
        return
    yield from (about, "", f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}")
    yield from lines


def _benefit_row(number: Finding) -> tuple[str, ...]:
    interval = ""
    if number.low is not None and number.high is not None:
        interval = f"{number.low:+.4f} .. {number.high:+.4f}"
    return number.name, f"{number.value:+.4f}", interval, number.note


def _by_name(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Return the findings of each name, by period; the largest of the last period first."""
    named: dict[str, list[Finding]] = {}
    for number in findings:
        named.setdefault(number.name, []).append(number)
    ranked = sorted(named.items(), key=lambda item: -item[1][-1].value)
    return dict(ranked)


def _over_time(findings: Iterable[Finding]) -> Iterator[tuple[str, str, str]]:
    for name, weekly in _by_name(findings).items():
        values = [number.value for number in weekly]
        yield name, _sparkline(values), f"{values[-1]:.4f}"


def _features(report: FeatureReport) -> Iterator[tuple[str, ...]]:
    newest_gain = {name: number[-1].value for name, number in _by_name(report.of("gain")).items()}
    rows = list(_over_time(report.of("shapley")))
    for row in rows[:SHOWN_FEATURES]:
        yield (*row, f"{newest_gain.get(row[0], 0.0):.1%}")


def _sparkline(values: Sequence[float]) -> str:
    """Return one bar a value, from zero: a bar of half the height is half the number."""
    highest = max(values) or 1.0
    return "".join(BARS[round(value / highest * (len(BARS) - 1))] for value in values)
