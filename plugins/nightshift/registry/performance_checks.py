"""Performance checks of a challenger: against champion and baselines, by slice, calibration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.calibration import log_odds_of
from nightshift.registry.checks import Criterion, at_most, not_applicable, passed_if
from nightshift.training.baselines import NAMES
from nightshift.training.evaluation import slice_masks
from nightshift.training.statistics.block_bootstrap import calibration_error, ratio
from nightshift.training.statistics.calibration_slope import slope_estimate
from nightshift.training.statistics.confidence_intervals import (
    Estimate,
    NoEstimateError,
    difference,
    holm,
)

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.registry.promotion_context import PromotionContext

RELATIVE_MARGIN = 0.1
"""Share of the champion's advantage over the prior that a challenger may lose."""
RELATIVE_SLICE_MARGIN = 0.25
RELATIVE_CALIBRATION_MARGIN = 0.05


def non_inferiority(context: PromotionContext) -> Criterion:
    """Check that the challenger is not worse than the champion by more than the margin."""
    name = "non_inferiority"
    if context.champion_status == "unreadable":
        # This challenger is not treated as a first one: the champion may be better, and a person
        # can restore it.
        reason = (
            f"Nothing is compared, and nobody promoted: {context.champion_problem}. Restore its "
            "files, or seat a version by a rollback."
        )
        return passed_if(False, name, None, "a champion that can be loaded", reason)
    if context.champion_model is None:
        return _not_compared(context, name)
    gain = context.gain("champion")
    promotion = context.spec.promotion
    limit = -_margin(context, promotion.non_inferiority_margin, RELATIVE_MARGIN)
    reason = (
        f"The gain in {promotion.metric} is {_text(gain)}; its lower bound must not "
        f"lie below {limit:+.4f}."
    )
    return passed_if(gain.low >= limit, name, gain, limit, reason)


def superiority(context: PromotionContext) -> Criterion:
    """Check that the challenger is better than the champion, or not inferior to a stale one."""
    if context.champion_model is None or context.champion is None:
        return _not_compared(context, "superiority")
    promotion = context.spec.promotion
    needed = promotion.superiority_probability
    stale_after = promotion.stale_after_days
    gain = context.gain("champion")
    probability = gain.probability_above(0.0)
    visible_gain = gain.smallest_visible(needed)
    is_better = probability >= needed
    age = (context.challenger.partition_date - context.champion.partition_date).days
    is_stale = (
        stale_after is not None
        and age >= stale_after
        # Without any difference the challenger is the champion's equal: a copy retires nobody.
        and gain.standard_error > 0
        # Only a stale champion asks for the margin, which may need the gain on the prior.
        and gain.low >= -_margin(context, promotion.non_inferiority_margin, RELATIVE_MARGIN)
    )
    reason = (
        f"Better with probability {probability:.3f}, required ≥ {needed:g} (gain {_text(gain)}; "
        f"minimum detectable gain at 80 % power {visible_gain:.4f})"
    )
    if not is_better:
        reason += f"; the champion is {age} day(s) older"
        reason += f", stale after {stale_after}" if stale_after else ""
        reason += ": replaced, since the challenger is not inferior" if is_stale else ""
    return passed_if(
        is_better or is_stale,
        "superiority",
        gain,
        f"above 0 with probability {needed:g}",
        f"{reason}.",
        probability=probability,
        needed=needed,
        age_days=age,
        is_stale=is_stale,
        smallest_visible_gain=visible_gain,
    )


def baselines(context: PromotionContext) -> Iterator[Criterion]:
    """Check that the challenger beats prior and rule, and is not beaten by simple models.

    Prior and rule could serve instead, so the gain itself must reach the minimum. A linear model
    and a small tree only compare: the challenger fails if it is proved to gain less than the
    minimum on them.
    """
    promotion = context.spec.promotion
    minimum = promotion.minimum_gain_over_baseline
    for baseline in NAMES:
        name, gain = f"baseline[{baseline}]", context.gain(baseline)
        text = f"The gain in {promotion.metric} over the {baseline} baseline is {_text(gain)}"
        if baseline in ("prior", "rule"):
            relation = ">" if minimum == 0 else "≥"
            reason = f"{text}; required {relation} {minimum:g}."
            is_passed = gain.value > 0 and gain.value >= minimum
        else:
            reason = f"{text}; its upper bound must not lie below {minimum:g}."
            is_passed = gain.high >= minimum
        yield passed_if(is_passed, name, gain, minimum, reason)


def calibration(context: PromotionContext) -> Iterator[Criterion]:
    """Check that predictions are probabilities (or the label's unit): error and slope."""
    yield from _calibration_error(context)
    promotion = context.spec.promotion
    predicted = context.predicted("challenger")
    # A logistic slope is one of log-odds.
    if context.is_binary:
        predicted = log_odds_of(predicted)
    slope = slope_estimate(
        context.label,
        predicted,
        context.days,
        promotion.confidence,
        is_logistic=context.is_binary,
    )
    low, high = promotion.minimum_calibration_slope, promotion.maximum_calibration_slope
    limit = f"{low:g} to {high:g}"
    reason = (
        f"The slope of the outcome on the prediction is {_text(slope, '.2f')}; the interval must "
        f"reach {limit}."
    )
    is_passed = slope.high >= low and slope.low <= high
    yield passed_if(is_passed, "calibration[slope]", slope, limit, reason)


def _calibration_error(context: PromotionContext) -> Iterator[Criterion]:
    promotion = context.spec.promotion
    reference = context.reference
    own_error = calibration_error(context.label, context.predicted("challenger"), context.days)
    their_error = calibration_error(context.label, context.predicted(reference), context.days)
    error = context.estimate(own_error)
    excess = context.estimate(difference(own_error, their_error))
    margin = promotion.calibration_margin
    # Without a declared margin the label's own spread is the scale.
    if margin is None:
        margin = float(context.label.std()) * RELATIVE_CALIBRATION_MARGIN
    text = (
        f"The calibration error is {_text(error)}, the {reference}'s "
        f"{error.value - excess.value:.4f}"
    )
    yield passed_if(
        excess.low <= margin,
        "calibration[excess]",
        excess,
        margin,
        f"{text}; the lower bound of the excess {_text(excess)} must not lie above {margin:.4f}.",
        error=error.value,
        error_interval=[error.low, error.high],
        reference=reference,
    )
    maximum = promotion.maximum_calibration_error
    if maximum is not None:
        yield at_most("calibration[error]", error, maximum, f"{text}; allowed ≤ {maximum:g}.")


def slices(context: PromotionContext) -> Iterator[Criterion]:
    """Check that the challenger is worse in no declared slice: proved, and beyond the margin.

    The p-values of all slices with enough rows are adjusted by Holm's procedure.
    """
    promotion = context.spec.promotion
    if not promotion.slices:
        yield not_applicable("slice", "The spec declares no slice.")
        return
    n_rows: dict[str, int] = {}
    gains: dict[str, Estimate] = {}
    for declared in promotion.slices:
        for level, mask in slice_masks(declared, context.rows):
            name = f"slice[{declared.column}={level}]"
            n_rows[name] = int(mask.sum())
            # The rows may not define the metric, as an AUC of one class.
            with suppress(NoEstimateError):
                if n_rows[name] >= declared.minimum_rows:
                    gains[name] = context.gain(context.reference, mask)

    p_values = holm([gain.probability_above(0.0) for gain in gains.values()])
    limit = -_margin(context, promotion.slice_margin, RELATIVE_SLICE_MARGIN)
    alpha = 1 - promotion.confidence
    for (name, gain), p_value in zip(gains.items(), p_values, strict=True):
        # A slice of few rows is noisy: it refuses only what is proved and large.
        is_worse = p_value < alpha and gain.value < limit
        reason = (
            f"The gain on the {context.reference} in {n_rows[name]} rows is {_text(gain)}, "
            f"p = {p_value:.2g}; refused below {limit:+.4f} when p < {alpha:.2g}."
        )
        facts = {"n_rows": n_rows[name], "p_adjusted": p_value}
        yield passed_if(not is_worse, name, gain, limit, reason, **facts)
    for name, n in n_rows.items():
        if name not in gains:
            reason = f"{n} rows are too few, or do not define {promotion.metric}."
            yield not_applicable(name, reason, n_rows=n)


def churn(context: PromotionContext) -> Iterator[Criterion]:
    """Check that not too many predictions change for those who read them."""
    if context.champion_model is None:
        yield _not_compared(context, "churn")
        return
    from scipy.stats import rankdata, spearmanr

    promotion = context.spec.promotion
    new = context.of("challenger").score
    old = context.of("champion").score
    ones = np.ones(new.size)
    is_moved = context.trained.deciles(new) != context.champion_model.deciles(old)
    moved_sums = context.days.sums(is_moved * 1.0, ones)
    share = context.estimate(ratio(moved_sums))
    maximum = promotion.maximum_decile_churn
    reason = f"{share.value:.1%} of the rows change their decile; allowed ≤ {maximum:.1%}."
    yield at_most("churn[deciles]", share, maximum, reason)

    # Spearman's correlation is Pearson's of the ranks, and sums by day can be drawn.
    x = rankdata(new)
    y = rankdata(old)
    sums = context.days.sums(x, y, x * y, x**2, y**2, ones)
    bounds = context.estimate(lambda weights: _correlation(weights @ sums))
    correlation = float(spearmanr(new, old).statistic)
    minimum = promotion.minimum_rank_correlation
    reason = (
        f"The rank correlation with the champion's scores is {correlation:.3f}; "
        f"required ≥ {minimum:g}."
    )
    # The number is that of all rows, ties ranked; its bounds are those of the draws.
    is_passed = correlation >= minimum
    criterion = passed_if(is_passed, "churn[ranks]", correlation, minimum, reason)
    yield replace(criterion, interval=(bounds.low, bounds.high))


def _margin(context: PromotionContext, declared: float | None, share: float) -> float:
    """Return a margin in the metric's unit: the declared one, or a share of the advantage."""
    return context.advantage * share if declared is None else declared


def _not_compared(context: PromotionContext, name: str) -> Criterion:
    return not_applicable(name, f"Nothing to compare with: {context.champion_problem}.")


def _text(estimate: Estimate, form: str = ".4f") -> str:
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _correlation(sums: Matrix) -> Vector:
    """Return Pearson's correlation from sums of x, y, xy, xx, yy and 1; shape (draws, 6)."""
    x, y, xy, xx, yy, n = sums.T
    covariance = xy - x * y / n
    variance_x = xx - x**2 / n
    variance_y = yy - y**2 / n
    # A draw whose ranks are all equal has no correlation.
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(covariance / np.sqrt(variance_x * variance_y))
