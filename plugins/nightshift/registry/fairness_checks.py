"""Fairness checks: declared groups are selected equally often and equally well calibrated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.promotion_spec import Fairness
from nightshift.registry.checks import Criterion, at_most, not_applicable, passed_if
from nightshift.training.evaluation import slice_masks

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.registry.promotion_context import PromotionContext

_MINIMUM_GROUPS = 2


def fairness(context: PromotionContext) -> Iterator[Criterion]:
    """Check selection rates and calibration of the groups of each declared column; binary only."""
    context = context.broadest
    if not context.spec.promotion.fairness:
        yield not_applicable("fairness", "The spec declares no group.")
    for declared in context.spec.promotion.fairness:
        if context.is_binary:
            yield from _check_groups(context, declared)
        else:
            reason = "Only a binary model selects rows."
            yield not_applicable(f"fairness[{declared.column}]", reason)


def _check_groups(context: PromotionContext, declared: Fairness) -> Iterator[Criterion]:
    column = declared.column
    # Rates of a few rows say nothing about a group.
    masks = {
        level: mask
        for level, mask in slice_masks(declared, context.rows)
        if mask.sum() >= declared.minimum_rows
    }
    if len(masks) < _MINIMUM_GROUPS:
        reason = f"Fewer than two groups have {declared.minimum_rows} rows."
        yield not_applicable(f"fairness[{column}]", reason)
        return

    label = context.label
    probability = context.predicted("challenger")
    is_selected = probability >= context.of("challenger").threshold
    rates = {level: float(is_selected[mask].mean()) for level, mask in masks.items()}
    # One draw of days counts for all groups: they share weather and traffic.
    measured = np.array([is_selected, probability, label, np.ones(label.size)])
    sums = np.stack([context.days.sums(*(measured * mask)) for mask in masks.values()])
    ratio = context.estimate(lambda weights: _selection_ratio(weights @ sums))
    minimum = declared.minimum_selection_ratio
    lowest = min(rates, key=rates.__getitem__)
    highest = max(rates, key=rates.__getitem__)
    reason = (
        f"The lowest selection rate is {ratio.value:.3f} of the highest (lowest {lowest}, highest "
        f"{highest}); required ≥ {minimum:g}."
    )
    is_passed = ratio.value >= minimum
    name = f"fairness[{column} selection]"
    yield passed_if(is_passed, name, ratio, minimum, reason, rates=rates)

    gap = context.estimate(lambda weights: _calibration_gap(weights @ sums))
    maximum = declared.maximum_calibration_gap
    reason = (
        f"Mean probability minus positive rate differs by {gap.value:.4f} between groups; allowed "
        f"≤ {maximum:g}."
    )
    yield at_most(f"fairness[{column} calibration]", gap, maximum, reason)


# The sums have shape (groups, draws, 4): selected rows, probabilities, positive labels, rows. A
# draw may have no row of a group: its value is undefined then, and no estimate counts it.
def _selection_ratio(sums: Matrix) -> Vector:
    """Return the lowest over the highest selection rate; 1 where no row is selected."""
    selected, _, _, n_rows = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = selected / n_rows
        highest = rates.max(axis=0)
        return np.where(highest > 0, rates.min(axis=0) / highest, 1.0)


def _calibration_gap(sums: Matrix) -> Vector:
    """Return the greatest difference between groups of mean probability minus positive rate."""
    _, probability, positive, n_rows = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = (probability - positive) / n_rows
        return np.asarray(np.ptp(excess, axis=0))
