"""Write ``docs/policy-backtest.md`` and its figures from what one run measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from examples.flights.backtest import markdown_table, steps_section
from nightshift.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from examples.flights.stopwatch import Stopwatch
    from nightshift.backtest.policy_backtest import PolicyBacktest
    from nightshift.backtest.policy_results import PolicyResult
    from nightshift.training.statistics.confidence_intervals import BoundedEstimate

_ABOUT = """\
Upstream is replayed on its virtual clock, without Airflow: every night sees the features and the
mature labels that it knew. All policies begin with the same model, of the evening before the
first night, and differ in when they train again. A retrained model serves from the next night
on: at once, or, where it says *gated*, only when its stream of nightly losses is proved better or
the champion is old ([ADR 43](adr/0043-promotion-on-streams.md), [ADR
21](adr/0021-policy-backtest.md)). *drift-triggered* asks the product's own monitor every night.

*gain on never* is paired on the same flights, positive is better; the interval misses on either
side with probability {tail:.0%}, drawn by day. *cost* is the processor time of the trainings
alone, {seconds:.1f} s each on average. *age* is the age of the scoring model in days."""


def headers(backtest: PolicyBacktest) -> tuple[str, ...]:
    """Return the names of the columns of ``policy_cells``."""
    values = backtest.results[0].values
    gains = [f"gain on never: {metric}" for metric in backtest.results[-1].gains]
    return ("policy", "trainings", "promoted", "cost, s", "age", *values, *gains)


def policy_cells(result: PolicyResult) -> list[str]:
    """Return one line of the table of policies."""
    run = result.run
    return [
        str(result.policy),
        str(len(run.trained)),
        str(len(run.promoted)),
        f"{result.processor_seconds:.0f}",
        f"{result.mean_age_days:.1f}",
        *map(_number, result.values.values()),
        *map(_gain, result.gains.values()),
    ]


def staleness_rows(backtest: PolicyBacktest) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return headers and lines of the table of ages; no lines when there are too few nights."""
    if backtest.age_comparison is None:
        return ("days old",), []
    ages = backtest.age_comparison.ages
    gains = [f"gain on 1 day: {metric}" for metric in ages[-1].gains]
    lines = []
    for age in ages:
        values = map(_number, age.values.values())
        lines.append([str(age.days), *values, *map(_gain, age.gains.values())])
    return ("days old", *ages[0].values, *gains), lines


def write_report(
    backtests: Sequence[PolicyBacktest],
    watch: Stopwatch,
    command: str,
) -> Path:
    """Write the page and two figures per model; return the page's path."""
    docs = PROJECT_ROOT / "docs"
    figures = docs / "figures"
    figures.mkdir(exist_ok=True)
    lines = _head(backtests, command)
    for backtest in backtests:
        lines += _model_section(backtest, figures)
    lines += steps_section(watch)
    page = docs / "policy-backtest.md"
    page.write_text("\n".join(lines))
    return page


def _head(backtests: Sequence[PolicyBacktest], command: str) -> list[str]:
    seconds = sum(backtest.mean_training_seconds for backtest in backtests) / len(backtests)
    tail = 1 - backtests[0].spec.promotion.confidence
    machine = f"Written by `{command}`: {os.cpu_count()} cores, Python {platform.python_version()}."
    return ["# When to train again", "", machine, "", _ABOUT.format(seconds=seconds, tail=tail)]


def _model_section(backtest: PolicyBacktest, figures: Path) -> list[str]:
    """Draw the figures of a model and return its part of the page."""
    from nightshift.backtest.policy_figures import draw_policies, draw_staleness

    name = backtest.spec.name
    figure = f"policies-{name}.svg"
    (figures / figure).write_text(draw_policies(backtest))
    lines = [
        "",
        f"## {name}",
        "",
        f"{backtest.n_rows:,} flights of the nights {backtest.partitions}.",
        "",
        f"![Gain of each policy](figures/{figure})",
        "",
        *markdown_table(headers(backtest), [policy_cells(row) for row in backtest.results]),
        "",
        f"{backtest.spec.promotion.metric} by month of the predicted days:",
        "",
        *_months(backtest),
        "",
        *_triggered(backtest),
    ]
    staleness = backtest.age_comparison
    if staleness is None:
        return lines
    figure = f"staleness-{name}.svg"
    (figures / figure).write_text(draw_staleness(backtest))
    flights = f"{staleness.n_rows:,} flights of the nights {staleness.partitions}"
    return [
        *lines,
        "",
        f"### A model of so many days ago, on {flights}",
        "",
        f"![Cost of staleness](figures/{figure})",
        "",
        *markdown_table(*staleness_rows(backtest)),
    ]


def _months(backtest: PolicyBacktest) -> list[str]:
    metric = backtest.spec.promotion.metric
    months = [f"{month:%Y-%m}" for month in backtest.results[0].by_month]
    lines = []
    for result in backtest.results:
        values = [_number(value[metric]) for value in result.by_month.values()]
        lines.append([str(result.policy), *values])
    return markdown_table(("policy", *months), lines)


def _triggered(backtest: PolicyBacktest) -> list[str]:
    """Return one line per policy whose trainings the monitor requested."""
    lines = []
    for result in backtest.results:
        if result.run.triggered:
            days = ", ".join(map(str, result.run.triggered))
            lines.append(f"{result.policy} trained on {days}.  ")
    return lines or ["The monitor asked for no training."]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _gain(gain: BoundedEstimate) -> str:
    return f"{gain.value:+z.4f} [{gain.low:+z.4f}, {gain.high:+z.4f}]"
