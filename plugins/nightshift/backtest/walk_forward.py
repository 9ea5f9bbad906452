"""Walk-forward backtest: retrain on a fixed schedule, score what follows, measure each month.

Every prediction comes from a model fitted on labels that were mature when it was trained, and from
features of the evening before the predicted day. The rule is measured on the same rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.backtest.comparison import Comparison, NightNoise
from nightshift.backtest.nightly_models import without_slices
from nightshift.contracts.metrics import Task
from nightshift.contracts.partitions import Partition
from nightshift.lake.object_store import ObjectStore
from nightshift.models.predictions import Predictions, joined, with_groups
from nightshift.scoring.level.replayed_levels import ReplayedLevels
from nightshift.training.evaluation import rule_predictions
from nightshift.training.holdout import fit_and_evaluate
from nightshift.training.splits import rows_between, rows_of, split_window
from nightshift.training.training_set import build_training_set, mature_window, read_rows

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.training.training_set import TrainingSet

_ALL_DAYS = 3660
"""A window that no history of ours is longer than."""


@dataclass(frozen=True)
class MonthResult:
    """One month of a backtest.

    Attributes:
        month: First day of the month of the predicted days.
        n_rows: Predictions with a label.
        model: Metrics of the model, by name.
        baseline: Metrics of the rule, by name.
        intervals: Metrics of the model's intervals; of a band the mean over the month's nights.
        noise: What no forecast could avoid in the calibration error, or the bias; None for a month
            of too few nights.
    """

    month: dt.date
    n_rows: int
    model: dict[str, float | None]
    baseline: dict[str, float | None]
    intervals: dict[str, float]
    noise: NightNoise | None


def labelled_rows(
    settings: Settings, spec: ModelSpec, last: Partition, run: RunContext
) -> pa.Table:
    """Return the rows of ``labelled_set``, in total order."""
    training_set = labelled_set(settings, spec, last, run)
    return read_rows(ObjectStore.open(settings), training_set)


def labelled_set(
    settings: Settings, spec: ModelSpec, last: Partition, run: RunContext
) -> TrainingSet:
    """Freeze all published feature rows up to a partition, with their labels once mature.

    The same rows have the same digest.
    """
    training = spec.training.model_copy(update={"window_days": _ALL_DAYS})
    complete = spec.model_copy(update={"training": training})
    # The first partition at which the labels of the last one count as mature.
    mature = last.shift(1 + spec.label.maturity_days)
    return build_training_set(settings, complete, mature, run)


def walk_forward_backtest(
    spec: ModelSpec,
    rows: pa.Table,
    first: Partition,
    last: Partition,
    every_days: int | None,
    progress: Callable[[str], None],
) -> list[MonthResult]:
    """Train, score the partitions until the next training, and measure by predicted month.

    Args:
        spec: The model.
        rows: ``labelled_rows`` that reach back over the first training window.
        first: First partition that is scored.
        last: Last partition that is scored.
        every_days: Days between two trainings; None trains once before each predicted month.
        progress: Called with one line per training.
    """
    scored: list[pa.Table] = []
    predictions: list[Predictions] = []
    start = first
    while start <= last:
        end = _last_of_month(start)
        if every_days is not None:
            end = start.shift(every_days - 1)
        end = min(end, last)
        current = rows_between(rows, start.day, end.day)
        # A model serves from the partition after the one that trained it.
        trained_on = start.shift(-1)
        scored.append(current)
        predictions.append(_train_and_predict(spec, rows, trained_on, current))
        progress(f"trained as of {trained_on}, scored {start}..{end}: {current.num_rows:,} rows")
        start = end.shift(1)
    return _measure_months(spec, scored, joined(predictions))


def _last_of_month(partition: Partition) -> Partition:
    """Return the last partition that predicts a day of the same month."""
    first_day = partition.shift(1).day.replace(day=1)
    # No month has 32 days.
    next_month = (first_day + dt.timedelta(days=32)).replace(day=1)
    return Partition(next_month - dt.timedelta(days=2))


def _train_and_predict(
    spec: ModelSpec, rows: pa.Table, trained_on: Partition, current: pa.Table
) -> Predictions:
    """Train as the run of a partition would, and predict the current rows."""
    window = mature_window(spec, trained_on)
    split = split_window(window, spec.training)
    # The model that serves, not the evaluated one: its last days are the newest mature ones.
    training = fit_and_evaluate(without_slices(spec), rows_of(rows, window), split, "")
    # Each night moves the level by what was mature on it, as scoring does.
    fit_end = split.holdout.last if spec.training.recipe.refit else split.validation.last
    levels = ReplayedLevels(spec, rows, training.served, fit_end.day)
    return levels.with_intervals(current)


def _measure_months(
    spec: ModelSpec, scored: list[pa.Table], predictions: Predictions
) -> list[MonthResult]:
    import pyarrow as pa

    rows = pa.concat_tables(scored)
    metrics = shown_metrics(spec)
    predictions = with_groups(spec, rows, predictions)
    rule = with_groups(spec, rows, rule_predictions(spec.task, spec.scoring.fallback, rows))
    results = []
    for first_day, is_month, comparison in Comparison.of(spec, rows).by_month():
        result = MonthResult(
            month=first_day,
            n_rows=int(is_month.sum()),
            model=comparison.values(predictions.at(is_month), metrics),
            baseline=comparison.values(rule.at(is_month), metrics),
            intervals=comparison.interval_values(predictions.at(is_month)),
            noise=comparison.noise(predictions.at(is_month)),
        )
        results.append(result)
    return results


def shown_metrics(spec: ModelSpec) -> tuple[str, ...]:
    """Return the metrics that a report shows for the task."""
    if spec.task == Task.BINARY:
        return ("roc_auc", "average_precision", "log_loss", "brier", "calibration_error")
    if spec.classes:
        return ("log_loss", "accuracy", "macro_f1", "recall", "brier", "calibration_error")
    if spec.is_ranking:
        return ("ndcg", "precision_at_k", "recall_at_k")
    return ("rmse", "mae", "r2", "bias")
