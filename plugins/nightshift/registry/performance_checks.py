"""Criteria about the predictions: against the champion, against simple models, in each slice, and as probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nightshift.models.calibration import log_odds_of
from nightshift.registry.checks import Criterion, CriterionVerdict, held, not_applicable
from nightshift.training.evaluation import slice_masks
from nightshift.training.statistics.block_bootstrap import calibration_error, ratio
from nightshift.training.statistics.confidence_intervals import (
    Estimate,
    NoEstimateError,
    difference,
    holm,
    slope_estimate,
)

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import Mask, Matrix, PromotionContext, Vector

RELATIVE_MARGIN = 0.1
"""Share of the champion's advantage over the prior that a challenger may lose."""
RELATIVE_SLICE_MARGIN = 0.25
RELATIVE_CALIBRATION_MARGIN = 0.05


def non_inferiority(case: PromotionContext) -> Criterion:
    """Ask whether the challenger is proved not to be worse than the champion by more than the margin."""
    if case.champion_status == "unreadable":
        # Not the rule for a first champion: this one may well be better, and a person can have it
        # back.
        reason = f"Nothing is compared, and nobody promoted: {case.champion_problem}. Restore its files, or seat a version by a rollback."
        return held(
            "non_inferiority", is_held=False, reason=reason, limit="a champion that can be loaded"
        )
    if case.champion_model is None:
        return not_applicable(
            "non_inferiority", f"Nothing to compare with: {case.champion_problem}."
        )
    gain, margin = case.gain("champion"), margin_of(case)
    reason = f"The gain in {case.spec.promotion.metric} is {_shown(gain)}; its lower bound must not lie below {-margin:+.4f}."
    return held(
        "non_inferiority", is_held=gain.low >= -margin, reason=reason, limit=-margin, of=gain
    )


def superiority(case: PromotionContext) -> Criterion:
    """Ask whether the challenger is better than the champion, or the champion too old to be kept for want of proof."""
    if case.champion_model is None or case.champion is None:
        return not_applicable("superiority", f"Nothing to compare with: {case.champion_problem}.")
    declared, gain = case.spec.promotion, case.gain("champion")
    probability, needed = gain.probability_above(0.0), declared.superiority_probability
    age, limit = (
        (case.challenger.partition_date - case.champion.partition_date).days,
        declared.stale_after_days,
    )
    is_stale = (
        limit is not None
        and age >= limit
        and gain.standard_error > 0
        and gain.low >= -margin_of(case)
    )
    visible = gain.smallest_visible(needed)
    reason = f"Better with probability {probability:.3f}, {needed:g} is needed (gain {_shown(gain)}; {visible:.4f} would be seen 4 times in 5)"
    if probability < needed:
        reason += f"; the champion is {age} day(s) older" + (
            f", stale after {limit}" if limit else ""
        )
        reason += ": replaced, since the challenger is not inferior" if is_stale else ""
    facts = {
        "probability": probability,
        "needed": needed,
        "age_days": age,
        "is_stale": is_stale,
        "smallest_visible_gain": visible,
    }
    limit_text = f"above 0 with probability {needed:g}"
    return held(
        "superiority",
        is_held=probability >= needed or is_stale,
        reason=reason + ".",
        limit=limit_text,
        of=gain,
        **facts,
    )


def baselines(case: PromotionContext) -> Iterator[Criterion]:
    """Ask whether the challenger beats what needs no model, and is not beaten by simple ones.

    Prior and rule could serve instead: the gain itself must reach the minimum. A linear model and a
    small tree are yardsticks: refused is who is proved to gain less than the minimum on them.
    """
    minimum = case.spec.promotion.minimum_gain_over_baseline
    for name in case.baselines:
        gain = case.gain(name)
        text = (
            f"The gain in {case.spec.promotion.metric} over the {name} baseline is {_shown(gain)}"
        )
        if name in ("prior", "rule"):
            reason = (
                f"{text}; it must be above {minimum:g}."
                if minimum == 0
                else f"{text}; it must be {minimum:g} at least."
            )
            is_held = gain.value > 0 and gain.value >= minimum
            yield held(f"baseline[{name}]", is_held=is_held, reason=reason, limit=minimum, of=gain)
        else:
            reason = f"{text}; its upper bound must not lie below {minimum:g}."
            yield held(
                f"baseline[{name}]",
                is_held=gain.high >= minimum,
                reason=reason,
                limit=minimum,
                of=gain,
            )


def calibration(case: PromotionContext) -> Iterator[Criterion]:
    """Ask whether predictions can be read as probabilities (or as the label's unit): error and slope."""
    yield from _calibration_error(case)
    declared, predicted = case.spec.promotion, case.predicted("challenger")
    values = log_odds_of(predicted) if case.is_binary else predicted
    slope = slope_estimate(
        case.label, values, case.days, declared.confidence, is_logistic=case.is_binary
    )
    low, high = declared.minimum_calibration_slope, declared.maximum_calibration_slope
    reason = f"The slope of the outcome on the prediction is {_shown(slope, '.2f')}; the interval must reach {low:g} to {high:g}."
    is_held = slope.high >= low and slope.low <= high
    yield held(
        "calibration[slope]", is_held=is_held, reason=reason, limit=f"{low:g} to {high:g}", of=slope
    )


def _calibration_error(case: PromotionContext) -> Iterator[Criterion]:
    declared, reference = case.spec.promotion, case.reference
    sources = {
        source: calibration_error(case.label, case.predicted(source), case.days)
        for source in ("challenger", reference)
    }
    error, excess = (
        case.estimate(sources["challenger"]),
        case.estimate(difference(sources["challenger"], sources[reference])),
    )
    margin = declared.calibration_margin
    margin = float(case.label.std()) * RELATIVE_CALIBRATION_MARGIN if margin is None else margin
    text = f"{_shown(error)}, the {reference}'s {error.value - excess.value:.4f}"
    reason = f"The calibration error is {text}; the lower bound of the excess {_shown(excess)} must not lie above {margin:.4f}."
    facts = {
        "error": error.value,
        "error_interval": [error.low, error.high],
        "reference": reference,
    }
    yield held(
        "calibration[excess]",
        is_held=excess.low <= margin,
        reason=reason,
        limit=margin,
        of=excess,
        **facts,
    )
    if (limit := declared.maximum_calibration_error) is not None:
        reason = f"The calibration error is {text}; {limit:g} is allowed."
        yield held(
            "calibration[error]", is_held=error.value <= limit, reason=reason, limit=limit, of=error
        )


def slices(case: PromotionContext) -> Iterator[Criterion]:
    """Ask of every declared slice with enough rows whether the challenger is worse there: proved after Holm, and beyond the margin."""
    declared = case.spec.promotion
    if not declared.slices:
        yield not_applicable("slice", "The spec declares no slice.")
        return
    found = [
        (
            f"slice[{part.column}={level}]",
            int(mask.sum()),
            _slice_gain(case, mask) if mask.sum() >= part.minimum_rows else None,
        )
        for part in declared.slices
        for level, mask in slice_masks(part, case.rows)
    ]
    judged = [(name, n_rows, gain) for name, n_rows, gain in found if gain is not None]
    adjusted = holm([gain.probability_above(0.0) for _, _, gain in judged])
    margin, alpha = slice_margin_of(case), 1 - declared.confidence
    for (name, n_rows, gain), p in zip(judged, adjusted, strict=True):
        reason = f"The gain on the {case.reference} in {n_rows} rows is {_shown(gain)}, p = {p:.2g}"
        reason += f"; refused below {-margin:+.4f} when p < {alpha:.2g}."
        is_held = not (p < alpha and gain.value < -margin)
        yield held(
            name,
            is_held=is_held,
            reason=reason,
            limit=-margin,
            of=gain,
            n_rows=n_rows,
            p_adjusted=p,
        )
    for name, n_rows, without in found:
        if without is None:
            yield not_applicable(
                name,
                f"{n_rows} rows are too few, or do not define {declared.metric}.",
                n_rows=n_rows,
            )


def _slice_gain(case: PromotionContext, mask: Mask) -> Estimate | None:
    """Return the gain within a slice; None where its rows do not define it, as an AUC of one class."""
    try:
        return case.gain(case.reference, mask)
    except NoEstimateError:
        return None


def churn(case: PromotionContext) -> Iterator[Criterion]:
    """Ask how much would change for those who read the predictions."""
    if case.champion_model is None:
        yield not_applicable("churn", f"Nothing to compare with: {case.champion_problem}.")
        return
    import numpy as np
    from scipy.stats import rankdata, spearmanr

    declared, new, old = case.spec.promotion, case.of("challenger").score, case.of("champion").score
    moved = case.trained.deciles(new) != case.champion_model.deciles(old)
    share = case.estimate(ratio(case.days.sums(moved * 1.0, np.ones(moved.size))))
    reason = f"{share.value:.1%} of the rows change their decile; {declared.maximum_decile_churn:.1%} may."
    is_held = share.value <= declared.maximum_decile_churn
    yield held(
        "churn[deciles]",
        is_held=is_held,
        reason=reason,
        limit=declared.maximum_decile_churn,
        of=share,
    )
    first, second, ones = rankdata(new), rankdata(old), np.ones(new.size)
    sums = case.days.sums(first, second, first * second, first**2, second**2, ones)
    bounds = case.estimate(lambda weights: _correlation(weights @ sums))
    rho, limit = float(spearmanr(new, old).statistic), declared.minimum_rank_correlation
    reason = f"The rank correlation with the champion's scores is {rho:.3f}; {limit:g} is needed."
    yield Criterion(
        "churn[ranks]",
        CriterionVerdict.PASSED if rho >= limit else CriterionVerdict.FAILED,
        reason,
        limit,
        rho,
        (bounds.low, bounds.high),
    )


def margin_of(case: PromotionContext) -> float:
    """Return the non-inferiority margin in the metric's unit."""
    declared = case.spec.promotion.non_inferiority_margin
    return case.advantage * RELATIVE_MARGIN if declared is None else declared


def slice_margin_of(case: PromotionContext) -> float:
    """Return the allowed loss within a slice, in the metric's unit."""
    declared = case.spec.promotion.slice_margin
    return case.advantage * RELATIVE_SLICE_MARGIN if declared is None else declared


def _shown(found: Estimate, form: str = ".4f") -> str:
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def _correlation(sums: Matrix) -> Vector:
    """Return Pearson's correlation from sums of x, y, xy, xx, yy and 1; shape (draws, 6)."""
    import numpy as np

    x, y, xy, xx, yy, n = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((xy - x * y / n) / np.sqrt((xx - x**2 / n) * (yy - y**2 / n)))
