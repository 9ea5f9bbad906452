"""The promotion gate: every check of a challenger, and the result that a decision rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.lake.content_keys import content_key
from nightshift.registry import fairness_checks, performance_checks, sanity_checks
from nightshift.registry.checks import Check, Criterion, CriterionVerdict, run_checks
from nightshift.registry.evidence import PREFIX
from nightshift.registry.evidence_page import draw_figures, render_page
from nightshift.registry.leaks.point_in_time import point_in_time
from nightshift.stage_times import stage
from nightshift.training.evaluation import MetricValue, evidence

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext

SAMPLE = "promotion"
SHADOWED = "shadowed"
SERVING_VERDICTS = ("first", "promoted", "refreshed")
"""Verdicts by which a challenger becomes champion."""

CHECKS: dict[str, Check] = {
    "provenance": sanity_checks.provenance,
    "signature": sanity_checks.signature,
    "training_window": sanity_checks.training_window,
    "unique_rows": sanity_checks.unique_rows,
    "fitted_rows": sanity_checks.fitted_rows,
    "evidence_rows": sanity_checks.evidence_rows,
    "leakage": sanity_checks.leakage,
    "point_in_time": point_in_time,
    "feature_agreement": sanity_checks.feature_agreement,
    "scores": sanity_checks.scores,
    "refit": sanity_checks.refit,
    "scoring_time": sanity_checks.scoring_time,
    "model_size": sanity_checks.model_size,
    "non_inferiority": performance_checks.non_inferiority,
    "superiority": performance_checks.superiority,
    "refresh": performance_checks.refresh,
    "baseline": performance_checks.baselines,
    "calibration": performance_checks.calibration,
    "slice": performance_checks.slices,
    "fairness": fairness_checks.fairness,
    "churn": performance_checks.churn,
}
"""By family of criteria, in the order of the record; each family must have a criterion."""


@dataclass(frozen=True)
class PromotionResult:
    """The result of the gate.

    Attributes:
        verdict: ``first`` (champion without a predecessor), ``promoted`` (proved better),
            ``refreshed`` (replaces an old champion), ``shadowed`` (sound, not proved) or
            ``refused``.
        reasons: Why, one sentence each.
        criteria: Every criterion, in the order of the record.
        measured: All metrics, by source and slice; empty where the challenger cannot score.
        rows: First day, last day and number of the compared rows.
        page: Object key of the page for people.
        champion_status: Of the context; ``not asked`` where the challenger cannot score.
    """

    verdict: str
    reasons: list[str]
    criteria: list[Criterion]
    measured: list[MetricValue]
    rows: dict[str, Any]
    page: str
    champion_status: str

    @property
    def numbers(self) -> dict[str, Any]:
        """Return the rows, every verdict, and every metric: by source overall, and by slice."""
        metrics_by_source: dict[str, Any] = {}
        slices: dict[str, Any] = {}
        for value in self.measured:
            measured = metrics_by_source
            if value.slice_column:
                levels = slices.setdefault(value.slice_column, {})
                measured = levels.setdefault(value.slice_level, {"n_rows": value.n_rows})
            measured.setdefault(value.source, {})[value.metric] = value.value
        return {
            "rows": self.rows,
            "criteria": {criterion.name: criterion.verdict.value for criterion in self.criteria},
            "overall": metrics_by_source,
            "slices": slices,
            "champion_status": self.champion_status,
        }


def evaluate_challenger(context: PromotionContext) -> PromotionResult:
    """Run the gate, measure what can be measured, and store the page."""
    with stage("promotion_gate", model=context.spec.name):
        criteria = run_gate(context)
    failed = failures(criteria)
    can_score = any(part.name == "scores" and not part.is_refusal for part in criteria)
    figures = draw_figures(context, criteria) if can_score else {}
    verdict, reasons = conclude(context, criteria, failed)
    page = render_page(context, criteria, verdict, failed or reasons, figures)
    page_key = content_key(f"{PREFIX}/{context.spec.name}", page, ".html")
    # The page is stored before the decision that names it.
    context.store.put(page_key, page, "text/html; charset=utf-8")

    # A challenger that cannot score is not compared: its champion is not even loaded.
    champion_status = "not asked"
    measured: list[MetricValue] = []
    if can_score:
        champion_status = context.champion_status
        measured = _measure(context)
        if context.champion and context.champion_problem:
            reasons = [*reasons, f"Not compared: {context.champion_problem}."]
    return PromotionResult(
        verdict=verdict,
        reasons=reasons,
        criteria=criteria,
        measured=measured,
        rows={
            "first": context.first_day.isoformat(),
            "last": context.split.holdout.last.key,
            "n_rows": context.n_rows,
        },
        page=page_key,
        champion_status=champion_status,
    )


def conclude(
    context: PromotionContext, criteria: list[Criterion], failed: list[str]
) -> tuple[str, list[str]]:
    """Return the verdict and its reasons, one sentence each."""
    if failed:
        return "refused", failed
    if context.champion is None:
        return "first", ["Every criterion is met; there is no champion yet."]
    by_name = {criterion.name: criterion for criterion in criteria}
    proved, old = by_name["superiority"], by_name["refresh"]
    # A champion of another spec cannot be compared; a challenger of this spec replaces it.
    if context.champion_model is None:
        return "refreshed", ["Every criterion is met; the champion cannot serve this spec."]
    if proved.verdict is CriterionVerdict.PASSED:
        return "promoted", [f"Proved better than the champion. {proved.reason}"]
    if old.verdict is CriterionVerdict.PASSED:
        return "refreshed", [f"Nothing is proved, and the champion is old. {old.reason}"]
    return "shadowed", [f"Sound, and not proved better yet. {proved.reason}"]


def run_gate(context: PromotionContext) -> list[Criterion]:
    """Run every check of the gate.

    Raises:
        NightshiftError: An error that a retry may cure.
        OperationalError: The same of the warehouse.
    """
    return run_checks(context, CHECKS)


def failures(criteria: list[Criterion]) -> list[str]:
    """Return why the challenger must not serve, in the order of the checks; empty promotes it."""
    names_by_reason: dict[str, list[str]] = {}
    # One cause may fail many checks: its reason is told once, with all their names.
    for criterion in criteria:
        if criterion.is_refusal:
            names_by_reason.setdefault(criterion.reason, []).append(criterion.name)
    failed = [f"{', '.join(names)}: {reason}" for reason, names in names_by_reason.items()]
    # The gate fails closed: a family without a criterion refuses.
    recorded = {criterion.family for criterion in criteria}
    absent = [f"{family}: no verdict is recorded." for family in CHECKS if family not in recorded]
    return failed + absent


def _measure(context: PromotionContext) -> list[MetricValue]:
    """Measure challenger, rule and champion on the rows of the comparison."""
    by_source = {"challenger": context.of("challenger"), "baseline": context.of("rule")}
    if context.champion_model:
        by_source["champion"] = context.of("champion")
    return evidence(context.spec, SAMPLE, context.rows, context.label, by_source)
