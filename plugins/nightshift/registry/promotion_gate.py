"""The evidence gate: every question that a challenger must answer, in the order of the record, and the verdict that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.registry import fairness_checks, performance_checks, sanity_checks
from nightshift.registry.checks import Check, Criterion, CriterionVerdict, run_checks

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext

CHECKS: dict[str, Check] = {
    "provenance": sanity_checks.provenance,
    "signature": sanity_checks.signature,
    "training_window": sanity_checks.training_window,
    "unique_rows": sanity_checks.unique_rows,
    "evidence_rows": sanity_checks.evidence_rows,
    "leakage": sanity_checks.leakage,
    "feature_agreement": sanity_checks.feature_agreement,
    "scores": sanity_checks.scores,
    "scoring_time": sanity_checks.scoring_time,
    "model_size": sanity_checks.model_size,
    "non_inferiority": performance_checks.non_inferiority,
    "superiority": performance_checks.superiority,
    "baseline": performance_checks.baselines,
    "calibration": performance_checks.calibration,
    "slice": performance_checks.slices,
    "fairness": fairness_checks.fairness,
    "churn": performance_checks.churn,
}
"""By family of criteria; each family must be in the record, whatever it says."""


def run_gate(case: PromotionContext) -> list[Criterion]:
    """Ask every question of the gate.

    Raises:
        NightshiftError: Something that a later try may have back.
        OperationalError: The same of the warehouse.
    """
    return run_checks(case, CHECKS)


def failures(criteria: list[Criterion]) -> list[str]:
    """Return why the challenger must not serve, in the order of the questions; empty promotes it. A family without a verdict objects."""
    refusals: dict[str, list[str]] = {}
    for criterion in criteria:
        if criterion.is_refusal:
            refusals.setdefault(criterion.reason, []).append(criterion.name)
    absent = [
        name for name in CHECKS if name not in {criterion.family for criterion in criteria}
    ]
    return [f"{', '.join(names)}: {reason}" for reason, names in refusals.items()] + [
        f"{name}: no verdict is recorded." for name in absent
    ]


def failed_names(criteria: list[Criterion]) -> list[str]:
    """Return the names of the criteria that say no, without those that could not be asked."""
    return [criterion.name for criterion in criteria if criterion.verdict is CriterionVerdict.FAILED]
