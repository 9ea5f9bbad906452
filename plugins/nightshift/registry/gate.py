"""The evidence gate: every question that a challenger must answer, in the order of the record, and the verdict that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.registry import fitness, groups, quality
from nightshift.registry.criteria import Criterion, Question, Verdict, answer

if TYPE_CHECKING:
    from nightshift.registry.case import Case

QUESTIONS: dict[str, Question] = {
    "provenance": fitness.provenance,
    "signature": fitness.signature,
    "training_window": fitness.training_window,
    "unique_rows": fitness.unique_rows,
    "evidence_rows": fitness.evidence_rows,
    "leakage": fitness.leakage,
    "feature_agreement": fitness.feature_agreement,
    "scores": fitness.scores,
    "scoring_time": fitness.scoring_time,
    "model_size": fitness.model_size,
    "non_inferiority": quality.non_inferiority,
    "superiority": quality.superiority,
    "baseline": quality.baselines,
    "calibration": quality.calibration,
    "slice": quality.slices,
    "fairness": groups.fairness,
    "churn": quality.churn,
}
"""By family of criteria; each family must be in the record, whatever it says."""


def judge(case: Case) -> list[Criterion]:
    """Ask every question of the gate.

    Raises:
        NightshiftError: Something that a later try may have back.
        OperationalError: The same of the warehouse.
    """
    return answer(case, QUESTIONS)


def objections(criteria: list[Criterion]) -> list[str]:
    """Return why the challenger must not serve, in the order of the questions; empty promotes it. A family without a verdict objects."""
    refusals: dict[str, list[str]] = {}
    for criterion in criteria:
        if criterion.is_refusal:
            refusals.setdefault(criterion.reason, []).append(criterion.name)
    absent = [name for name in QUESTIONS if name not in {criterion.family for criterion in criteria}]
    return [f"{', '.join(names)}: {reason}" for reason, names in refusals.items()] + [f"{name}: no verdict is recorded." for name in absent]


def failed_names(criteria: list[Criterion]) -> list[str]:
    """Return the names of the criteria that say no, without those that could not be asked."""
    return [criterion.name for criterion in criteria if criterion.verdict is Verdict.FAILED]
