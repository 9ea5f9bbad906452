"""Split by time: train | gap | validation | gap | hold-out; the backtest rolls it back.

A library's own error about an empty or one-sided sample names no day, and a retry meets the same
rows. So ``check_window`` checks the parts of a split before the first tree is grown.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.models.group_ranks import count_groups
from nightshift.models.predictions import group_codes
from nightshift.models.signature import numbers

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.training_spec import Training


class WindowError(NightshiftError):
    """A part of the training window has no labelled row, or a single label value."""

    code = "NS-TRAIN-015"


@dataclass(frozen=True)
class Split:
    """Three ranges of partitions in order of time; the gap days between them belong to none.

    Attributes:
        train: The trees are fitted on these days.
        validation: Early stopping, calibration and threshold.
        holdout: No fit sees these days.
    """

    train: PartitionRange
    validation: PartitionRange
    holdout: PartitionRange

    def __str__(self) -> str:
        """Return the three ranges."""
        return f"train {self.train} | validation {self.validation} | hold-out {self.holdout}"


def split_window(window: PartitionRange, training: Training) -> Split:
    """Split the days of a training set; its hold-out ends on the window's last day.

    The window has at least ``training.first_days`` days. The spec guarantees that then at least one
    day is left to train on. A short window is split as ``Training.for_days`` says.
    """
    training = training.for_days(len(window))
    # The parts are laid out backwards from the last day: the latest rows are the hold-out.
    holdout = _days_until(window.last, training.holdout_days)
    gap = -1 - training.gap_days
    validation = _days_until(holdout.first.shift(gap), training.validation_days)
    train = PartitionRange(window.first, validation.first.shift(gap))
    return Split(train, validation, holdout)


def backtest_folds(window: PartitionRange, training: Training) -> list[Split]:
    """Return earlier splits, the latest first, without those that are too short to train on.

    No hold-out day is in two folds, and none is in the hold-out of the final split.
    """
    folds = []
    for number in range(1, training.backtest_folds + 1):
        last = window.last.shift(-number * training.holdout_days)
        n_days = (last.day - window.first.day).days + 1
        # A shorter fold would measure models that would never be trained.
        if n_days >= training.minimum_days:
            folds.append(split_window(PartitionRange(window.first, last), training))
    return folds


def check_window(spec: ModelSpec, rows: pa.Table, split: Split) -> None:
    """Refuse a split with an empty part, or with one label value where two are needed.

    A hold-out of one class is no error here: the model can be trained, and the promotion gate
    refuses it for lack of evidence.

    Raises:
        WindowError: A part has no labelled row (015), or a single label value (016).
    """
    parts = {
        "train": split.train,
        "validation": split.validation,
        "hold-out": split.holdout,
    }
    # A regression can be stopped on validation rows of one value. A class that the validation rows
    # lack leaves the calibration and the threshold undefined.
    needs_two = {"train", "validation"} if spec.task.has_probability else {"train"}
    for name, days in parts.items():
        label = numbers(rows_of(rows, days), spec.label.column)
        if label.size == 0:
            raise WindowError(
                f"The {name} days of {spec.name} have no labelled row.",
                expected=f"at least one row with {spec.label.column!r} in {days}",
                got="none",
                todo=f"Look for the labels of these days in marts.{spec.label.relation}; deliver "
                "and build what is missing, then train again.",
            )
        if name in needs_two and spec.is_ranking:
            _refuse_unordered(spec, rows_of(rows, days), name)
        if name in needs_two and label.min() == label.max():
            raise WindowError(
                f"The {name} days of {spec.name} hold a single value of label "
                f"{spec.label.column!r}.",
                expected=f"at least two different values in {days}",
                got=f"{label.size:,} row(s) with the same label",
                todo=f"Is marts.{spec.label.relation} right for these days? A rare event needs "
                "longer parts: training.validation_days, training.window_days.",
                code="NS-TRAIN-016",
            )


def _refuse_unordered(spec: ModelSpec, rows: pa.Table, name: str) -> None:
    """Refuse rows of a ranking of which no group has an order to learn.

    Raises:
        WindowError: There is none (016).
    """
    label = numbers(rows, spec.label.column)
    counts = count_groups(label, group_codes(spec, rows))
    if counts["n_judged"]:
        return
    n_groups, n_single = counts["n_groups"], counts["n_single"]
    raise WindowError(
        f"No group of the {name} days of {spec.name} has an order to learn.",
        expected="groups with rows of different relevance",
        got=f"{n_groups} group(s), {n_single} of one row,"
        f" {counts['n_irrelevant']} without a relevant row",
        todo="Deliver also what was not chosen, with the label 0, to"
        f" marts.{spec.label.relation}; or declare another `group`.",
        code="NS-TRAIN-016",
    )


def is_trainable(spec: ModelSpec, rows: pa.Table, split: Split) -> bool:
    """Return whether ``check_window`` accepts a split."""
    try:
        check_window(spec, rows, split)
    except WindowError:
        return False
    return True


def rows_of(rows: pa.Table, days: PartitionRange) -> pa.Table:
    """Return the rows whose ``partition_date`` lies in the range, in the given order."""
    return rows_between(rows, days.first.day, days.last.day)


def rows_between(rows: pa.Table, first: dt.date, last: dt.date) -> pa.Table:
    """Return the rows from ``first`` to ``last``, both included, in the given order."""
    import numpy as np
    import pyarrow as pa

    days = rows.column("partition_date").cast(pa.date32()).to_numpy()
    first_day, last_day = np.datetime64(first), np.datetime64(last)
    # A slice of rows that are sorted by day copies nothing.
    if bool(np.all(days[1:] >= days[:-1])):
        start = np.searchsorted(days, first_day)
        stop = np.searchsorted(days, last_day, side="right")
        return rows.slice(start, max(stop - start, 0))
    is_within = (days >= first_day) & (days <= last_day)
    return rows.filter(pa.array(is_within))


def evenly_spaced(rows: pa.Table, maximum: int) -> pa.Table:
    """Return at most ``maximum`` rows, evenly spaced, in the given order."""
    import numpy as np

    if rows.num_rows <= maximum:  # also a day without rows
        return rows
    positions = np.linspace(0, rows.num_rows - 1, maximum).astype(np.int64)
    return rows.take(np.unique(positions))


def _days_until(last: Partition, n_days: int) -> PartitionRange:
    return PartitionRange(last.shift(1 - n_days), last)
