"""Measure how well one feature alone separates the labels: a leak separates them almost fully."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.metrics import Task
from nightshift.models.signature import encode, numbers
from nightshift.training.splits import evenly_spaced

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector
    from nightshift.models.signature import Signature


MAXIMUM_ROWS = 20_000


def best_separation(
    signature: Signature, fit_rows: pa.Table, rows: pa.Table, spec: ModelSpec
) -> tuple[str, float]:
    """Return the feature that separates the labels best, and how well, 0 to 1.

    Args:
        signature: What the model reads; a category counts as the mean label of its level.
        fit_rows: Rows from which these means are taken.
        rows: Rows on which the separation is measured; at most 20,000 of them, evenly spaced.
        spec: Label and task.

    Returns:
        Name, and the area under the ROC curve in the better direction (binary, or the best of one
            class against all others, or of a ranking's relevance from some step on) or the size
            of Spearman's correlation (regression).
    """
    sample = evenly_spaced(rows, MAXIMUM_ROWS)
    matrix = encode(sample, signature)
    label = numbers(sample, spec.label.column)
    fit_matrix = encode(fit_rows, signature)
    fit_label = numbers(fit_rows, spec.label.column)
    codes = {column: matrix[:, column].copy() for column in signature.categorical_positions}
    separations = np.zeros(len(signature.names))
    for own_fit_label, own_label in _labels(spec, fit_label, label):
        # Level codes have no order. The means come from earlier rows, so a level of one row tells
        # nothing.
        for column, of_rows in codes.items():
            matrix[:, column] = _level_means(fit_matrix[:, column], own_fit_label, of_rows)
        own = [separation(values, own_label, spec.task) for values in matrix.T]
        separations = np.maximum(separations, own)
    best = int(np.argmax(separations))
    return signature.names[best], float(separations[best])


def _labels(spec: ModelSpec, fit_label: Vector, label: Vector) -> Iterator[tuple[Vector, Vector]]:
    """Yield the labels of both rows; of classes, for each, whether it is that one.

    Of a ranking, for each relevance but the lowest, whether it is reached.
    """
    if spec.is_ranking:
        for relevance in np.unique(label)[1:]:
            yield (fit_label >= relevance) * 1.0, (label >= relevance) * 1.0
        return
    if not spec.classes:
        yield fit_label, label
    for number in range(len(spec.classes)):
        yield (fit_label == number) * 1.0, (label == number) * 1.0


def _level_means(fit_codes: Vector, fit_label: Vector, codes: Vector) -> Vector:
    """Return the mean outcome of each code's level; missing is a level of its own."""
    # Missing becomes -1, which is the last place of the arrays.
    fit_levels = np.nan_to_num(fit_codes, nan=-1.0).astype(np.int64)
    levels = np.nan_to_num(codes, nan=-1.0).astype(np.int64)
    n_levels = max(fit_levels.max(initial=0), levels.max(initial=0)) + 2
    counts = np.bincount(fit_levels % n_levels, minlength=n_levels)
    sums = np.bincount(fit_levels % n_levels, weights=fit_label, minlength=n_levels)
    # A level that no fit row has gets 0.
    means = sums / np.maximum(counts, 1)
    return np.asarray(means[levels])


def separation(values: Vector, label: Vector, task: Task) -> float:
    """Return the better separation of two: missing values below all others, or above."""
    is_missing = np.isnan(values)
    if is_missing.all():
        return 0.0
    if not is_missing.any():
        return _rank_separation(values, label, task)
    # That a value is missing can be the leak itself: missing values get an extreme rank.
    lowest = np.where(is_missing, np.nanmin(values) - 1, values)
    highest = np.where(is_missing, np.nanmax(values) + 1, values)
    return max(_rank_separation(lowest, label, task), _rank_separation(highest, label, task))


def _rank_separation(values: Vector, label: Vector, task: Task) -> float:
    from scipy.stats import spearmanr
    from sklearn.metrics import roc_auc_score

    # A constant separates nothing, and has no correlation.
    if np.ptp(values) == 0 or np.ptp(label) == 0:
        return 0.0
    if task is Task.REGRESSION:
        return float(abs(spearmanr(values, label).statistic))
    classes = np.unique(label)
    # Numbers of classes have no order: each is separated from all others.
    if classes.size > 2:  # noqa: PLR2004 - two are one against the other
        return max(_rank_separation(values, (label == value) * 1.0, task) for value in classes)
    label = label == classes[-1]
    # A feature that is high for negatives leaks as much as one that is high for positives.
    area = float(roc_auc_score(label, values))
    return max(area, 1 - area)
