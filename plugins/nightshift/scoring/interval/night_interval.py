"""The interval of one partition's predictions, and the columns that it gives each row.

A few numbers a night, recorded with its load: the same function makes the columns when a night is
scored, when it is scored again, and when a prediction is replayed. Source:
docs/adr/0054-intervals.md.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightshift.contracts.yaml_document import Frozen
from nightshift.models.calibration import move_log_odds

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.models.arrays import Integers, Matrix, Vector
    from nightshift.models.predictions import Predictions

COLUMNS = ("median", "interval_low", "interval_high")
"""Columns of the predictions table, in the order of ``Predictions.answers``."""


class NightInterval(Frozen):
    """How far outcomes lie from one partition's predictions.

    Attributes:
        level: Share of the outcomes within, or of nights whose rate lies within.
        value: Predicted values, rising, at which the offsets are given; of a binary model one 0.
        low: What is added to a value for the lower end, or to the log-odds of a probability.
        median: What is added for the median; empty for a binary model, which has none.
        high: What is added for the upper end.
        quantiles: The shares below low, median and high that were asked of the nights, after what
            the last nights missed; of a binary model low and high.
        n_nights: Nights that it rests on.
        n_unseen: Of these, out-of-fold nights of the version's training.
        first_night: The oldest of them.
        last_night: The newest of them.
        read_from: The oldest night that was read from the warehouse; None if none was.
        evidence: Digest of those that were.
    """

    level: float
    value: tuple[float, ...]
    low: tuple[float, ...]
    median: tuple[float, ...] = ()
    high: tuple[float, ...]
    quantiles: tuple[float, ...]
    n_nights: int
    n_unseen: int
    first_night: dt.date
    last_night: dt.date
    read_from: dt.date | None = None
    evidence: str = ""

    @property
    def input(self) -> str:
        """Return what a load's manifest records of it, digested."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def answers(self, predicted: Predictions) -> Matrix:
        """Return median, lower and upper end of each row, shape (n, 3); no median is NaN."""
        import numpy as np

        if predicted.probability is None:
            value = predicted.score
            ends = [self._moved(value, offsets) for offsets in (self.median, self.low, self.high)]
            return np.column_stack(ends)
        probability = predicted.probability
        # A band of one number: by how much the whole night may lie lower or higher.
        ends = [move_log_odds(probability, offsets[0]) for offsets in (self.low, self.high)]
        return np.column_stack([np.full(probability.size, np.nan), *ends])

    def _moved(self, value: Vector, offsets: Sequence[float]) -> Vector:
        """Return values with the offset of each, shape (n,).

        Args:
            value: Predicted values, shape (n,).
            offsets: At each of ``self.value``.
        """
        import numpy as np

        # Beyond the outer values the nearest offset holds.
        moved: Vector = value + np.interp(value, self.value, offsets)
        return moved


def interval_columns(
    intervals: Sequence[NightInterval | None], position: Integers, scored: pa.Table
) -> dict[str, pa.Array]:
    """Return the columns of scored rows; null on nights without an interval, and for no median.

    Args:
        intervals: Of some nights.
        position: Which of them each row has; shape (n,).
        scored: ``score`` and ``probability`` of the rows.
    """
    import numpy as np
    import pyarrow as pa

    from nightshift.models.predictions import Predictions

    score = scored.column("score").to_numpy()
    probability = None
    # No column of a batch is partially null: a batch has rows of one task.
    if scored.column("probability").null_count == 0:
        probability = scored.column("probability").to_numpy()
    predicted = Predictions(score, probability)

    answers = np.full((scored.num_rows, len(COLUMNS)), np.nan)
    for number, interval in enumerate(intervals):
        is_night = position == number
        if interval is not None and is_night.any():
            answers[is_night] = interval.answers(predicted.at(is_night))
    # NaN is a value in a warehouse; a missing one is null.
    return {
        name: pa.array(np.ascontiguousarray(column), mask=np.isnan(column))
        for name, column in zip(COLUMNS, answers.T, strict=True)
    }
