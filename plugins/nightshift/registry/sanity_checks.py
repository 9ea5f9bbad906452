"""Sanity checks of a challenger: provenance, signature, training data, leakage, scoring cost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from nightshift.models.booster import leaf_numbers
from nightshift.registry.checks import Criterion, at_most, not_applicable, passed_if
from nightshift.registry.feature_agreement import compare_features
from nightshift.training.single_feature_leakage import best_separation
from nightshift.training.splits import rows_of
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext

TIMED_ROWS = 100_000
_BAGGING = ("bagging_fraction", "subsample", "data_sample_strategy", "bagging", "boosting")
"""Parameters by which a tree is grown on a part of the rows."""


def provenance(context: PromotionContext) -> Criterion:
    """Check that the files are those of the registered version, task and training set."""
    model = context.trained
    version = context.challenger
    # "train 2013-01-01..2013-05-01 | validation 2013-05-03..2013-05-09 | hold-out …"
    _, _, validation = str(model.training.get("split", "")).partition("validation ")
    _, _, fit_end = validation.partition(" |")[0].partition("..")
    # The files are written by the training, the version by the registry: they must agree.
    compared = {
        "the model": (model.model, version.model),
        "the task": (model.task, context.spec.task),
        "the digest": (model.digest, version.digest),
        "the training set": (model.training.get("training_set"), version.training_set),
        "the last day of the fit": (fit_end, version.fit_end.isoformat()),
    }
    differences = [
        f"{what} is {got!r}, registered {expected!r}"
        for what, (got, expected) in compared.items()
        if got != expected
    ]
    is_equal = "Files, training set and fit are those of the registered version."
    reason = "; ".join(differences) or is_equal
    return passed_if(not differences, "provenance", None, "equal", reason)


def signature(context: PromotionContext) -> Criterion:
    """Check that the model reads the features of the spec, in its order."""
    expected = list(context.spec.features.names)
    got = context.trained.signature.names
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


def fitted_rows(context: PromotionContext) -> Criterion:
    """Check that the trees were grown on exactly the rows of the split that were meant for them.

    A tree counts the rows of each of its leaves when it is grown. The same rows, sent through the
    tree, must give the same counts: a model that saw days that judge it has other counts, whatever
    it says of its training.
    """
    params = context.spec.training.params
    sampled = sorted(set(_BAGGING) & params.keys())
    if sampled:
        reason = f"The spec grows each tree on a part of the rows ({', '.join(sampled)})."
        return not_applicable("fitted_rows", reason)
    model = context.trained
    rows = rows_of(context.all_rows, context.split.train)
    trees = [tree for tree in model.trees if len(tree.leaf_counts) > 1]
    if not trees:
        return not_applicable("fitted_rows", "No tree has a split.")
    leaves = leaf_numbers(model.booster, model.encode(rows))
    n_different = 0
    n_grown = 0
    for tree, reached in zip(model.trees, leaves.T, strict=True):
        # A tree without a split may have no counts.
        if len(tree.leaf_counts) <= 1:
            continue
        grown = np.asarray(tree.leaf_counts)
        counts = np.bincount(reached.astype(np.int64), minlength=grown.size)
        n_different += int(np.abs(counts - grown).sum())
        n_grown = max(n_grown, int(grown.sum()))
    reason = (
        f"The trees were grown on {n_grown:,} rows, the split has {rows.num_rows:,} for them "
        f"({context.split.train}); in {len(trees)} tree(s) the leaves differ by {n_different:,}."
    )
    return at_most("fitted_rows", n_different, 0, reason, n_grown=n_grown, n_rows=rows.num_rows)


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
    reason = f"{n_rows} rows of {n_days} day(s), {days[0]} to {days[-1]}{one_label}."
    limit = f"{minimum_days} days, {minimum_rows} rows"
    is_passed = bool(is_enough and has_both_labels)
    return passed_if(is_passed, "evidence_rows", n_rows, limit, reason)


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
        context.trained.predictions(rows)
        durations.append(time.process_time() - started)
    n_rows = max(1, rows.num_rows)
    seconds = min(durations) * TIMED_ROWS / n_rows
    reason = f"{seconds:.2f} processor seconds for 100,000 rows."
    limit = context.spec.promotion.maximum_scoring_seconds
    return at_most("scoring_time", seconds, limit, reason)


def model_size(context: PromotionContext) -> Criterion:
    """Check the size of the model's files."""
    n_bytes = sum(map(len, context.trained.files.values()))
    limit = context.spec.promotion.maximum_model_bytes
    reason = f"The model's files have {n_bytes:,} bytes."
    return at_most("model_size", n_bytes, limit, reason)
