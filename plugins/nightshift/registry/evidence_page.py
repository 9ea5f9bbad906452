"""The evidence of a decision on one page for people: the verdict first, then figures, then every criterion. One file, no script."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from nightshift.registry.checks import Criterion, CriterionVerdict
from nightshift.training.statistics.comparison_figures import (
    Bar,
    draw_forest,
    draw_lift,
    draw_reliability,
)

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext

_MARKS = {
    CriterionVerdict.PASSED: "✓ passed",
    CriterionVerdict.FAILED: "✗ failed",
    CriterionVerdict.UNKNOWN: "? unknown",
    CriterionVerdict.NOT_APPLICABLE: "- not asked",
}
_COMPARISONS = ("superiority", "baseline", "slice")
_STYLE = """
:root { color-scheme: light; --ink: #1d232a; --quiet: #5b6570; --line: #dde2e7; --good: #1b6e3c; --bad: #b3261e; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; font: 15px/1.5 system-ui, sans-serif; }
body { color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
p { margin: .25rem 0; max-width: 60rem; }
.quiet { color: var(--quiet); }
.verdict { border-left: .4rem solid var(--good); padding: .6rem 1rem; margin: 1.25rem 0; background: #f1f7f3; }
.verdict.refused { border-color: var(--bad); background: #fcf1f0; }
.verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figures > figure { flex: 1 1 22rem; margin: 0; min-width: 0; }
.figures > figure.wide { flex-basis: 100%; }
svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { white-space: nowrap; font-weight: 600; }
td.mark { white-space: nowrap; }
.failed td.mark, .unknown td.mark { color: var(--bad); font-weight: 600; }
.passed td.mark { color: var(--good); }
.not_applicable { color: var(--quiet); }
code { font-size: .85em; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--quiet); } dd { margin: 0; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
"""


def draw_figures(case: PromotionContext, criteria: list[Criterion]) -> dict[str, str]:
    """Return reliability, lift and gains as SVG, by name."""
    sources = ["challenger", *(["champion"] if case.champion_model else []), "rule"]
    predicted = {source: case.predicted(source) for source in sources}
    unit = "probability" if case.is_binary else case.spec.label.column
    return {
        "reliability": draw_reliability(case.label, predicted, unit),
        "lift": draw_lift(case.label, predicted),
        "gains": draw_forest(_bars(criteria), case.spec.promotion.metric),
    }


def render_page(
    case: PromotionContext,
    criteria: list[Criterion],
    objections: list[str],
    figures: dict[str, str],
) -> bytes:
    """Return the page, UTF-8; names and levels of the data are escaped, and nothing of it runs."""
    name = f"{case.spec.name} version {case.challenger.version}"
    verdict = "refused" if objections else "promoted"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">",
        f"<title>{escape(name)}: {verdict}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(name)}: {verdict}</h1>",
        f'<p class="quiet">{escape(_subtitle(case))}</p>',
        *_verdict(verdict, objections, criteria),
        *(_figures(figures) if figures else ["<p>No figures: the challenger could not score.</p>"]),
        *_table(criteria),
        *_facts(case),
        "</body></html>",
    ]
    return "\n".join(parts).encode()


def _subtitle(case: PromotionContext) -> str:
    champion = (
        f"against champion version {case.champion.version}"
        if case.champion
        else "with no champion yet"
    )
    days = f"{case.first_day} to {case.split.holdout.last}" if case.n_rows else "none"
    return f"Trained on the night of {case.challenger.partition_date}, {champion}. Rows that neither has seen: {case.n_rows:,} ({days})."


def _verdict(verdict: str, objections: list[str], criteria: list[Criterion]) -> Iterator[str]:
    counts = {kind: sum(criterion.verdict is kind for criterion in criteria) for kind in CriterionVerdict}
    summary = ", ".join(f"{n} {kind.value.replace('_', ' ')}" for kind, n in counts.items() if n)
    yield f'<div class="verdict {verdict}"><strong>{verdict.capitalize()}.</strong> {escape(summary)}.'
    if objections:
        yield f"<ul>{''.join(f'<li>{escape(objection)}</li>' for objection in objections)}</ul>"
    yield "</div>"


def _figures(figures: dict[str, str]) -> Iterator[str]:
    yield '<div class="figures">'
    for name, svg in figures.items():
        yield f'<figure class="{"wide" if name == "gains" else "half"}">{svg}</figure>'
    yield "</div>"


def _table(criteria: list[Criterion]) -> Iterator[str]:
    yield '<h2>Criteria</h2><div class="scroll"><table><thead><tr><th>criterion</th><th>verdict</th><th>number</th><th>interval</th>'
    yield "<th>limit</th><th>in words</th></tr></thead><tbody>"
    for criterion in sorted(criteria, key=lambda criterion: not criterion.is_refusal):
        interval = (
            ""
            if criterion.interval is None
            else f"{_short(criterion.interval[0])} … {_short(criterion.interval[1])}"
        )
        yield (
            f'<tr class="{criterion.verdict.value}"><td class="name">{escape(criterion.name)}</td>'
            f'<td class="mark">{_MARKS[criterion.verdict]}</td><td class="number">{_short(criterion.number)}</td>'
            f'<td class="number">{interval}</td><td>{escape(_short(criterion.limit))}</td>'
            f"<td>{escape(criterion.reason)}</td></tr>"
        )
    yield "</tbody></table></div>"


def _facts(case: PromotionContext) -> Iterator[str]:
    declared = case.spec.promotion
    facts = {
        "Interval": f"bootstrap over {case.days.n if case.n_rows else 0} days, each bound holds with probability {declared.confidence:g}",
        "Challenger": case.challenger.digest,
        "Champion": case.champion.digest if case.champion else "none",
        "Training set": case.training_set.key,
        "Spec": case.spec.digest,
    }
    yield "<h2>What was judged</h2><dl>"
    yield from (
        f"<dt>{name}</dt><dd><code>{escape(value)}</code></dd>" for name, value in facts.items()
    )
    yield "</dl>"


def _bars(criteria: list[Criterion]) -> list[Bar]:
    names = {"superiority": "champion", "baseline": "", "slice": ""}
    return [
        Bar(_label(names[part.family], part.name), part.number, *part.interval, part.is_refusal)
        for part in criteria
        if part.family in _COMPARISONS and part.number is not None and part.interval is not None
    ]


def _label(plain: str, name: str) -> str:
    inner = name.partition("[")[2].removesuffix("]")
    return (
        f"over the {plain}" if plain else (inner if "=" in inner else f"over the {inner} baseline")
    )


def _short(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if not math.isfinite(value):
        return "undefined"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
