"""Write ``docs/policy-backtest.md`` and its figures from what one run measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nightshift.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from nightshift.backtest.policy_backtest import PolicyBacktest
    from nightshift.backtest.policy_quality import PolicyResult
    from nightshift.training.statistics.confidence_intervals import Estimate

_ABOUT = """\
Upstream is replayed on its virtual clock, without Airflow: every night sees the features and the mature labels that it knew. All policies
begin with the same model, of the evening before the first night, and differ in when they train again. A retrained model serves from the
next night on: at once, or, where it says *gated*, only if the criteria of the evidence gate about predictions let it pass
([ADR 21](adr/0021-policy-backtest.md)). *drift-triggered* asks the product's own monitor every night.

*gain on never* is paired on the same flights, positive is better; the interval misses on either side with probability {tail:.0%}, drawn by
day. *cost* is the processor time of the trainings alone, {seconds:.1f} s each on average. *age* is the age of the scoring model in days."""


def headers(found: PolicyBacktest) -> tuple[str, ...]:
    """Return the names of the columns of ``policy_cells``."""
    result = found.results[0]
    gains = [f"gain on never: {metric}" for metric in found.results[-1].gains]
    return ("policy", "trainings", "promoted", "cost, s", "age", *result.values, *gains)


def policy_cells(result: PolicyResult) -> list[str]:
    """Return one line of the table of policies."""
    course = result.course
    counts = [
        str(len(course.trained)),
        str(len(course.promoted)),
        f"{result.processor_seconds:.0f}",
        f"{result.mean_age_days:.1f}",
    ]
    values = [_number(value) for value in result.values.values()]
    return [str(result.policy), *counts, *values, *(_gain(gain) for gain in result.gains.values())]


def staleness_rows(found: PolicyBacktest) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return headers and lines of the table of ages; without lines where there are too few nights."""
    if found.staleness is None:
        return ("days old",), []
    ages = found.staleness.ages
    gains = [f"gain on 1 day: {metric}" for metric in ages[-1].gains]
    lines = [
        [str(age.days), *map(_number, age.values.values()), *(map(_gain, age.gains.values()))]
        for age in ages
    ]
    return ("days old", *ages[0].values, *gains), lines


def write_report(
    found: Sequence[PolicyBacktest],
    timings: dict[str, float],
    command: str,
    docs: Path = PROJECT_ROOT / "docs",
) -> Path:
    """Write the page and two figures a model; return the page's path."""
    from nightshift.backtest.policy_figures import draw_policies, draw_staleness

    figures = docs / "figures"
    figures.mkdir(exist_ok=True)
    lines = _head(found, command)
    for one in found:
        name = one.spec.name
        (figures / f"policies-{name}.svg").write_text(draw_policies(one))
        lines += ["", f"## {name}", "", f"{one.n_rows:,} flights of the nights {one.nights}.", ""]
        lines += [
            f"![Gain of each policy](figures/policies-{name}.svg)",
            "",
            *_table(headers(one), map(policy_cells, one.results)),
            "",
        ]
        lines += [f"{one.spec.promotion.metric} by month of the predicted days:", "", *_months(one)]
        lines += ["", *_decided(one)]
        if one.staleness is not None:
            (figures / f"staleness-{name}.svg").write_text(draw_staleness(one))
            lines += [
                "",
                f"### A model of so many days ago, on {one.staleness.n_rows:,} flights of the nights {one.staleness.nights}",
            ]
            lines += [
                "",
                f"![Cost of staleness](figures/staleness-{name}.svg)",
                "",
                *_table(*staleness_rows(one)),
            ]
    lines += [
        "",
        "## Time",
        "",
        *_table(
            ("step", "seconds"), [[step, f"{seconds:.1f}"] for step, seconds in timings.items()]
        ),
        "",
    ]
    page = docs / "policy-backtest.md"
    page.write_text("\n".join(lines))
    return page


def _head(found: Sequence[PolicyBacktest], command: str) -> list[str]:
    seconds = sum(one.mean_training_seconds for one in found) / len(found)
    tail = 1 - found[0].spec.promotion.confidence
    machine = f"Written by `{command}`: {os.cpu_count()} cores, Python {platform.python_version()}."
    return ["# When to train again", "", machine, "", _ABOUT.format(seconds=seconds, tail=tail)]


def _months(found: PolicyBacktest) -> list[str]:
    metric, months = found.spec.promotion.metric, list(found.results[0].by_month)
    lines = [
        [str(result.policy), *(_number(value[metric]) for value in result.by_month.values())]
        for result in found.results
    ]
    return _table(("policy", *(f"{month:%Y-%m}" for month in months)), lines)


def _decided(found: PolicyBacktest) -> list[str]:
    decided = {
        str(result.policy): result.course.decided
        for result in found.results
        if result.course.decided
    }
    return [
        f"{name} trained on {', '.join(map(str, days))}.  " for name, days in decided.items()
    ] or ["The monitor asked for no training."]


def _table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    rows = [f"| {' | '.join([*line, *[''] * (len(names) - len(line))])} |" for line in lines]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *rows]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _gain(gain: Estimate) -> str:
    return f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
