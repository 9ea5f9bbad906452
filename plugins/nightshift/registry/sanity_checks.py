"""Criteria about the challenger itself: is it what it says, of rows it may have seen, and can it serve?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.registry.checks import Criterion, held
from nightshift.registry.feature_agreement import compare_features
from nightshift.training.single_feature_leakage import best_separation
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    from nightshift.registry.promotion_context import PromotionContext

TIMED_ROWS = 100_000


def provenance(case: PromotionContext) -> Criterion:
    """Ask whether the files belong to the registered version: model, task, training set, and what was seen for the fit."""
    model, version = case.trained, case.challenger
    stated_end = (
        str(model.training.get("split", ""))
        .partition("validation ")[2]
        .partition(" |")[0]
        .partition("..")[2]
    )
    differences = [
        f"{what} is {got!r}, registered {expected!r}"
        for what, got, expected in (
            ("the model", model.model, version.model),
            ("the task", model.task, case.spec.task),
            ("the digest", model.digest, version.digest),
            ("the training set", model.training.get("training_set"), version.training_set),
            ("the last day of the fit", stated_end, version.fit_end.isoformat()),
        )
        if got != expected
    ]
    reason = (
        "; ".join(differences) or "Files, training set and fit are those of the registered version."
    )
    return held("provenance", is_held=not differences, reason=reason, limit="equal")


def signature(case: PromotionContext) -> Criterion:
    """Ask whether the model reads what the spec declares, in its order."""
    expected, got = case.spec.features.names, tuple(case.trained.signature.names)
    missing, extra = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    difference = [f"lacks {', '.join(missing)}"] * bool(missing) + [
        f"reads {', '.join(extra)} besides"
    ] * bool(extra)
    reason = "The model " + (
        "; ".join(difference)
        or ("reads the spec's features" + ("." if got == expected else " in another order."))
    )
    return held(
        "signature",
        is_held=got == expected,
        reason=reason,
        limit="the spec's features",
        of=float(len(got)),
    )


def training_window(case: PromotionContext) -> Criterion:
    """Ask whether the training set reaches up to what its night knew, and has no hole."""
    import numpy as np

    limit, window = case.spec.promotion.maximum_gap_days, case.training_set.window
    last = mature_window(case.spec, Partition(case.challenger.partition_date)).last
    days = np.unique(case.all_rows.column("partition_date").to_numpy().astype("datetime64[D]"))
    edges = [np.datetime64(window.first.day) - 1, *days, np.datetime64(window.last.day) + 1]
    gap = int(np.diff(np.array(edges)).astype(int).max()) - 1
    age = (last.day - window.last.day).days
    reason = f"At most {gap} day(s) in a row have no row; the window ends {age} day(s) before the last mature one, {last}."
    return held(
        "training_window",
        is_held=max(gap, age) <= limit,
        reason=reason,
        limit=limit,
        of=float(max(gap, age)),
        window=str(window),
    )


def unique_rows(case: PromotionContext) -> Criterion:
    """Ask whether every entity of a partition stands in the training set once: a copy would be fitted and judged."""
    rows = case.all_rows.select(["partition_date", case.spec.entity.key])
    n_copies = rows.num_rows - rows.group_by(rows.column_names).aggregate([]).num_rows
    reason = f"{n_copies} of {rows.num_rows} rows are copies of another one."
    return held("unique_rows", is_held=n_copies == 0, reason=reason, limit=0, of=float(n_copies))


def evidence_rows(case: PromotionContext) -> Criterion:
    """Ask whether there are enough rows and days that are later than all that champion and challenger have seen."""
    declared, n_rows = case.spec.promotion, case.label.size
    days = case.rows.column("partition_date")
    is_enough = (
        case.days.n >= declared.minimum_evidence_days
        and n_rows >= declared.minimum_evidence_rows
        and case.label.std() > 0
    )
    reason = f"{n_rows} rows of {case.days.n} day(s), {days[0]} to {days[-1]}" + (
        "." if case.label.std() > 0 else ", all with one label."
    )
    limit = f"{declared.minimum_evidence_days} days, {declared.minimum_evidence_rows} rows"
    return held("evidence_rows", is_held=is_enough, reason=reason, limit=limit, of=float(n_rows))


def leakage(case: PromotionContext) -> Criterion:
    """Ask whether one feature alone tells the outcome: then it is the outcome, known too early."""
    limit = case.spec.promotion.maximum_feature_separation
    name, separation = best_separation(case.trained.signature, case.fit_rows, case.rows, case.spec)
    reason = f"Of all features alone, {name} separates the labels best: {separation:.3f}."
    return held(
        "leakage",
        is_held=separation <= limit,
        reason=reason,
        limit=limit,
        of=separation,
        feature=name,
    )


def feature_agreement(case: PromotionContext) -> Criterion:
    """Ask whether rows that are read as scoring reads them have the bits that training saw."""
    found = compare_features(case)
    reason = f"{found.n_differing} of {found.n_values} values of {found.n_rows} rows differ" + (
        f", in {', '.join(found.columns[:5])}." if found.columns else "."
    )
    if found.n_missing:
        reason = (
            f"{found.n_missing} of {found.n_rows + found.n_missing} rows are not found as scoring reads them. "
            + reason
        )
    is_held = found.n_rows > 0 and found.n_missing == 0 and found.n_differing == 0
    return held(
        "feature_agreement",
        is_held=is_held,
        reason=reason,
        limit=0,
        of=float(found.n_differing),
        n_rows=found.n_rows,
    )


def scores(case: PromotionContext) -> Criterion:
    """Ask whether every score is finite, every probability from 0 to 1, and not all are equal."""
    import numpy as np

    predictions = case.predictions["challenger"]
    n_bad = int((~np.isfinite(predictions.score)).sum())
    if predictions.probability is not None:
        n_bad += int((~((predictions.probability >= 0) & (predictions.probability <= 1))).sum())
    n_distinct = int(np.unique(predictions.score).size)
    reason = f"{n_bad} scores are unusable, {n_distinct} are distinct."
    return held(
        "scores",
        is_held=n_bad == 0 and n_distinct > 1,
        reason=reason,
        limit=0,
        of=float(n_bad),
        n_distinct=n_distinct,
    )


def scoring_time(case: PromotionContext) -> Criterion:
    """Ask for the processor time of 100,000 rows; the faster of two tries counts."""
    limit, rows = case.spec.promotion.maximum_scoring_seconds, case.rows.slice(0, TIMED_ROWS)
    seconds = min(_timed(case) for _ in range(2)) * TIMED_ROWS / max(1, rows.num_rows)
    reason = f"{seconds:.2f} processor seconds for 100,000 rows."
    return held("scoring_time", is_held=seconds <= limit, reason=reason, limit=limit, of=seconds)


def model_size(case: PromotionContext) -> Criterion:
    """Ask for the size of the files."""
    limit, size = (
        case.spec.promotion.maximum_model_bytes,
        sum(map(len, case.trained.files.values())),
    )
    return held(
        "model_size",
        is_held=size <= limit,
        reason=f"The model's files have {size:,} bytes.",
        limit=limit,
        of=float(size),
    )


def _timed(case: PromotionContext) -> float:
    started = time.process_time()
    case.trained.predictions(case.rows.slice(0, TIMED_ROWS))
    return time.process_time() - started
