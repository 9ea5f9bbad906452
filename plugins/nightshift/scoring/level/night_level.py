"""Estimate the level of one partition's scores from the newest mature nights.

One number a night, added to all log-odds of a binary model's probabilities, or to all values of a
regression. Scoring, shadow scoring and the backtest call the same function. Source:
docs/adr/0051-level-of-each-night.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.contracts.partitions import PartitionRange
from nightshift.models.calibration import shift_of_log_odds, weighted_mean
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.models.arrays import Vector
    from nightshift.models.trained_model import TrainedModel

_DIGITS = 9
_MEAN_OBJECTIVES = (None, "regression")
"""Objectives of a regression that estimate a mean; None is the task's own."""


@dataclass(frozen=True)
class MatureNight:
    """One mature night, scored by the version whose level is estimated.

    Attributes:
        day: The partition.
        label: Outcomes that the scored partition knew; shape (n,).
        raw: Raw scores of the version; shape (n,).
        evidence: Digest of the features that were scored, and of the labels.
    """

    day: dt.date
    label: Vector
    raw: Vector
    evidence: str = ""


@dataclass(frozen=True)
class NightLevel:
    """The level of one partition's scores by one version.

    Attributes:
        shift: What is added: to log-odds, or to values in the label's unit.
        estimate: By how much the nights lie above the version's answers, before it was shrunk and
            bounded; None without an estimate.
        n_nights: Nights that it rests on.
        n_rows: Their labelled rows.
        first_night: The oldest of them; None without an estimate.
        last_night: The newest of them; likewise.
        evidence: Digest of these nights; empty without an estimate.
        reason: Why nothing is added, or not all of it; None otherwise.
    """

    shift: float = 0.0
    estimate: float | None = None
    n_nights: int = 0
    n_rows: int = 0
    first_night: dt.date | None = None
    last_night: dt.date | None = None
    evidence: str = ""
    reason: str | None = None

    @property
    def input(self) -> str:
        """Return what a load's manifest records of it, digested; empty if nothing is added."""
        return f"{self.shift!r} {self.evidence}" if self.evidence else ""


NO_LEVEL = NightLevel()
"""Of rows that no model scores, and of models whose level is switched off."""


def without_level(reason: str) -> NightLevel:
    """Return the level 0, for a reason that is recorded."""
    return NightLevel(reason=reason)


def switched_off(spec: ModelSpec) -> str | None:
    """Return why a model's scores have no level of the night; None if they have one."""
    if spec.training.recipe.level.mature_nights == 0:
        return "training.recipe.level.mature_nights is 0"
    if spec.task not in (Task.BINARY, Task.REGRESSION):
        return f"task {spec.task} has no level"
    objective = spec.training.objective
    # The mean error of a median, or of a quantile, says nothing about its level.
    if spec.task is Task.REGRESSION and objective not in _MEAN_OBJECTIVES:
        return f"objective {objective} is no mean"
    return None


def level_nights(spec: ModelSpec, partition: Partition, fit_end: dt.date) -> PartitionRange | None:
    """Return the newest mature nights that a version was not fitted on; None if there are none.

    Args:
        spec: The model.
        partition: The partition that is scored.
        fit_end: The last partition that a fit of the version has seen: about itself and earlier
            ones its answers are too good to be evidence.
    """
    n_nights = spec.training.recipe.level.mature_nights
    return newest_nights(
        spec,
        partition,
        fit_end,
        n_nights,
    )


def newest_nights(
    spec: ModelSpec, partition: Partition, fit_end: dt.date, n_nights: int
) -> PartitionRange | None:
    """Return the newest mature nights after a fit, so many at most; None if there are none.

    The level and the interval take them from here, each with its own number.

    Args:
        spec: The model.
        partition: The partition that is scored.
        fit_end: As for ``level_nights``.
        n_nights: At most.
    """
    last = mature_window(spec, partition).last
    first = last.shift(1 - n_nights)
    if first.day <= fit_end:
        first = last.shift((fit_end - last.day).days + 1)
    return PartitionRange(first, last) if first <= last else None


def estimate_level(
    spec: ModelSpec, model: TrainedModel, mature: Sequence[MatureNight]
) -> NightLevel:
    """Estimate the level of a version's scores; a function of its arguments only.

    Args:
        spec: The model; ``training.recipe.level`` says how strongly the estimate is shrunk, and
            where it ends.
        model: The version.
        mature: Nights that it was not fitted on, in order.
    """
    import numpy as np

    level = spec.training.recipe.level
    if len(mature) < level.minimum_nights:
        needed = f"{level.minimum_nights} needed"
        return without_level(f"{len(mature)} mature night(s) since the version's fit, {needed}")
    labels = [entry.label for entry in mature]
    label = np.concatenate(labels)
    # A handful of rows says more about themselves than about a level.
    if label.size < level.minimum_rows:
        return without_level(f"{label.size} labelled row(s), {level.minimum_rows} needed")
    raw = np.concatenate([entry.raw for entry in mature])
    predicted = model.from_raw(raw)
    # All alike, unless newer nights count more.
    evidence_nights = float(len(mature))
    weight = None
    if level.half_life_nights is not None:
        by_night = _night_weights(mature, level.half_life_nights)
        # Half a night is half the evidence.
        evidence_nights = float(by_night.sum())
        rows_of_night = [entry.label.size for entry in mature]
        weight = np.repeat(by_night, rows_of_night)

    # The mean over rows: a busy night tells more than a quiet one.
    if predicted.probability is not None:
        estimate = shift_of_log_odds(label, predicted.probability, weight)
        bound = level.maximum
    else:
        errors = label - predicted.score
        estimate = weighted_mean(errors, weight)
        bound = level.maximum * float(label.std())
    if not np.isfinite(estimate) or not np.isfinite(bound):
        return without_level("the mature nights give no finite level")

    # Each night is one observation of the day's effect, however many rows it has.
    shrunk = estimate * evidence_nights / (evidence_nights + level.prior_nights)
    # What lies beyond is a broken feed, or a version that a retraining must replace.
    shift = min(max(shrunk, -bound), bound)
    reason = None
    if shift != shrunk:
        reason = f"bounded: {shrunk:.4g} is beyond {bound:.4g}"
    n_rows = int(label.size)
    evidence = sha256()
    for entry in mature:
        line = f"{entry.day} {entry.evidence}\n"
        evidence.update(line.encode())
    return NightLevel(
        shift=_rounded(shift),
        estimate=_rounded(estimate),
        n_nights=len(mature),
        n_rows=n_rows,
        first_night=mature[0].day,
        last_night=mature[-1].day,
        evidence=evidence.hexdigest(),
        reason=reason,
    )


def _night_weights(mature: Sequence[MatureNight], half_life: int) -> Vector:
    """Return what each night counts, shape (nights,).

    Args:
        mature: In order; the newest counts 1.
        half_life: Nights after which one counts half.
    """
    import numpy as np

    newest = mature[-1].day
    days = [(newest - entry.day).days for entry in mature]
    age = np.array(days, dtype=np.float64)
    weights: Vector = 0.5 ** (age / half_life)
    return weights


def _rounded(value: float) -> float:
    # The last bits of a mean depend on the machine.
    return float(f"{value:.{_DIGITS}g}")
