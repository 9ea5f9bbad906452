"""Backtest a spec on a year: retrain on a fixed rhythm, score what follows, and measure each month beside the rule.

Every prediction comes from a model fitted on labels that were mature on its night, and from
features of the evening before.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.backtest.comparison import joined
from nightshift.contracts.metrics import Task
from nightshift.contracts.partitions import Partition
from nightshift.lake.object_store import ObjectStore
from nightshift.models.predictions import Predictions
from nightshift.models.signature import numbers
from nightshift.training.evaluation import measure, rule_predictions
from nightshift.training.model_fit import fit_model
from nightshift.training.splits import rows_between, rows_of, split_window
from nightshift.training.training_set import build_training_set, mature_window, read_rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.run import RunContext
    from nightshift.settings import Settings
    from nightshift.training.training_set import TrainingSet


@dataclass(frozen=True)
class MonthResult:
    """One month of a backtest.

    Attributes:
        month: First day of the month of the predicted days.
        n_rows: Predictions with a label.
        model: Metrics of the model, by name.
        baseline: Metrics of the rule, by name.
    """

    month: dt.date
    n_rows: int
    model: dict[str, float | None]
    baseline: dict[str, float | None]


def labelled_rows(
    settings: Settings, spec: ModelSpec, last: Partition, run: RunContext
) -> pa.Table:
    """Return all published feature rows up to a partition with their labels as known two nights later, in total order."""
    return read_rows(ObjectStore.open(settings), labelled_set(settings, spec, last, run))


def labelled_set(
    settings: Settings, spec: ModelSpec, last: Partition, run: RunContext
) -> TrainingSet:
    """Freeze the rows of ``labelled_rows``; the same rows have the same digest."""
    everything = spec.model_copy(
        update={"training": spec.training.model_copy(update={"window_days": 3660})}
    )
    return build_training_set(settings, everything, last.shift(1 + spec.label.maturity_days), run)


def backtest(
    spec: ModelSpec,
    rows: pa.Table,
    first: Partition,
    last: Partition,
    every_days: int | None,
    progress: Callable[[str], None],
) -> list[MonthResult]:
    """Train on a rhythm, score the nights until the next training, and measure by month of the predicted day.

    Args:
        spec: The model.
        rows: ``labelled_rows`` that reach back over the first training window.
        first: First night that is scored.
        last: Last night that is scored.
        every_days: Nights between two trainings; None trains once before each month of predicted
            days.
        progress: Called with one line per training.
    """
    scored: list[tuple[pa.Table, Predictions]] = []
    night = first
    while night <= last:
        until = min(
            _last_of_month(night) if every_days is None else night.shift(every_days - 1), last
        )
        scored.append(_score(spec, rows, night, until))
        progress(
            f"trained on the evening of {night.shift(-1)}, scored {night}..{until}: {scored[-1][0].num_rows:,} rows"
        )
        night = until.shift(1)
    return list(_by_month(spec, scored))


def _last_of_month(night: Partition) -> Partition:
    """Return the last night that predicts a day of the same month."""
    first_day = night.shift(1).day.replace(day=1)
    next_month = (first_day + dt.timedelta(days=32)).replace(day=1)
    return Partition(next_month - dt.timedelta(days=2))


def _score(
    spec: ModelSpec, rows: pa.Table, first: Partition, last: Partition
) -> tuple[pa.Table, Predictions]:
    """Train on the night before ``first`` and predict the nights from ``first`` to ``last``."""
    split = split_window(mature_window(spec, first.shift(-1)), spec.training)
    model = fit_model(spec, rows_of(rows, split.train), rows_of(rows, split.validation))
    current = rows_between(rows, first.day, last.day)
    return current, model.predictions(current)


def _by_month(spec: ModelSpec, scored: list[tuple[pa.Table, Predictions]]) -> Iterator[MonthResult]:
    import numpy as np
    import pyarrow as pa

    rows = pa.concat_tables([part for part, _ in scored])
    months = np.array(
        [
            (day + dt.timedelta(days=1)).replace(day=1)
            for day in rows.column("partition_date").to_pylist()
        ]
    )
    predicted = joined([predictions for _, predictions in scored])
    rule = rule_predictions(spec.task, spec.scoring.fallback, rows)
    label = numbers(rows, spec.label.column)
    for month in np.unique(months):
        at: npt.NDArray[np.bool_] = months == month
        yield MonthResult(
            month,
            int(at.sum()),
            measure(spec.task, label[at], predicted.at(at)),
            measure(spec.task, label[at], rule.at(at)),
        )


def shown_metrics(spec: ModelSpec) -> tuple[str, ...]:
    """Return the metrics that a report shows for the task."""
    return (
        ("roc_auc", "average_precision", "log_loss", "brier")
        if spec.task == Task.BINARY
        else ("rmse", "mae", "r2")
    )
