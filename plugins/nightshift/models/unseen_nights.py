"""How wrong a version was, night by night, on days that its members were not fitted on.

A training writes a summary into ``model.json``: a version that was fitted yesterday has no other
night to tell how sure it is. Source: docs/adr/0054-intervals.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.models.calibration import shift_of_log_odds

if TYPE_CHECKING:
    from nightshift.models.arrays import Integers, Vector
    from nightshift.models.predictions import Predictions
    from nightshift.models.trained_model import TrainedModel

N_GROUPS = 5
"""Groups of equally many rows, by rising prediction, that a night is summarised in."""
N_QUANTILES = 20
"""Quantiles of the error in each group."""
MINIMUM_GROUP_ROWS = 20
"""Fewer rows have no quantiles of their own: the night has fewer groups."""
_DIGITS = 5


@dataclass(frozen=True)
class NightErrors:
    """How wrong the answers of one night were.

    Attributes:
        day: The partition.
        value: Predicted values of a regression, as a reader saw them; shape (n,).
        error: Outcomes minus these values, or of a binary model the one shift of the log-odds with
            which the mean probability would have been the night's rate; shape (n,).
    """

    day: dt.date
    value: Vector
    error: Vector


def errors_of(day: dt.date, label: Vector, predicted: Predictions) -> NightErrors:
    """Return how wrong predictions of one night were.

    Args:
        day: The partition.
        label: Outcomes, shape (n,), at least one.
        predicted: As they were published; of the same rows.
    """
    import numpy as np

    # Rows of a binary model have no error of their own: what a night lacks is one number.
    if predicted.probability is not None:
        shift = shift_of_log_odds(label, predicted.probability)
        return NightErrors(day, np.zeros(1), np.array([shift]))
    return NightErrors(day, predicted.score, label - predicted.score)


def summarise_nights(days: Integers, label: Vector, predicted: Predictions) -> list[dict[str, Any]]:
    """Return a summary of each night as plain numbers, in order.

    Args:
        days: Partition of each row, in days since 1970-01-01; shape (n,).
        label: Shape (n,).
        predicted: By members that were not fitted on these days.
    """
    import numpy as np

    summaries = []
    for number in np.unique(days):
        is_night = days == number
        day = dt.date(1970, 1, 1) + dt.timedelta(days=int(number))
        errors = errors_of(day, label[is_night], predicted.at(is_night))
        value, error = _grouped(errors)
        summaries.append({"day": day.isoformat(), "value": value, "error": error})
    return summaries


def _grouped(errors: NightErrors) -> tuple[list[float], list[list[float]]]:
    """Return the mean value, and quantiles of the error, of each group of rows."""
    import numpy as np

    n_groups = min(N_GROUPS, max(1, errors.error.size // MINIMUM_GROUP_ROWS))
    # A stable order, so that equal values fall into the same groups on every machine.
    order = np.argsort(errors.value, kind="stable")
    shares = (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES
    values, quantiles = [], []
    for rows in np.array_split(order, n_groups):
        values.append(_rounded(float(errors.value[rows].mean())))
        error = errors.error[rows]
        # One number is all that it has: of a binary model, and of a night of one row.
        points = np.quantile(error, shares, method="hazen") if error.size > 1 else error
        quantiles.append([_rounded(float(point)) for point in points])
    return values, quantiles


def unseen_nights(model: TrainedModel) -> list[NightErrors]:
    """Return the nights that a version's training summarised, in order.

    Versions that were trained before there were summaries have none.
    """
    import numpy as np

    summaries = []
    for summary in model.training.get("unseen_nights", []):
        groups: Sequence[Sequence[float]] = summary["error"]
        # Each group stands for equally many rows, and each of its quantiles for as many of them.
        value = np.concatenate(
            [
                np.full(len(group), mean)
                for mean, group in zip(summary["value"], groups, strict=True)
            ]
        )
        error = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups])
        summaries.append(NightErrors(dt.date.fromisoformat(summary["day"]), value, error))
    return summaries


def has_intervals(task: Task) -> bool:
    """Return whether predictions of a task can say how sure they are."""
    return task in (Task.BINARY, Task.REGRESSION)


def _rounded(value: float) -> float:
    # The last bits of a mean depend on the machine, and must not reach the model file.
    return float(f"{value:.{_DIGITS}g}")
