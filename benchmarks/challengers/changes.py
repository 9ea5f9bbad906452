"""Changes of a champion's answers, of which most kinds of challenger are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from benchmarks.challengers.world import LATE, N_HISTORY

from nightshift.models.calibration import log_odds_of, sigmoid
from nightshift.models.signature import numbers

if TYPE_CHECKING:
    import numpy.typing as npt
    from benchmarks.challengers.world import Change, Doubles, World

    Mask = Callable[[pa.Table], npt.NDArray[np.bool_]]


def is_carrier(rows: pa.Table, carrier: str) -> npt.NDArray[np.bool_]:
    """Return which rows are of a carrier."""
    return np.asarray(rows["carrier"].to_pylist()) == carrier


def is_history(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of days whose outcome was known when the challenger was made."""
    return numbers(rows, "day") < N_HISTORY


def is_weekend(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of a Saturday or Sunday; the first day is a Wednesday."""
    return (numbers(rows, "day") + 2) % 7 >= 5


def is_far(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of the furthest tenth, which is no declared slice."""
    return numbers(rows, "distance") > 1.28


def is_night_after(n: int) -> Callable[[pa.Table], npt.NDArray[np.bool_]]:
    """Return which rows are later than the n-th night of the stream."""
    return lambda rows: numbers(rows, "day") >= N_HISTORY + LATE + n


def has_champion(world: World, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows the champion has scored: nine of ten."""
    return world.dice(rows, 15) < 1.28


def is_number_night(_: World, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of nights that a model could score which fails on the rare carrier.

    A score that is no number stops the shadow's scoring of the night, as the product does it.
    """
    failed = np.unique(numbers(rows, "day")[is_carrier(rows, "D")])
    return ~np.isin(numbers(rows, "day"), failed)


def better(world: World, strength: float = 0.3) -> Change:
    """Return the change of a model that knows a new feature."""
    return lambda rows, logit: logit + world.signal(rows, strength)


def noisy(world: World, spread: float, seed: int = 12) -> Change:
    """Return the change of a model with noise in its log-odds."""
    return lambda rows, logit: logit + spread * world.dice(rows, seed)


def where(mask: Callable[[pa.Table], npt.NDArray[np.bool_]], yes: Change, no: Change) -> Change:
    """Return a change on some rows, and another one on all others."""
    return lambda rows, logit: np.where(mask(rows), yes(rows, logit), no(rows, logit))


def then(first: Change, second: Change) -> Change:
    """Return both changes, one after the other."""
    return lambda rows, logit: second(rows, first(rows, logit))


def same(_: pa.Table, logit: Doubles) -> Doubles:
    """Change nothing."""
    return logit


def raised(rows: pa.Table, logit: Doubles) -> Doubles:
    """Return log-odds of probabilities that are 0.10 higher."""
    del rows
    return log_odds_of(np.clip(sigmoid(logit) + 0.1, 0.001, 0.999))


def not_a_number(rows: pa.Table, logit: Doubles) -> Doubles:
    """Return no number."""
    del rows
    return np.full(logit.shape, np.nan)


def random_scores(world: World) -> Change:
    """Return the change that makes scores mean nothing."""
    return lambda rows, logit: -0.8 + world.dice(rows, 13) + 0 * logit


def memorised(world: World) -> Change:
    """Return a model that knows the outcome of each parcel of its history by its identifier."""

    def known(rows: pa.Table, logit: Doubles) -> Doubles:
        return logit + np.where(numbers(rows, "is_late") > 0, 0.3, -0.3)

    return where(is_history, known, noisy(world, 0.1, 16))


def knew_the_day(world: World) -> Change:
    """Return a model that knew what the parcels of each day shared, as tomorrow's weather."""
    late, day = numbers(world.rows, "is_late"), numbers(world.rows, "day").astype(np.int64)
    rate = np.bincount(day, late) / np.bincount(day)
    effect = log_odds_of(rate) - log_odds_of(np.array([late.mean()]))
    drawn = np.random.default_rng([world.number, 17]).permutation(effect)
    known = np.where(np.arange(effect.size) < N_HISTORY, effect, drawn)
    return lambda rows, logit: logit + known[numbers(rows, "day").astype(np.int64)]


def leaked(world: World, strength: float) -> Change:
    """Return a feature that knew the outcome by a later clock, and knows nothing tonight."""

    def blind(rows: pa.Table, logit: Doubles) -> Doubles:
        feature = strength * 0.3 + world.dice(rows, 14)
        return logit + strength * feature - strength**2 / 2

    return where(is_history, better(world, strength), blind)


def one_night(world: World) -> Change:
    """Return a model that is as good, and knows the outcome of one night."""
    is_lucky, is_over = is_night_after(9), is_night_after(10)
    known = better(world, 3.0)
    return where(lambda rows: is_lucky(rows) & ~is_over(rows), known, noisy(world, 0.05))


def swapped_levels(rows: pa.Table, logit: Doubles) -> Doubles:
    """Return log-odds whose carriers A and B have each other's level."""
    return logit + 0.9 * is_carrier(rows, "A") - 0.9 * is_carrier(rows, "B")
