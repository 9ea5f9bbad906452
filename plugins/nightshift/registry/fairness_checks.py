"""Criteria about declared groups of people or things: called positive as often, and as well calibrated. Binary only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.contracts.promotion_spec import Fairness
from nightshift.registry.checks import Criterion, held, not_applicable
from nightshift.training.evaluation import slice_masks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nightshift.registry.promotion_context import PromotionContext
    from nightshift.training.statistics.block_bootstrap import Statistic

    Matrix = npt.NDArray[np.float64]
    Vector = npt.NDArray[np.float64]

_A_PAIR = 2


def fairness(case: PromotionContext) -> Iterator[Criterion]:
    """Ask, for each declared group, for the ratio of selection rates and the gap in calibration."""
    if not case.spec.promotion.fairness:
        yield not_applicable("fairness", "The spec declares no group.")
    for declared in case.spec.promotion.fairness:
        if case.is_binary:
            yield from _judge(case, declared)
        else:
            yield not_applicable(
                f"fairness[{declared.column}]", "Only a binary model selects rows."
            )


def _judge(case: PromotionContext, declared: Fairness) -> Iterator[Criterion]:
    import numpy as np

    predictions, column = case.of("challenger"), declared.column
    masks = {
        level: mask
        for level, mask in slice_masks(declared, case.rows)
        if mask.sum() >= declared.minimum_rows
    }
    if len(masks) < _A_PAIR:
        yield not_applicable(
            f"fairness[{column}]", f"Fewer than two groups have {declared.minimum_rows} rows."
        )
        return
    probability = case.predicted("challenger")
    selected = probability >= predictions.threshold
    columns = np.array([selected, probability, case.label, np.ones(case.label.size)])
    sums = np.stack([case.days.sums(*(columns * mask)) for mask in masks.values()])
    rates = {level: float(selected[mask].mean()) for level, mask in masks.items()}
    ratio = case.estimate(_selection_ratio(sums))
    limit = declared.minimum_selection_ratio
    extremes = (
        f"lowest {min(rates, key=rates.__getitem__)}, highest {max(rates, key=rates.__getitem__)}"
    )
    reason = f"The lowest selection rate is {ratio.value:.3f} of the highest ({extremes}); {limit:g} is needed."
    yield held(
        f"fairness[{column} selection]",
        is_held=ratio.value >= limit,
        reason=reason,
        limit=limit,
        of=ratio,
        rates=rates,
    )
    gap, limit = case.estimate(_calibration_gap(sums)), declared.maximum_calibration_gap
    reason = f"Mean probability minus positive rate differs by {gap.value:.4f} between groups; {limit:g} is allowed."
    yield held(
        f"fairness[{column} calibration]",
        is_held=gap.value <= limit,
        reason=reason,
        limit=limit,
        of=gap,
    )


def _selection_ratio(sums: Matrix) -> Statistic:
    """Return the lowest over the highest selection rate; ``sums`` has shape (groups, days, 4)."""

    def value(weights: Matrix) -> Vector:
        import numpy as np

        drawn = weights @ sums
        with np.errstate(invalid="ignore", divide="ignore"):
            rates = drawn[:, :, 0] / drawn[:, :, 3]
            return np.where(rates.max(axis=0) > 0, rates.min(axis=0) / rates.max(axis=0), 1.0)

    return value


def _calibration_gap(sums: Matrix) -> Statistic:
    def value(weights: Matrix) -> Vector:
        import numpy as np

        drawn = weights @ sums
        with np.errstate(invalid="ignore", divide="ignore"):
            excess = (drawn[:, :, 1] - drawn[:, :, 2]) / drawn[:, :, 3]
            return np.asarray(excess.max(axis=0) - excess.min(axis=0))

    return value
