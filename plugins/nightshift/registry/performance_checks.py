"""Performance checks of a challenger: against champion and baselines, by slice, calibration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.calibration import log_odds_of
from nightshift.models.group_ranks import ranks_of, relative_positions
from nightshift.registry.checks import Criterion, at_most, not_applicable, passed_if, proved_if
from nightshift.registry.streams.paired_rows import NDCG_LOSS, proper_loss
from nightshift.training.baselines import NAMES
from nightshift.training.evaluation import slice_masks
from nightshift.training.statistics.block_bootstrap import calibration_error, ratio
from nightshift.training.statistics.calibration_slope import slope_estimate
from nightshift.training.statistics.confidence_intervals import (
    BoundedEstimate,
    NoEstimateError,
    difference,
    holm,
)
from nightshift.training.statistics.sequential_test import MINIMUM_NIGHTS

if TYPE_CHECKING:
    from nightshift.models.arrays import Matrix, Vector
    from nightshift.registry.promotion_context import PromotionContext

RELATIVE_MARGIN = 0.1
"""Share of the champion's advantage over the prior that a challenger may lose."""
RELATIVE_SLICE_MARGIN = 0.25
RELATIVE_CALIBRATION_MARGIN = 0.05


LOSS_METRICS = {"log_loss": "log_loss", "squared_error": "rmse", "absolute_error": "mae"}
LOSS_METRICS |= {NDCG_LOSS: "ndcg"}
"""By proper loss of a stream, the metric that follows from its mean."""
MINIMUM_CHURN_ROWS = 30
"""Rows of a slice whose scores are compared with the champion's, label or not: the correlation of
unrelated scores has a standard error of 0.19 then.
"""


def non_inferiority(context: PromotionContext) -> Iterator[Criterion]:
    """Check that the challenger is not worse than the champion: declared metric and proper loss.

    It fails when it is proved worse, and by more than the margin. It passes when the margin is
    proved to be kept. In between nothing is proved, and a refresh is not allowed.
    """
    name = "non_inferiority"
    if context.champion_status == "unreadable":
        # This challenger is not treated as a first one: the champion may be better, and a person
        # can restore it.
        reason = (
            f"Nothing is compared, and nobody promoted: {context.champion_problem}. Restore its "
            "files, or seat a version by a rollback."
        )
        yield passed_if(False, name, None, "a champion that can be loaded", reason)
        return
    if context.champion_model is None:
        yield _not_compared(context, name)
        return
    for metric, gain, margin in _gains_on_champion(context.broadest):
        is_primary = metric == context.spec.promotion.metric
        part = name if is_primary else f"{name}[{metric}]"
        reason = (
            f"The gain in {metric} is {_text(gain)} {_sample(context.broadest)}; its lower bound "
            f"must not lie below {-margin:+.4f}."
        )
        if gain.high < 0 and gain.value < -margin:
            yield passed_if(False, part, gain, -margin, reason)
        else:
            yield proved_if(gain.low >= -margin, part, gain, -margin, reason)


def superiority(context: PromotionContext) -> Criterion:
    """Check that the challengers' stream is proved better than what served.

    The test may be looked at every night; ``training.statistics.sequential_test`` tells why. The
    champion that serves now must itself have lost to the stream on enough nights, so that no
    evidence against its predecessor removes it.
    """
    name = "superiority"
    if context.champion_model is None or context.champion is None:
        return _not_compared(context, name)
    evidence = context.evidence
    result = evidence.result
    needed = 1 / (1 - context.spec.promotion.superiority_probability)
    low = "unknown" if result.low is None else f"{result.low:+.4f}"
    reason = (
        f"Over {result.n_nights} matured night(s) since {evidence.since} the stream "
        f"{evidence.stream!r} gains {result.mean_gain:+.4f} {proper_loss(context.spec)} a night "
        f"(at least {low}); e-value {result.e_value:.3g}, proved from {needed:g} on"
    )
    if not evidence.has_own_nights:
        reason += (
            f"; of them {evidence.champion_nights} of this champion, gain "
            f"{evidence.champion_gain:+.4f}: at least {MINIMUM_NIGHTS} with a gain are needed"
        )
    reason += _missed(context)
    return proved_if(
        result.e_value >= needed and evidence.has_own_nights and evidence.is_complete,
        name,
        result.e_value,
        needed,
        f"{reason}.",
        **evidence.facts,
    )


def _missed(context: PromotionContext) -> str:
    """Return what a stream has missed, if it is too much to compare the rest."""
    evidence = context.evidence
    if evidence.is_complete:
        return ""
    return (
        f"; the stream has not scored {evidence.n_unscored} published night(s), so that"
        f" its nights are chosen: score them, `nightshift shadow {context.spec.name} <day> <day>`"
    )


def refresh(context: PromotionContext) -> Criterion:
    """Check whether an old champion may be replaced by a sound challenger, without a proof.

    The challenger must keep the margins of non-inferiority and must not be worse by point estimate,
    in the declared metric and in the proper loss; nor may the nights of the stream be against it.
    """
    name = "refresh"
    if context.champion_model is None or context.champion is None:
        return _not_compared(context, name)
    stale_after = context.spec.promotion.stale_after_days
    if stale_after is None:
        return not_applicable(name, "The spec replaces no champion for its age.")
    age = (context.evidence.partition.day - context.champion.partition_date).days
    limit = f"{stale_after} days, and not worse"
    if age < stale_after:
        reason = f"The champion is {age} day(s) old; refreshed from {stale_after} on."
        return proved_if(False, name, age, limit, reason)
    evidence = context.evidence
    against = _missed(context)
    if evidence.champion_nights >= MINIMUM_NIGHTS and evidence.champion_gain < 0:
        # A hold-out is of the challenger's own making: nights that came later outweigh it.
        against += (
            f"; over {evidence.champion_nights} matured nights the stream gains "
            f"{evidence.champion_gain:+.4f} a night, and must not lose"
        )
    if against:
        reason = f"The champion is {age} day(s) old{against}."
        return proved_if(False, name, age, limit, reason, **evidence.facts)
    worse = []
    gains = {}
    for metric, gain, margin in _gains_on_champion(context.broadest):
        gains[metric] = {**asdict(gain), "margin": margin}
        # Without any difference the challenger is the champion's equal: a copy refreshes nothing.
        if gain.low < -margin or gain.value < 0 or gain.standard_error == 0:
            worse.append(f"{metric} {_text(gain)}")
    reason = f"The champion is {age} day(s) old; refreshed from {stale_after} on"
    if worse:
        reason += (
            f", if the challenger is not worse {_sample(context.broadest)}: {', '.join(worse)}"
        )
    return proved_if(not worse, name, age, limit, f"{reason}.", **evidence.facts, gains=gains)


def _gains_on_champion(context: PromotionContext) -> Iterator[tuple[str, BoundedEstimate, float]]:
    """Yield metric, gain and margin: of the declared metric, and of the task's proper loss."""
    promotion = context.spec.promotion
    proper = LOSS_METRICS[proper_loss(context.spec)]
    for metric in dict.fromkeys([promotion.metric, proper]):
        declared = promotion.non_inferiority_margin if metric == promotion.metric else None
        gain = context.gain("champion", metric=metric)
        yield metric, gain, _margin(context, declared, RELATIVE_MARGIN, metric)


def baselines(context: PromotionContext) -> Iterator[Criterion]:
    """Check that the challenger beats prior and rule, and is not beaten by simple models.

    Of one that is compared with no champion (the first, or one whose champion cannot score), the
    gain over prior and rule itself must reach the minimum: they could take its place. A linear
    model and a small tree only compare, and a champion is compared with by the stream: the
    challenger fails then if it is proved to gain less than the minimum.
    """
    promotion = context.spec.promotion
    minimum = promotion.minimum_gain_over_baseline
    for baseline in NAMES:
        name, gain = f"baseline[{baseline}]", context.gain(baseline)
        text = f"The gain in {promotion.metric} over the {baseline} baseline is {_text(gain)}"
        if baseline in ("prior", "rule") and context.champion_model is None:
            relation = ">" if minimum == 0 else "≥"
            reason = f"{text}; required {relation} {minimum:g}."
            is_passed = gain.value > 0 and gain.value >= minimum
        else:
            reason = f"{text}; its upper bound must not lie below {minimum:g}."
            is_passed = gain.high >= minimum
        yield passed_if(is_passed, name, gain, minimum, reason)


def calibration(context: PromotionContext) -> Iterator[Criterion]:
    """Check that predictions are probabilities (or the label's unit): error and slope."""
    if context.spec.is_ranking:
        yield not_applicable("calibration", "A score orders rows, and has no unit to be right in.")
        return
    context = context.broadest
    yield from _calibration_error(context)
    promotion = context.spec.promotion
    outcome, predicted = context.answered("challenger")
    days = context.days
    if context.spec.classes:
        # The predicted classes alone may all be about equally sure, which tells no slope.
        outcome, predicted = context.of("challenger").by_class(context.label)
        days = days.repeated(len(context.spec.classes))
    has_probability = context.spec.task.has_probability
    # A logistic slope is one of log-odds.
    if has_probability:
        predicted = log_odds_of(predicted)
    slope = slope_estimate(
        outcome,
        predicted,
        days,
        promotion.confidence,
        is_logistic=has_probability,
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
    outcome, predicted = context.answered("challenger")
    own_error = calibration_error(outcome, predicted, context.days)
    their_error = calibration_error(*context.answered(reference), context.days)
    error = context.estimate(own_error)
    excess = context.estimate(difference(own_error, their_error))
    margin = promotion.calibration_margin
    # Without a declared margin the label's own spread is the scale.
    if margin is None:
        margin = float(outcome.std()) * RELATIVE_CALIBRATION_MARGIN
    text = (
        f"The calibration error is {_text(error)}, the {reference}'s "
        f"{error.value - excess.value:.4f}"
    )
    # Seven days of a hold-out prove little, four weeks of a stream are measured well.
    is_passed = (excess.value if context.is_stream else excess.low) <= margin
    bound = "excess" if context.is_stream else "lower bound of the excess"
    yield passed_if(
        is_passed,
        "calibration[excess]",
        excess,
        margin,
        f"{text} {_sample(context)}; the {bound} {_text(excess)} must not lie above {margin:.4f}.",
        error=error.value,
        error_interval=[error.low, error.high],
        reference=reference,
        bound=bound,
    )
    maximum = promotion.maximum_calibration_error
    if maximum is not None:
        yield at_most("calibration[error]", error, maximum, f"{text}; allowed ≤ {maximum:g}.")


def slices(context: PromotionContext) -> Iterator[Criterion]:
    """Check that the challenger is worse in no declared slice: proved, and beyond the margin.

    The p-values of all slices with enough rows are adjusted by Holm's procedure.
    """
    context = context.broadest
    promotion = context.spec.promotion
    if not promotion.slices:
        yield not_applicable("slice", "The spec declares no slice.")
        return
    n_rows: dict[str, int] = {}
    gains: dict[str, BoundedEstimate] = {}
    for declared in promotion.slices:
        for level, mask in slice_masks(declared, context.rows):
            name = f"slice[{declared.column}={level}]"
            n_rows[name] = int(mask.sum())
            # The rows may not define the metric, as an AUC of one class.
            with suppress(NoEstimateError):
                if n_rows[name] >= declared.minimum_rows:
                    gains[name] = context.gain(context.reference, mask)

    p_values = holm([gain.probability_above(0.0) for gain in gains.values()])
    limit = -_margin(context, promotion.slice_margin, RELATIVE_SLICE_MARGIN, promotion.metric)
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
    context = context.broadest
    if context.champion_model is None:
        yield _not_compared(context, "churn")
        return
    from scipy.stats import rankdata, spearmanr

    promotion = context.spec.promotion
    if context.spec.classes:
        yield from _class_churn(context)
        return
    sources = [context.of(source) for source in ("challenger", "champion")]
    # Scores of a ranking are comparable within their group only.
    new, old = (relative_positions(part) if part.groups else part.score for part in sources)
    ones = np.ones(new.size)
    maximum = promotion.maximum_decile_churn
    if context.spec.is_ranking:
        yield _top_churn(context)
    else:
        # Deciles are of the model whose scores they divide.
        new_decile = context.model_of("challenger").deciles(new)
        old_decile = context.model_of("champion").deciles(old)
        is_moved = new_decile != old_decile
        share = context.estimate(ratio(context.days.sums(is_moved * 1.0, ones)))
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
    if context.is_stream:
        yield from _slice_churn(context, new, old)


def _top_churn(context: PromotionContext) -> Criterion:
    """Check how many of the champion's first top_k rows are no longer among them."""
    new, old = (ranks_of(context.of(source)) for source in ("challenger", "champion"))
    top_k, maximum = context.spec.top_k, context.spec.promotion.maximum_decile_churn
    was_top = (old <= top_k).astype(np.float64)
    is_left = np.where(new > top_k, was_top, 0.0)
    share = context.estimate(ratio(context.days.sums(is_left, was_top)))
    of_champion = f"{share.value:.1%} of the champion's first {top_k} rows of a group"
    reason = f"{of_champion} leave them; allowed ≤ {maximum:.1%}."
    return at_most("churn[top_k]", share, maximum, reason)


def _class_churn(context: PromotionContext) -> Iterator[Criterion]:
    """Check how many rows change their predicted class, and that the order of each class stays."""
    from scipy.stats import spearmanr

    promotion = context.spec.promotion
    new, old = context.of("challenger"), context.of("champion")
    is_moved = (new.predicted_class != old.predicted_class) * 1.0
    share = context.estimate(ratio(context.days.sums(is_moved, np.ones(is_moved.size))))
    maximum = promotion.maximum_decile_churn
    reason = f"{share.value:.1%} of the rows change their class; allowed ≤ {maximum:.1%}."
    yield at_most("churn[classes]", share, maximum, reason)

    assert new.classes is not None  # noqa: S101 - a spec of classes
    assert old.classes is not None  # noqa: S101 - likewise
    correlations = {}
    for name, own, their in zip(context.spec.classes, new.classes.T, old.classes.T, strict=True):
        # A class that nobody expects has no order that could be lost.
        if np.ptp(own) > 0 and np.ptp(their) > 0:
            correlations[name] = float(spearmanr(own, their).statistic)
    minimum = promotion.minimum_rank_correlation
    if not correlations:
        yield not_applicable("churn[ranks]", "All rows have the same probabilities.")
        return
    lowest = min(correlations, key=correlations.__getitem__)
    correlation = correlations[lowest]
    reason = (
        f"The lowest rank correlation of a class's probability with the champion's is"
        f" {correlation:.3f}, of {lowest}; required ≥ {minimum:g}."
    )
    yield passed_if(correlation >= minimum, "churn[ranks]", correlation, minimum, reason)


def _slice_churn(context: PromotionContext, new: Vector, old: Vector) -> Iterator[Criterion]:
    """Check that no slice, however small, has scores that are unrelated to the champion's.

    Labels are not needed for it: a slice of two rows a partition is seen too.
    """
    from scipy.stats import spearmanr

    minimum = context.spec.promotion.minimum_rank_correlation
    for declared in context.spec.promotion.slices:
        for level, mask in slice_masks(declared, context.rows):
            n_rows = int(mask.sum())
            # Equal scores of a slice have no order that could be lost.
            if n_rows < MINIMUM_CHURN_ROWS or np.ptp(old[mask]) == 0 or np.ptp(new[mask]) == 0:
                continue
            correlation = float(spearmanr(new[mask], old[mask]).statistic)
            reason = (
                f"The rank correlation with the champion's scores in {n_rows} rows is "
                f"{correlation:.3f}; required ≥ {minimum:g}."
            )
            name = f"churn[{declared.column}={level}]"
            is_passed = correlation >= minimum
            yield passed_if(is_passed, name, correlation, minimum, reason, n_rows=n_rows)


def _margin(context: PromotionContext, declared: float | None, share: float, metric: str) -> float:
    """Return a margin in the metric's unit: the declared one, or a share of the advantage."""
    return context.advantage(metric) * share if declared is None else declared


def _sample(context: PromotionContext) -> str:
    """Return which rows were measured."""
    return f"on {context.days.n} {'nights of the stream' if context.is_stream else 'hold-out days'}"


def _not_compared(context: PromotionContext, name: str) -> Criterion:
    return not_applicable(name, f"Nothing to compare with: {context.champion_problem}.")


def _text(estimate: BoundedEstimate, form: str = ".4f") -> str:
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
