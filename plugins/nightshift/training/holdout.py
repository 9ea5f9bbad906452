"""Fit models on splits and evaluate them on the hold-outs: the final fit, and the backtest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from nightshift.contracts.partitions import PartitionRange
from nightshift.models.group_ranks import count_groups
from nightshift.models.predictions import Predictions, group_codes, labels_of, with_groups
from nightshift.models.unseen_nights import has_intervals, summarise_nights
from nightshift.training.evaluation import (
    MetricValue,
    evidence,
    measure,
    overall,
    rule_predictions,
)
from nightshift.training.figures import draw_training
from nightshift.training.model_fit import choose_threshold, fit_recipe, refit_recipe
from nightshift.training.recipe.members import NO_PATHS, FitPaths
from nightshift.training.recipe.search import searched
from nightshift.training.reference_profile import describe
from nightshift.training.splits import Split, backtest_folds, check_window, is_trainable, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.models.arrays import Vector
    from nightshift.models.trained_model import TrainedModel
    from nightshift.training.model_fit import RecipeFit


@dataclass(frozen=True)
class HoldoutResult:
    """A fitted recipe and its predictions on the hold-out of one split.

    Attributes:
        spec: With the parameters that a search has chosen.
        facts: The record of the search; empty without one.
        fit: The recipe, fitted on the days before the hold-out.
        measured: Metrics on the hold-out.
        rows: The hold-out rows.
        label: Their labels; shape (n,).
        predictions: Predictions for them by source, ``challenger`` and ``baseline`` (the rule).
    """

    spec: ModelSpec
    facts: dict[str, Any]
    fit: RecipeFit
    measured: list[MetricValue]
    rows: pa.Table
    label: Vector
    predictions: dict[str, Predictions]

    @property
    def trained(self) -> TrainedModel:
        """Return the model that was measured."""
        return self.fit.model


@dataclass(frozen=True)
class TrainingResult:
    """What a training gives: the model that serves, and the one that its evidence is about.

    Attributes:
        served: The model that serves, with the hold-out metrics of ``evaluated``.
        evaluated: The same recipe fitted on the days before the hold-out only; None if it serves.
        unseen_score: Scores of the served model's out-of-fold rows; shape (n,).
        result: Of ``evaluated`` on the hold-out.
    """

    served: TrainedModel
    evaluated: TrainedModel | None
    unseen_score: Vector
    result: HoldoutResult


def train_rows(
    spec: ModelSpec,
    rows: pa.Table,
    split: Split,
    training_set: str,
    paths: FitPaths = NO_PATHS,
) -> tuple[TrainingResult, list[MetricValue], dict[str, bytes]]:
    """Fit, calibrate and evaluate a model on rows in their total order.

    Returns:
        The training, the metrics (hold-out and backtest) and figures by file name.
    """
    spec = _for_window(spec, split)
    # The checkpoints belong to the final fits.
    fold_paths = replace(paths, checkpoints=None)
    window = PartitionRange(split.train.first, split.holdout.last)
    folds = []
    for number, fold in enumerate(backtest_folds(window, spec.training), 1):
        if is_trainable(spec, rows, fold):
            sample = f"backtest-{number}"
            folds.append(
                evaluate_split(
                    spec,
                    rows,
                    fold,
                    sample,
                    fold_paths,
                )
            )

    training = fit_and_evaluate(
        spec,
        rows,
        split,
        training_set,
        paths,
    )
    results = [training.result, *folds]
    measured = list(chain.from_iterable(result.measured for result in results))
    figures = draw_training(spec, training.result, metric_by_day(spec, results))
    served = with_reference(training.served, rows, training.unseen_score)
    return (replace(training, served=served), measured, figures)


def fit_and_evaluate(
    spec: ModelSpec,
    rows: pa.Table,
    split: Split,
    training_set: str,
    paths: FitPaths = NO_PATHS,
) -> TrainingResult:
    """Fit the evaluated model, measure it on the hold-out, and fit the model that serves.

    Args:
        spec: The recipe.
        rows: In their total order.
        split: Of their window.
        training_set: Key that the models will name.
        paths: Checkpoints and binned rows.
    """
    spec = _for_window(spec, split)
    result = evaluate_split(
        spec,
        rows,
        split,
        "holdout",
        paths,
    )
    # The gate compares these with the registered version.
    facts = {**result.facts, "training_set": training_set, "split": str(split)}
    if spec.is_ranking:
        codes = group_codes(spec, rows)
        facts["groups"] = count_groups(labels_of(spec, rows), codes)
    metrics = {source: overall(result.measured, source) for source in result.predictions}
    evaluated_days = PartitionRange(split.train.first, split.validation.last)
    evaluated = _with_facts(result.fit, metrics, {**facts, "fit": str(evaluated_days)})
    if not spec.training.recipe.refit:
        return TrainingResult(
            evaluated,
            None,
            result.fit.unseen_score,
            result,
        )

    window = PartitionRange(split.train.first, split.holdout.last)
    fitted = refit_recipe(
        result.spec,
        rows_of(rows, window),
        result.fit,
        result.rows,
        paths,
    )
    served_facts = {**facts, "fit": str(window), "evaluated_digest": evaluated.digest}
    served = _with_facts(fitted, metrics, served_facts)
    return TrainingResult(
        served,
        evaluated,
        fitted.unseen_score,
        result,
    )


def evaluate_split(
    spec: ModelSpec,
    rows: pa.Table,
    split: Split,
    sample: str,
    paths: FitPaths = NO_PATHS,
) -> HoldoutResult:
    """Fit a recipe on one split and measure it, and the rule, on the hold-out.

    Raises:
        WindowError: A part of the split cannot be used.
    """
    check_window(spec, rows, split)
    train = rows_of(rows, split.train)
    validation = rows_of(rows, split.validation)
    holdout = rows_of(rows, split.holdout)
    # The days before the validation days are the only ones that a search looks at.
    spec, facts = searched(spec, train, paths)
    fit = fit_recipe(spec, train, validation, paths)

    label = labels_of(spec, holdout)
    predictions = {
        "challenger": with_groups(spec, holdout, fit.model.predictions(holdout)),
        "baseline": with_groups(spec, holdout, _rule_baseline(spec, validation, holdout)),
    }
    measured = evidence(
        spec,
        sample,
        holdout,
        label,
        predictions,
    )
    return HoldoutResult(
        spec,
        facts,
        fit,
        measured,
        holdout,
        label,
        predictions,
    )


def with_reference(trained: TrainedModel, rows: pa.Table, score: Vector) -> TrainedModel:
    """Return the model with the reference profile that the monitor measures drift against.

    Args:
        trained: The model.
        rows: Rows that it was fitted on.
        score: Its scores of rows that the members were not fitted on; shape (m,).
    """
    return replace(trained, reference=describe(rows, trained.signature, score))


def _for_window(spec: ModelSpec, split: Split) -> ModelSpec:
    """Return the spec by which a window is trained: a short one by the linear member alone."""
    window = PartitionRange(split.train.first, split.holdout.last)
    return spec.model_copy(update={"training": spec.training.for_days(len(window))})


def _with_facts(
    fit: RecipeFit, metrics: dict[str, dict[str, float | None]], facts: dict[str, Any]
) -> TrainedModel:
    """Return a recipe's model with deciles, metrics and facts about its training."""
    # Scores of the rows that the members were fitted on are too extreme for deciles.
    edges = np.quantile(fit.unseen_score, np.arange(1, 10) / 10)
    return replace(
        fit.model,
        decile_edges=tuple(edges.tolist()),
        metrics=metrics,
        training={**fit.model.training, **facts, "unseen_nights": _unseen_nights(fit)},
    )


def _unseen_nights(fit: RecipeFit) -> list[dict[str, Any]]:
    """Return how wrong the recipe was on each out-of-fold day; none for rows without a day."""
    # Rows of a test have no partition: they all have the day 0.
    if not fit.scores.day.any() or not has_intervals(fit.model.task):
        return []
    return summarise_nights(fit.scores.day, fit.scores.label, fit.unseen)


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
    label = labels_of(spec, validation)
    threshold = choose_threshold(spec, label, rule_predictions(spec.task, rule, validation))
    return rule_predictions(
        spec.task,
        rule,
        holdout,
        threshold,
    )
