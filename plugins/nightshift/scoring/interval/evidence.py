"""The nights that an interval is estimated from, with the answers that each was given."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition
from nightshift.models.unseen_nights import NightErrors, errors_of, has_intervals, unseen_nights
from nightshift.scoring.interval.estimate import NO_INTERVAL, IntervalEstimate, estimate_interval
from nightshift.scoring.level.night_level import (
    estimate_level,
    level_nights,
    newest_nights,
    switched_off,
)
from nightshift.training.training_set import mature_window

if TYPE_CHECKING:
    import datetime as dt

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.models.trained_model import TrainedModel
    from nightshift.scoring.level.night_level import MatureNight


def wants_interval(spec: ModelSpec) -> bool:
    """Return whether the predictions of a model say how sure they are."""
    return spec.scoring.interval is not None and has_intervals(spec.task)


def interval_nights(
    spec: ModelSpec, partition: Partition, fit_end: dt.date
) -> PartitionRange | None:
    """Return the newest mature nights that an interval reads; None if there are none.

    Those of the level before the first of them count too: the answers of a night have its level.

    Args:
        spec: The model; it has ``scoring.interval``.
        partition: The partition that is scored.
        fit_end: As for ``level_nights``.
    """
    declared = spec.scoring.interval
    if declared is None:
        return None
    n_nights = declared.mature_nights
    if not switched_off(spec):
        n_nights += spec.training.recipe.level.mature_nights
    return newest_nights(spec, partition, fit_end, n_nights)


def find_interval(
    spec: ModelSpec, model: TrainedModel, fit_end: dt.date, mature: Sequence[MatureNight]
) -> IntervalEstimate:
    """Estimate the interval of a partition; a function of its arguments only.

    Args:
        spec: The model.
        model: The version.
        fit_end: The last partition that a fit of it has seen.
        mature: The nights of ``interval_nights``, in order.
    """
    if not wants_interval(spec):
        return NO_INTERVAL
    unseen = unseen_nights(model)
    history = [*unseen, *_with_levels(spec, model, fit_end, mature)]

    def last_known(day: dt.date) -> dt.date:
        return mature_window(spec, Partition(day)).last.day

    estimate = estimate_interval(spec, history, last_known)
    if estimate.interval is None:
        return estimate
    evidence = sha256()
    for entry in mature:
        line = f"{entry.day} {entry.evidence}\n"
        evidence.update(line.encode())
    newest = {entry.day for entry in history[-estimate.interval.n_nights :]}
    facts = {
        "n_unseen": sum(entry.day in newest for entry in unseen),
        "read_from": mature[0].day if mature else None,
        "evidence": evidence.hexdigest() if mature else "",
    }
    return IntervalEstimate(estimate.interval.model_copy(update=facts))


def _with_levels(
    spec: ModelSpec, model: TrainedModel, fit_end: dt.date, mature: Sequence[MatureNight]
) -> list[NightErrors]:
    """Return how wrong the version was on each night, with the level that the night had.

    Its raw scores are read once; the level of a night is added as if it had been scored then.
    """
    history = []
    for entry in mature:
        level = level_of(spec, model, fit_end, entry.day, mature)
        predicted = model.from_raw(entry.raw, level)
        history.append(errors_of(entry.day, entry.label, predicted))
    return history


def level_of(
    spec: ModelSpec,
    model: TrainedModel,
    fit_end: dt.date,
    day: dt.date,
    mature: Sequence[MatureNight],
) -> float:
    """Return the level with which a night was scored, by those of the nights that it knew.

    Args:
        spec: The model.
        model: The version.
        fit_end: As for ``level_nights``.
        day: The night.
        mature: Nights that may be among them.
    """
    if switched_off(spec):
        return 0.0
    window = level_nights(spec, Partition(day), fit_end)
    if window is None:
        return 0.0
    known = [entry for entry in mature if window.first.day <= entry.day <= window.last.day]
    return estimate_level(spec, model, known).shift
