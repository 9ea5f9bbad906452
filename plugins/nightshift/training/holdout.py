"""Fit models on splits and evaluate them on the hold-outs: the final fit, and the backtest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from nightshift.contracts.partitions import PartitionRange
from nightshift.models.signature import numbers
from nightshift.training.evaluation import (
    MetricValue,
    evidence,
    measure,
    overall,
    rule_predictions,
)
from nightshift.training.figures import draw_training
from nightshift.training.model_fit import NO_PATHS, FitPaths, choose_threshold, fit_model
from nightshift.training.reference_profile import describe
from nightshift.training.splits import (
    Split,
    backtest_folds,
    check_window,
    is_trainable,
    rows_between,
    rows_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel


@dataclass(frozen=True)
class HoldoutResult:
    """A model and its predictions on the hold-out of one split.

    Attributes:
        trained: The model; without reference profile and deciles.
        measured: Metrics on the hold-out.
        rows: The hold-out rows.
        label: Their labels; shape (n,).
        predictions: Predictions for them by source, ``challenger`` and ``baseline`` (the rule).
    """

    trained: TrainedModel
    measured: list[MetricValue]
    rows: pa.Table
    label: Vector
    predictions: dict[str, Predictions]


def train_rows(
    spec: ModelSpec, rows: pa.Table, split: Split, training_set: str, paths: FitPaths = NO_PATHS
) -> tuple[TrainedModel, list[MetricValue], dict[str, bytes]]:
    """Fit, calibrate and evaluate a model on rows in their total order.

    Returns:
        The model, the metrics (hold-out and backtest) and figures by file name.
    """
    # The checkpoint belongs to the final fit.
    fold_paths = replace(paths, checkpoint=None)
    window = PartitionRange(split.train.first, split.holdout.last)
    folds = []
    for number, fold in enumerate(backtest_folds(window, spec.training), 1):
        if is_trainable(spec, rows, fold):
            sample = f"backtest-{number}"
            folds.append(evaluate_split(spec, rows, fold, sample, fold_paths))

    trained, final = fit_and_evaluate(spec, rows, split, training_set, paths)
    trained = with_reference(trained, rows, split)
    results = [final, *folds]
    measured = list(chain.from_iterable(result.measured for result in results))
    figures = draw_training(spec, final, metric_by_day(spec, results))
    return trained, measured, figures


def fit_and_evaluate(
    spec: ModelSpec, rows: pa.Table, split: Split, training_set: str, paths: FitPaths = NO_PATHS
) -> tuple[TrainedModel, HoldoutResult]:
    """Fit, calibrate and evaluate a model on rows in their total order.

    Returns:
        The model with its hold-out metrics and deciles, and its hold-out result.
    """
    result = evaluate_split(spec, rows, split, "holdout", paths)
    # Scores of the rows that the trees were fitted on are too extreme for deciles.
    score = _unseen_scores(result.trained, rows, split)
    edges = np.quantile(score, np.arange(1, 10) / 10)
    metrics = {source: overall(result.measured, source) for source in result.predictions}
    trained = replace(
        result.trained,
        decile_edges=tuple(edges.tolist()),
        metrics=metrics,
        # The gate compares it with the registered version.
        training={**result.trained.training, "training_set": training_set},
    )
    return trained, result


def evaluate_split(
    spec: ModelSpec, rows: pa.Table, split: Split, sample: str, paths: FitPaths = NO_PATHS
) -> HoldoutResult:
    """Fit a model on one split and measure it, and the rule, on the hold-out.

    Raises:
        WindowError: A part of the split cannot be used.
    """
    check_window(spec, rows, split)
    train = rows_of(rows, split.train)
    validation = rows_of(rows, split.validation)
    holdout = rows_of(rows, split.holdout)
    trained = fit_model(spec, train, validation, paths)
    trained = replace(trained, training={**trained.training, "split": str(split)})

    label = numbers(holdout, spec.label.column)
    predictions = {
        "challenger": trained.predictions(holdout),
        "baseline": _rule_baseline(spec, validation, holdout),
    }
    measured = evidence(spec, sample, holdout, label, predictions)
    return HoldoutResult(trained, measured, holdout, label, predictions)


def with_reference(trained: TrainedModel, rows: pa.Table, split: Split) -> TrainedModel:
    """Return the model with the reference profile that the monitor measures drift against."""
    fit_rows = rows_between(rows, split.train.first.day, split.validation.last.day)
    score = _unseen_scores(trained, rows, split)
    return replace(trained, reference=describe(fit_rows, trained.signature, score))


def metric_by_day(spec: ModelSpec, results: list[HoldoutResult]) -> dict[str, dict[str, float]]:
    """Return the primary metric of each hold-out day, by source and day (ISO)."""
    by_source: dict[str, dict[str, float]] = {"challenger": {}, "baseline": {}}
    metric = spec.promotion.metric
    for result in results:
        days = result.rows.column("partition_date").to_numpy()
        for day in np.unique(days):
            mask = days == day
            label = result.label[mask]
            for source, predictions in result.predictions.items():
                value = measure(spec.task, label, predictions.at(mask))[metric]
                # A day with one class has no AUC: the figure leaves it out.
                if value is not None:
                    by_source[source][str(day)] = value
    return by_source


def _rule_baseline(spec: ModelSpec, validation: pa.Table, holdout: pa.Table) -> Predictions:
    """Return the rule's predictions, with its threshold chosen like the model's."""
    rule = spec.scoring.fallback
    # The rule gets the same chance as the model: no threshold is chosen on the hold-out.
    label = numbers(validation, spec.label.column)
    threshold = choose_threshold(spec, label, rule_predictions(spec.task, rule, validation))
    return rule_predictions(spec.task, rule, holdout, threshold)


def _unseen_scores(trained: TrainedModel, rows: pa.Table, split: Split) -> Vector:
    """Return the scores of the rows that the trees were not fitted on."""
    unseen = rows_between(rows, split.validation.first.day, split.holdout.last.day)
    return trained.predictions(unseen).score
