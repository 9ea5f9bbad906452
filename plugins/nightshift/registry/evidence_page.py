"""Render the evidence page of a decision: verdict, figures, every criterion.

The page is one HTML file without a script.
"""

from __future__ import annotations

import math
from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from nightshift.models.group_ranks import relative_positions
from nightshift.registry.checks import Criterion, CriterionVerdict
from nightshift.training.figures import (
    Bar,
    draw_forest,
    draw_lift,
    draw_reliability,
)

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext

MARKS = {
    CriterionVerdict.PASSED: "✓ passed",
    CriterionVerdict.FAILED: "✗ failed",
    CriterionVerdict.UNKNOWN: "? unknown",
    CriterionVerdict.UNPROVEN: "… unproven",
    CriterionVerdict.NOT_APPLICABLE: "- not applicable",
}
STYLE = """
:root { color-scheme: light; --ink: #1d232a; --quiet: #5b6570; --line: #dde2e7; }
:root { --good: #1b6e3c; --bad: #b3261e; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
p { margin: .25rem 0; max-width: 60rem; }
.quiet { color: var(--quiet); }
.verdict { border-left: .4rem solid var(--good); background: #f1f7f3; }
.verdict { padding: .6rem 1rem; margin: 1.25rem 0; }
.verdict.shadowed, .verdict.refreshed { border-color: var(--quiet); background: #f4f6f8; }
.verdict.refused { border-color: var(--bad); background: #fcf1f0; }
.verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figures > figure { flex: 1 1 22rem; margin: 0; min-width: 0; }
.figures > figure.half { max-width: 36rem; }
.figures > figure.wide { flex-basis: 100%; }
svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0; }
th, td { border-bottom: 1px solid var(--line); }
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
PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title><style>{style}</style></head><body>
<h1>{title}</h1>
<p class="quiet">{subtitle}</p>
<div class="verdict {verdict}"><strong>{headline}.</strong> {summary}.
{failures}
</div>
{figures}
<h2>Criteria</h2><div class="scroll"><table>
<thead><tr><th>criterion</th><th>verdict</th><th>number</th><th>interval</th><th>limit</th>
<th>in words</th></tr></thead>
<tbody>
{criteria}
</tbody></table></div>
<h2>What was compared</h2><dl>
{facts}
</dl>
</body></html>"""
CRITERION = """\
<tr class="{verdict}"><td class="name">{name}</td><td class="mark">{mark}</td>
<td class="number">{number}</td><td class="number">{interval}</td><td>{limit}</td>
<td>{reason}</td></tr>"""


def draw_figures(context: PromotionContext, criteria: list[Criterion]) -> dict[str, str]:
    """Return reliability, lift and gains as SVG, by name."""
    sources = (
        ["challenger", "champion", "rule"] if context.champion_model else ["challenger", "rule"]
    )
    bars = {"gains": draw_forest(_bars(criteria), context.spec.promotion.metric)}
    if context.spec.is_ranking:
        # Scores compare within a group only, and are right in no unit.
        positions = {source: relative_positions(context.of(source)) for source in sources}
        return {"lift": draw_lift(context.label, positions), **bars}
    answered = {source: context.answered(source) for source in sources}
    has_probability = context.spec.task.has_probability
    unit = "probability" if has_probability else context.spec.label.column
    lift = {}
    if context.spec.classes:
        unit = "probability of the predicted class"
    # Classes have no order that could lift an outcome.
    else:
        predicted = {source: values for source, (_, values) in answered.items()}
        lift = {"lift": draw_lift(context.label, predicted)}
    return {
        "reliability": draw_reliability(answered, unit),
        **lift,
        **bars,
    }


def render_page(
    context: PromotionContext,
    criteria: list[Criterion],
    verdict: str,
    reasons: list[str],
    figures: dict[str, str],
) -> bytes:
    """Return the page, UTF-8; names and levels of the data are escaped, and nothing of it runs."""
    title = f"{context.spec.name} version {context.challenger.version}: {verdict}"
    counts = Counter(criterion.verdict for criterion in criteria)
    summary = [f"{counts[name]} {name.replace('_', ' ')}" for name in MARKS if counts[name]]
    # A reader looks for the reason of a refusal first.
    refusals_first = sorted(criteria, key=lambda criterion: not criterion.is_refusal)
    items = "".join(f"<li>{escape(failure)}</li>" for failure in reasons)
    facts = [
        f"<dt>{name}</dt><dd><code>{escape(value)}</code></dd>"
        for name, value in _facts(context).items()
    ]
    # Names and levels come from data: each is escaped before it enters the page.
    page = PAGE.format(
        title=escape(title),
        style=STYLE,
        subtitle=escape(_subtitle(context)),
        verdict=verdict,
        headline=verdict.capitalize(),
        summary=", ".join(summary),
        failures=f"<ul>{items}</ul>" if items else "",
        figures=_figures(figures),
        criteria="\n".join(_criterion_row(criterion) for criterion in refusals_first),
        facts="\n".join(facts),
    )
    return page.encode()


def _subtitle(context: PromotionContext) -> str:
    champion, n_rows = context.champion, context.n_rows
    opponent = f"against champion version {champion.version}" if champion else "no champion yet"
    days = f"{context.first_day} to {context.split.holdout.last}" if n_rows else "none"
    text = (
        f"Trained on the night of {context.challenger.partition_date}, {opponent}. "
        f"Rows that neither has seen: {n_rows:,} ({days})."
    )
    if context.evidence.result.n_nights:
        text += (
            f" Nights on which both scored before the outcome: {context.evidence.result.n_nights}."
        )
    return text


def _figures(figures: dict[str, str]) -> str:
    if not figures:
        return "<p>No figures: the challenger could not score.</p>"
    drawn = []
    for name, svg in figures.items():
        width = "wide" if name == "gains" else "half"
        drawn.append(f'<figure class="{width}">{svg}</figure>')
    return f'<div class="figures">{"".join(drawn)}</div>'


def _criterion_row(criterion: Criterion) -> str:
    interval = " … ".join(short_number(bound) for bound in criterion.interval or ())
    return CRITERION.format(
        verdict=criterion.verdict.value,
        name=escape(criterion.name),
        mark=MARKS[criterion.verdict],
        number=short_number(criterion.number),
        interval=interval,
        limit=escape(short_number(criterion.limit)),
        reason=escape(criterion.reason),
    )


def _facts(context: PromotionContext) -> dict[str, str]:
    n_days = context.days.n if context.n_rows else 0
    confidence = context.spec.promotion.confidence
    return {
        "Interval": f"bootstrap over {n_days} days, each bound holds with probability "
        f"{confidence:g}",
        "Challenger": context.challenger.digest,
        "Evaluated": _evaluated(context),
        "Champion": context.champion.digest if context.champion else "none",
        "Training set": context.training_set.key,
        "Spec": context.spec.digest,
    }


def _evaluated(context: PromotionContext) -> str:
    """Return which model the figures are about."""
    challenger = context.challenger
    evaluated = challenger.as_evaluated
    if challenger.evaluated is None:
        return f"the challenger itself, fitted until {evaluated.fit_end}"
    return (
        f"{evaluated.digest}: the same recipe, fitted until {evaluated.fit_end}; the challenger is "
        f"fitted until {challenger.fit_end}"
    )


def _bars(criteria: list[Criterion]) -> list[Bar]:
    bars = []
    for criterion in criteria:
        number, interval = criterion.number, criterion.interval
        part = criterion.name.partition("[")[2].removesuffix("]")
        names = {
            "non_inferiority": "over the champion",
            "baseline": f"over the {part} baseline",
            "slice": part,
        }
        # The forest has one axis: what is measured in another metric stands in the table.
        is_other_unit = criterion.family == "non_inferiority" and part
        if is_other_unit or criterion.family not in names:
            continue
        if number is not None and interval is not None:
            bars.append(Bar(names[criterion.family], number, *interval, criterion.is_refusal))
    return bars


def short_number(value: float | str | None) -> str:
    """Return a number with four digits, or a text as it is."""
    if value is None or isinstance(value, str):
        return value or ""
    if not math.isfinite(value):
        return "undefined"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
