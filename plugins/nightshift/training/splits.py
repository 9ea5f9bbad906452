"""Split by time: train | gap | validation | gap | hold-out, and the same shape rolled back for the backtest."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.training_spec import Training


@dataclass(frozen=True)
class Split:
    """Three ranges of partitions in order of time; the days between them belong to none.

    Attributes:
        train: The trees are fitted here.
        validation: Early stopping, calibration and threshold.
        holdout: No fit sees it.
    """

    train: PartitionRange
    validation: PartitionRange
    holdout: PartitionRange

    def __str__(self) -> str:
        """Return the three ranges."""
        return f"train {self.train} | validation {self.validation} | hold-out {self.holdout}"


def split_window(window: PartitionRange, training: Training) -> Split:
    """Split the days of a training set; its hold-out ends on the window's last day.

    The window has at least ``training.minimum_days`` days, of which the spec guarantees that one is
    left to train on.
    """
    holdout = _ending(window.last, training.holdout_days)
    validation = _ending(holdout.first.shift(-1 - training.gap_days), training.validation_days)
    return Split(
        PartitionRange(window.first, validation.first.shift(-1 - training.gap_days)),
        validation,
        holdout,
    )


def backtest_folds(window: PartitionRange, training: Training) -> list[Split]:
    """Return earlier splits, the latest first, each a hold-out further back; folds with fewer than ``minimum_days`` days are left out.

    No hold-out day is in two folds, and none is in the hold-out of the final split.
    """
    ends = [
        window.last.shift(-fold * training.holdout_days)
        for fold in range(1, training.backtest_folds + 1)
    ]
    long_enough = [
        end for end in ends if (end.day - window.first.day).days + 1 >= training.minimum_days
    ]
    return [split_window(PartitionRange(window.first, end), training) for end in long_enough]


def rows_of(rows: pa.Table, days: PartitionRange) -> pa.Table:
    """Return the rows whose ``partition_date`` lies in the range, in the given order."""
    return rows_between(rows, days.first.day, days.last.day)


def rows_between(rows: pa.Table, first: dt.date, last: dt.date) -> pa.Table:
    """Return the rows from ``first`` to ``last``, both included, in the given order; rows that are sorted by day are not copied."""
    import numpy as np
    import pyarrow as pa

    days = rows.column("partition_date").cast(pa.date32()).cast(pa.int32()).to_numpy()
    ends = [(day - dt.date(1970, 1, 1)).days for day in (first, last)]
    if bool(np.all(days[1:] >= days[:-1])):
        start, stop = np.searchsorted(days, ends[0]), np.searchsorted(days, ends[1], side="right")
        return rows.slice(start, max(stop - start, 0))
    return rows.filter(pa.array((days >= ends[0]) & (days <= ends[1])))


def _ending(last: Partition, n_days: int) -> PartitionRange:
    return PartitionRange(last.shift(1 - n_days), last)
