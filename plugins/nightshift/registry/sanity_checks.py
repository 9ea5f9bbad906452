"""Sanity checks of a challenger: provenance, signature, training data, leakage, scoring cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.group_ranks import count_groups
from nightshift.models.predictions import Predictions, group_codes, with_groups
from nightshift.models.signature import matrix_names
from nightshift.registry.checks import Criterion, at_most, passed_if
from nightshift.registry.feature_agreement import compare_features
from nightshift.registry.leaks.fitted_line import fitted_line
from nightshift.registry.leaks.fitted_trees import fitted_encodings, fitted_trees
from nightshift.registry.streams.paired_rows import mean_loss
from nightshift.training.single_feature_leakage import best_separation
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.promotion_context import PromotionContext

TIMED_ROWS = 100_000
MAXIMUM_REFIT_LOSS = 0.1
"""Share of the evaluated model's advantage over the prior that the model that serves may lose, on
days that only the latter was fitted on.
"""


def provenance(context: PromotionContext) -> Criterion:
    """Check that the files are those of the registered version, task and training set."""
    model = context.served
    version = context.challenger
    evaluated = version.as_evaluated
    # The files are written by the training, the version by the registry: they must agree.
    compared: dict[str, tuple[object, object]] = {
        "the model": (model.model, version.model),
        "the task": (model.task, context.spec.task),
        "the digest": (model.digest, version.digest),
        "the training set": (model.training.get("training_set"), version.training_set),
        "the last day of the fit": (_fit_end(model), version.fit_end.isoformat()),
    }
    if version.evaluated is not None:
        # The evidence must be about a model of the same training set that never saw the hold-out.
        holdout = context.split.holdout.first.day
        compared |= {
            "the evaluated model": (context.trained.digest, evaluated.digest),
            "the evaluated model of the files": (
                model.training.get("evaluated_digest"),
                evaluated.digest,
            ),
            "its training set": (
                context.trained.training.get("training_set"),
                evaluated.training_set,
            ),
            "the last day of its fit": (_fit_end(context.trained), evaluated.fit_end.isoformat()),
            "its fit before the hold-out": (evaluated.fit_end < holdout, True),
        }
    differences = [
        f"{what} is {got!r}, registered {expected!r}"
        for what, (got, expected) in compared.items()
        if got != expected
    ]
    is_equal = "Files, training set and fit are those of the registered version."
    reason = "; ".join(differences) or is_equal
    return passed_if(not differences, "provenance", None, "equal", reason)


def _fit_end(model: TrainedModel) -> str:
    """Return the last day that a model says it was fitted on (ISO)."""
    if "fit" in model.training:
        return str(model.training["fit"]).rpartition("..")[2]
    # Older models: "train 2013-01-01..2013-05-01 | validation 2013-05-03..2013-05-09 | hold-out …"
    _, _, validation = str(model.training.get("split", "")).partition("validation ")
    return validation.partition(" |")[0].rpartition("..")[2]


def refit(context: PromotionContext) -> Criterion:
    """Check that the model that would serve knows the hold-out as well as the evaluated one does.

    It was fitted on these days too, so a worse loss means that its fit went wrong.
    """
    # The labels first: without a row there is nothing to compare.
    evaluated = _loss(context, context.trained.predictions(context.rows))
    served = _loss(context, context.served.predictions(context.rows))
    # All that a model is worth is its advantage over a constant, often a few percent of its loss.
    prior = _loss(context, context.of("prior"))
    limit = evaluated + MAXIMUM_REFIT_LOSS * max(0.0, prior - evaluated)
    reason = (
        f"On the hold-out the model that would serve has a loss of {served:.4f}, the evaluated one "
        f"{evaluated:.4f}, the prior {prior:.4f}; allowed ≤ {limit:.4f}."
    )
    return at_most("refit", served, limit, reason)


def _loss(context: PromotionContext, predictions: Predictions) -> float:
    """Return the mean of the model's proper loss; a median is worth little in squares."""
    spec = context.spec
    return mean_loss(spec, context.label, with_groups(spec, context.rows, predictions))


def signature(context: PromotionContext) -> Criterion:
    """Check that the model reads the features of the spec, in its order."""
    encoded = context.spec.training.recipe.target_encoding.columns
    expected = matrix_names(context.spec.features, encoded)
    got = context.served.signature.names
    missing = sorted(set(expected) - set(got))
    extra = sorted(set(got) - set(expected))
    differences = []
    if missing:
        differences.append(f"lacks {', '.join(missing)}")
    if extra:
        differences.append(f"also reads {', '.join(extra)}")
    if not differences:
        order = "in its order" if got == expected else "in another order"
        differences.append(f"reads the spec's features {order}")
    reason = f"The model {'; '.join(differences)}."
    return passed_if(got == expected, "signature", len(got), "the spec's features", reason)


def training_window(context: PromotionContext) -> Criterion:
    """Check that the training set reaches the last mature day, and has no long gap."""
    window = context.training_set.window
    last_mature = mature_window(context.spec, context.challenger.partition).last
    dates = context.all_rows.column("partition_date").to_numpy()
    days = np.unique(dates.astype("datetime64[D]"))
    # A missing first or last day of the window is a gap too.
    before = np.datetime64(window.first.day) - 1
    after = np.datetime64(window.last.day) + 1
    steps = np.diff(np.array([before, *days, after]))
    gap = int(steps.astype(int).max()) - 1
    age = (last_mature.day - window.last.day).days
    reason = (
        f"At most {gap} day(s) in a row have no row; the window ends {age} day(s) before the last "
        f"mature one, {last_mature}."
    )
    limit = context.spec.promotion.maximum_gap_days
    return at_most("training_window", max(gap, age), limit, reason, window=str(window))


def unique_rows(context: PromotionContext) -> Criterion:
    """Check that every entity of a partition is in the training set once."""
    # A copy could be in the fit and in the hold-out.
    keys = context.all_rows.select(["partition_date", context.spec.entity.key])
    distinct = keys.group_by(keys.column_names).aggregate([])
    n_copies = keys.num_rows - distinct.num_rows
    reason = f"{n_copies} of {keys.num_rows} rows are copies of another one."
    return at_most("unique_rows", n_copies, 0, reason)


def fitted_rows(context: PromotionContext) -> Iterator[Criterion]:
    """Check that all members were fitted on exactly the rows that were meant for them."""
    yield fitted_trees(context)
    yield from fitted_encodings(context)
    yield fitted_line(context)


def evidence_rows(context: PromotionContext) -> Criterion:
    """Check that enough rows and days are later than all that champion and challenger saw."""
    minimum_days = context.spec.promotion.minimum_evidence_days
    minimum_rows = context.spec.promotion.minimum_evidence_rows
    n_rows = context.label.size
    n_days = context.days.n
    has_both_labels = context.label.std() > 0
    is_enough = n_days >= minimum_days and n_rows >= minimum_rows
    days = context.rows.column("partition_date")
    one_label = "" if has_both_labels else ", all with one label"
    groups = ""
    if context.spec.is_ranking:
        counts = count_groups(context.label, group_codes(context.spec, context.rows))
        groups = f"; {counts['n_judged']} of {counts['n_groups']} groups have an order to judge"
    reason = f"{n_rows} rows of {n_days} day(s), {days[0]} to {days[-1]}{one_label}{groups}."
    limit = f"{minimum_days} days, {minimum_rows} rows"
    is_passed = bool(is_enough and has_both_labels)
    facts = {"n_days": n_days, "n_labels": int(np.unique(context.label).size)}
    return passed_if(is_passed, "evidence_rows", n_rows, limit, reason, **facts)


def leakage(context: PromotionContext) -> Criterion:
    """Check that no feature alone separates the labels: it would be a leaked outcome."""
    name, separation = best_separation(
        context.trained.signature,
        context.fit_rows,
        context.rows,
        context.spec,
    )
    limit = context.spec.promotion.maximum_feature_separation
    reason = f"Of all features alone, {name} separates the labels best: {separation:.3f}."
    return at_most("leakage", separation, limit, reason, feature=name)


def feature_agreement(context: PromotionContext) -> Criterion:
    """Check that rows read as scoring reads them have the same bits as in the training set."""
    n_missing, is_different = compare_features(context)
    n_rows = len(is_different)
    n_differing = int(is_different.sum())
    columns = ""
    if n_differing:
        names = np.array(context.trained.signature.names)
        differing = names[is_different.any(axis=0)]
        columns = f", in {', '.join(differing[:5])}"
    reason = f"{n_differing} of {is_different.size} values of {n_rows} rows differ{columns}."
    if n_missing:
        n_sampled = n_rows + n_missing
        missing = f"{n_missing} of {n_sampled} rows are not found as scoring reads them."
        reason = f"{missing} {reason}"
    # No compared row is no evidence.
    is_passed = n_rows > 0 and n_missing == 0 and n_differing == 0
    return passed_if(is_passed, "feature_agreement", n_differing, 0, reason, n_rows=n_rows)


def scores(context: PromotionContext) -> Criterion:
    """Check that scores are finite and not all equal, and probabilities lie in 0 to 1."""
    score = context.of("challenger").score
    probability = context.of("challenger").probability
    is_bad = ~np.isfinite(score)
    n_bad = int(is_bad.sum())
    if probability is not None:
        # Written so that a NaN is out of range too.
        is_in_range = (probability >= 0) & (probability <= 1)
        n_bad += int((~is_in_range).sum())
    n_distinct = int(np.unique(score).size)
    # Equal scores order no rows.
    is_passed = n_bad == 0 and n_distinct > 1
    reason = f"{n_bad} scores are unusable, {n_distinct} are distinct."
    return passed_if(is_passed, "scores", n_bad, 0, reason, n_distinct=n_distinct)


def scoring_time(context: PromotionContext) -> Criterion:
    """Check the processor time of scoring 100,000 rows; the faster of two tries counts."""
    rows = context.rows.slice(0, TIMED_ROWS)
    # The first try may load libraries or meet a busy machine.
    durations = []
    for _ in range(2):
        started = time.process_time()
        context.served.predictions(rows)
        durations.append(time.process_time() - started)
    n_rows = max(1, rows.num_rows)
    seconds = min(durations) * TIMED_ROWS / n_rows
    reason = f"{seconds:.2f} processor seconds for 100,000 rows."
    limit = context.spec.promotion.maximum_scoring_seconds
    return at_most("scoring_time", seconds, limit, reason)


def model_size(context: PromotionContext) -> Criterion:
    """Check the size of the model's files."""
    n_bytes = sum(map(len, context.served.files.values()))
    limit = context.spec.promotion.maximum_model_bytes
    reason = f"The model's files have {n_bytes:,} bytes."
    return at_most("model_size", n_bytes, limit, reason)
