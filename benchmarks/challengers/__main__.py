"""Which of some thirty kinds of challenger the promotion gate lets serve, each in many worlds.

    PYTHONPATH=plugins .venv/bin/python -m benchmarks.challengers [--worlds 20] [--nights 60]
    [--kinds PART-OF-A-NAME,...] [--json FILE]

A world has 46 days of parcels, a champion fitted on them, and nights that nobody has seen. Each
kind of challenger meets the gate on its hold-out; if it is not refused it scores in the shadow, and
the gate decides about it on every night on which the product would (``nightly_decision.is_due``),
until it serves, is refused, or the nights are over. All checks of the gate that need no file and no
warehouse are the product's: without ``provenance``, ``point_in_time`` and ``feature_agreement``,
which refuse challengers by their files and their view (``benchmarks.leaking_views``).

Wrong challengers must never serve. Equal ones must not be called better. Better ones must be proved
better: their champions are not refreshed for their age.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from benchmarks.result import Limited, Result

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.training_spec import Linear
from nightshift.models.calibration import log_odds_of, sigmoid
from nightshift.models.predictions import Predictions
from nightshift.models.signature import numbers
from nightshift.registry.checks import run_checks
from nightshift.registry.model_versions import ModelVersion
from nightshift.registry.promotion_context import PromotionContext
from nightshift.registry.promotion_gate import CHECKS, SERVING_VERDICTS, conclude
from nightshift.registry.streams.nightly_decision import is_due
from nightshift.registry.streams.nights import RECENT_NIGHTS, StreamEvidence
from nightshift.registry.streams.paired_rows import row_losses
from nightshift.training.baselines import Baselines
from nightshift.training.model_fit import fit_model
from nightshift.training.splits import rows_between, rows_of, split_window
from nightshift.training.statistics.sequential_test import sequential_result
from nightshift.training.training_set import TrainingSet

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.models.trained_model import TrainedModel
    from nightshift.registry.champions import ChampionStatus

    Doubles = npt.NDArray[np.float64]
    Change = Callable[[pa.Table, Doubles], Doubles]
    Relabel = Callable[[Doubles, np.random.Generator], Doubles]
    Expected = Literal["wrong", "equal", "better"]

FIRST_DAY, N_HISTORY, ROWS_A_DAY = dt.date(2020, 1, 1), 44, 300
ON = Partition(FIRST_DAY).shift(45)
"""The partition whose night trains: the labels of the 44 days are mature."""
LATE = 2
"""Nights until the outcome of a scored one is known."""
RARE_EVERY = 6
"""Nights from one with parcels of the rare carrier to the next one."""
WITHOUT_FILES = ("provenance", "point_in_time", "feature_agreement")
KEPT = {name: check for name, check in CHECKS.items() if name not in WITHOUT_FILES}
SPEC = ModelSpec.model_validate(
    {
        "name": "parcel_late",
        "description": "Will this parcel be late?",
        "task": "binary",
        "owner": "parcels",
        "runbook": "docs/runbooks/README.md",
        "deadline": "04:00",
        "entity": {"name": "parcel", "key": "parcel_id"},
        "event_timestamp": "event_timestamp",
        "feature_view": "parcel",
        "features": {
            "numeric": ["wind", "weight", "distance"],
            "categorical": [{"name": "carrier", "minimum_rows": 1}],
        },
        "label": {"relation": "labels", "column": "is_late", "maturity_days": 1},
        "training": {
            "schedule": "nightly",
            "window_days": N_HISTORY,
            "minimum_days": 30,
            "validation_days": 8,
            "holdout_days": 10,
            "backtest_folds": 0,
            "num_boost_round": 60,
            "early_stopping_rounds": 20,
            "params": {"num_leaves": 7, "min_data_in_leaf": 50, "learning_rate": 0.15},
        },
        "promotion": {"metric": "roc_auc", "slices": [{"column": "carrier"}]},
        "scoring": {"fallback": {"feature": "late_rate_7d", "default": 0.3}},
        "monitoring": {
            "metric": "log_loss",
            "maximum_metric_loss": 0.1,
            "windows": {"n": 2, "m": 3},
        },
    }
)


PROOF_ONLY = SPEC.model_copy(
    update={"promotion": SPEC.promotion.model_copy(update={"stale_after_days": None})}
)
"""A champion of any age stays until a better one is proved."""


class Altered:
    """A model whose answers are changed; all else, its trees among them, is the model's own.

    Args:
        model: The model.
        change: Returns other log-odds of some rows.
        rows: Rows that give the edges of its deciles.
    """

    def __init__(self, model: TrainedModel, change: Change, rows: pa.Table) -> None:
        self._model = model
        self._change = change
        score = self.predictions(rows).score
        known = score[np.isfinite(score)]
        self.decile_edges = np.quantile(known, np.arange(1, 10) / 10)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the model has
        return getattr(self._model, name)

    def predictions(self, rows: pa.Table) -> Predictions:
        """Return the changed predictions."""
        own = self._model.predictions(rows)
        assert own.probability is not None
        probability = sigmoid(self._change(rows, log_odds_of(own.probability)))
        return Predictions(probability, probability, own.threshold)

    def deciles(self, score: Doubles) -> npt.NDArray[np.int64]:
        """Return the decile of each score; shape (n,)."""
        return np.searchsorted(self.decile_edges, score, side="right").astype(np.int64) + 1


@dataclass
class World:
    """Parcels of some days, and the champion that was fitted on the first of them.

    Attributes:
        number: Seed.
        n_nights: Nights that the champion serves.
    """

    number: int
    n_nights: int
    baselines: dict[object, Baselines] = field(default_factory=dict)

    @cached_property
    def window(self) -> PartitionRange:
        """Return the days of the training set."""
        return PartitionRange(Partition(FIRST_DAY), Partition(FIRST_DAY).shift(N_HISTORY - 1))

    @cached_property
    def rows(self) -> pa.Table:
        """Return the rows of all days, in their order."""
        return make_rows(self.number, 46 + self.n_nights)

    @cached_property
    def history(self) -> pa.Table:
        """Return the rows of the training set."""
        return rows_of(self.rows, self.window)

    @cached_property
    def champion(self) -> TrainedModel:
        """Return the champion."""
        return self.fit(num_leaves=5)

    def fit(self, rows: pa.Table | None = None, *, seed: int = 1, **params: float) -> TrainedModel:
        """Return a model as the pipeline fits it, on these rows or others."""
        rows = self.history if rows is None else rows
        changed = {"seed": seed, "params": {**SPEC.training.params, **params}}
        spec = SPEC.model_copy(update={"training": SPEC.training.model_copy(update=changed)})
        split = split_window(self.window, SPEC.training)
        validation = rows_of(rows, split.validation)
        model = fit_model(spec, rows_of(rows, split.train), validation)
        edges = np.quantile(model.predictions(validation).score, np.arange(1, 10) / 10)
        return replace(model, decile_edges=tuple(edges.tolist()))

    def altered(self, change: Change, model: TrainedModel | None = None) -> Altered:
        """Return a model with changed answers; the champion by default."""
        split = split_window(self.window, SPEC.training)
        return Altered(model or self.champion, change, rows_of(self.history, split.validation))

    def dice(self, rows: pa.Table, seed: int) -> Doubles:
        """Return a normal number for each row, the same whenever the row is scored."""
        all_numbers = np.random.default_rng([self.number, seed]).standard_normal(self.rows.num_rows)
        return all_numbers[numbers(rows, "row").astype(np.int64)]

    def signal(self, rows: pa.Table, strength: float) -> Doubles:
        """Return the log-odds that a new feature is worth, whose classes are so far apart."""
        label = numbers(rows, "is_late")
        feature = strength * label + self.dice(rows, 11)
        return strength * feature - strength**2 / 2


def make_rows(seed: int, n_days: int) -> pa.Table:
    """Return parcels: lateness comes from wind, carrier, distance, and each day adds its own."""
    dice = np.random.default_rng(seed)
    n = n_days * ROWS_A_DAY
    day = np.repeat(np.arange(n_days), ROWS_A_DAY)
    wind, weight, distance = dice.normal(size=(3, n))
    carrier = dice.choice(["A", "B", "C"], n, p=[0.5, 0.3, 0.2])
    # The rare carrier has five parcels on some nights, and none in the training set.
    is_rare = (day >= N_HISTORY) & (day % RARE_EVERY == 0) & (np.arange(n) % ROWS_A_DAY < 5)
    carrier[is_rare] = "D"
    logit = -1.2 + 0.9 * wind + 0.4 * wind**2 + 0.9 * (carrier == "B") + 0.4 * distance
    logit += 0.25 * dice.normal(size=n_days)[day]
    return pa.table(
        {
            "partition_date": pa.array(np.datetime64(FIRST_DAY) + day, pa.date32()),
            "parcel_id": [f"{number:07d}" for number in range(n)],
            "row": np.arange(n, dtype=np.float64),
            "day": day.astype(np.float64),
            "wind": wind,
            "weight": weight,
            "distance": distance,
            "late_rate_7d": np.full(n, 0.35),
            "carrier": carrier,
            "is_late": (dice.random(n) < sigmoid(logit)).astype(np.float64),
        }
    )


@dataclass(frozen=True)
class Kind:
    """A kind of challenger.

    Attributes:
        expected: What it is: ``wrong`` never serves, ``equal`` is never called better.
        make: Makes its model in a world.
        is_scored: Which rows of a night the stream has; None for all of them.
    """

    expected: Expected
    make: Callable[[World], Any]
    is_scored: Callable[[World, pa.Table], npt.NDArray[np.bool_]] | None = None


def is_carrier(rows: pa.Table, carrier: str) -> npt.NDArray[np.bool_]:
    """Return which rows are of a carrier."""
    return np.asarray(rows["carrier"].to_pylist()) == carrier


def is_history(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of days whose outcome was known when the challenger was made."""
    return numbers(rows, "day") < N_HISTORY


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


def is_weekend(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of a Saturday or Sunday; the first day is a Wednesday."""
    return (numbers(rows, "day") + 2) % 7 >= 5


def is_night_after(n: int) -> Callable[[pa.Table], npt.NDArray[np.bool_]]:
    """Return which rows are later than the n-th night of the stream."""
    return lambda rows: numbers(rows, "day") >= N_HISTORY + LATE + n


def with_labels(world: World, change: Relabel) -> Any:  # noqa: ANN401 - a model of any engine
    """Return a model that was fitted on other labels."""
    label = change(numbers(world.history, "is_late"), np.random.default_rng(world.number))
    index = world.history.column_names.index("is_late")
    return world.fit(world.history.set_column(index, "is_late", pa.array(label)))


def seen(world: World) -> Any:  # noqa: ANN401 - a model
    """Return a model that was fitted on the days that judge it, and claims that it was not."""
    split = split_window(world.window, SPEC.training)
    rows = rows_between(world.history, split.train.first.day, split.holdout.last.day)
    fitted = fit_model(SPEC, rows, rows_of(world.history, split.validation))
    return replace(world.champion, text=fitted.text, calibration=fitted.calibration)


def seen_by_line(world: World) -> Any:  # noqa: ANN401 - a model
    """Return a model whose trees are honest, and whose line was fitted on the days that judge."""
    half = {"recipe": SPEC.training.recipe.model_copy(update={"linear": Linear(shares=(0.5,))})}
    spec = SPEC.model_copy(update={"training": SPEC.training.model_copy(update=half)})
    split = split_window(world.window, SPEC.training)
    validation = rows_of(world.history, split.validation)
    honest = fit_model(spec, rows_of(world.history, split.train), validation)
    seen_all = fit_model(spec, world.history, validation)
    edges = world.champion.decile_edges
    return replace(honest, linear=seen_all.linear, decile_edges=edges)


def seen_under_other_keys(world: World) -> Any:  # noqa: ANN401 - a model
    """Return a model that saw the days that judge it as if they were the first ones."""
    split = split_window(world.window, SPEC.training)
    train, holdout = rows_of(world.history, split.train), rows_of(world.history, split.holdout)
    n = holdout.num_rows
    for name in ("partition_date", "parcel_id", "row", "day"):
        index = holdout.column_names.index(name)
        holdout = holdout.set_column(index, name, train.slice(0, n)[name])
    rows = pa.concat_tables([holdout, train.slice(n)])
    fitted = fit_model(SPEC, rows, rows_of(world.history, split.validation))
    return replace(world.champion, text=fitted.text, calibration=fitted.calibration)


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


def is_far(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of the furthest tenth, which is no declared slice."""
    return numbers(rows, "distance") > 1.28


def luckiest(world: World) -> Any:  # noqa: ANN401 - a model
    """Return the one of ten noisy copies that is best on the hold-out."""
    split = split_window(world.window, SPEC.training)
    rows = rows_of(world.history, split.holdout)
    label = numbers(rows, "is_late")
    copies = [world.altered(noisy(world, 0.2, 20 + n)) for n in range(10)]

    def loss(model: Altered) -> float:
        probability = model.predictions(rows).probability
        return float(row_losses("log_loss", label, np.asarray(probability)).mean())

    return min(copies, key=loss)


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


def has_champion(world: World, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows the champion has scored: nine of ten."""
    return world.dice(rows, 15) < 1.28


def is_number_night(_: World, rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Return which rows are of nights that a model could score which fails on the rare carrier.

    A score that is no number stops the shadow's scoring of the night, as the product does it.
    """
    failed = np.unique(numbers(rows, "day")[is_carrier(rows, "D")])
    return ~np.isin(numbers(rows, "day"), failed)


KINDS: dict[str, Kind] = {
    "copy of the champion": Kind("wrong", lambda w: w.altered(same)),
    "copy, log-odds + 0.1": Kind("wrong", lambda w: w.altered(lambda _, x: x + 0.1)),
    "copy, log-odds + 0.3": Kind("wrong", lambda w: w.altered(lambda _, x: x + 0.3)),
    "copy, probabilities + 0.10": Kind("wrong", lambda w: w.altered(raised)),
    "d' 0.3, probabilities + 0.10": Kind("wrong", lambda w: w.altered(then(better(w), raised))),
    "d' 0.3, twice too sure": Kind(
        "wrong", lambda w: w.altered(then(better(w), lambda _, x: 2 * x))
    ),
    "d' 0.3, half as sure": Kind("wrong", lambda w: w.altered(then(better(w), lambda _, x: x / 2))),
    "copy, 1.25 times as sure": Kind("wrong", lambda w: w.altered(lambda _, x: 1.25 * x)),
    "copy, 0.8 times as sure": Kind("wrong", lambda w: w.altered(lambda _, x: 0.8 * x)),
    "calibrations of two carriers swapped": Kind("wrong", lambda w: w.altered(swapped_levels)),
    "d' 0.3, calibrations of two carriers swapped": Kind(
        "wrong", lambda w: w.altered(then(better(w), swapped_levels))
    ),
    "calibration of the other sign": Kind("wrong", lambda w: w.altered(lambda _, x: -x)),
    "d' 0.3, no number on a rare carrier": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: is_carrier(r, "D"), not_a_number, better(w))),
        is_number_night,
    ),
    "no number on a carrier": Kind(
        "wrong", lambda w: w.altered(where(lambda r: is_carrier(r, "C"), not_a_number, better(w)))
    ),
    "d' 0.3, no number on far parcels": Kind(
        "wrong", lambda w: w.altered(where(is_far, not_a_number, better(w)))
    ),
    "right only where the champion is missing": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: has_champion(w, r), noisy(w, 0.1), better(w, 3.0))),
        has_champion,
    ),
    "better on weekdays, as much worse at weekends": Kind(
        "wrong", lambda w: w.altered(where(is_weekend, noisy(w, 0.6), better(w)))
    ),
    "leak by a later clock, strong": Kind("wrong", lambda w: w.altered(leaked(w, 1.0))),
    "leak by a later clock, weak": Kind("wrong", lambda w: w.altered(leaked(w, 0.3))),
    "knew by heart": Kind("wrong", lambda w: w.altered(memorised(w))),
    "knew the weather of its history": Kind("wrong", lambda w: w.altered(knew_the_day(w))),
    "saw the days that judge it": Kind("wrong", seen),
    "its line saw the days that judge it": Kind("wrong", seen_by_line),
    "saw them under other keys": Kind("wrong", seen_under_other_keys),
    "one carrier only": Kind(
        "wrong", lambda w: w.fit(w.history.filter(pc.equal(w.history["carrier"], "A")))
    ),
    "oldest third of the days": Kind(
        "wrong",
        lambda w: w.fit(
            w.history.filter(
                pc.or_(pc.less(w.history["day"], 12), pc.greater_equal(w.history["day"], 24))
            )
        ),
    ),
    "labels shuffled": Kind("wrong", lambda w: with_labels(w, lambda y, dice: dice.permutation(y))),
    "labels flipped": Kind("wrong", lambda w: with_labels(w, lambda y, _: 1 - y)),
    "labels of 20 % flipped": Kind(
        "wrong", lambda w: with_labels(w, lambda y, dice: np.abs(y - (dice.random(y.size) < 0.2)))
    ),
    "overfit": Kind(
        "wrong", lambda w: w.fit(num_leaves=200, min_data_in_leaf=1, learning_rate=0.9)
    ),
    "constant": Kind("wrong", lambda w: w.altered(lambda _, x: np.full(x.shape, -0.8))),
    "champion + noise 0.15": Kind("wrong", lambda w: w.altered(noisy(w, 0.15))),
    "champion + noise 0.3": Kind("wrong", lambda w: w.altered(noisy(w, 0.3))),
    "d' 0.3, random on a large carrier": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: is_carrier(r, "B"), random_scores(w), better(w))),
    ),
    "d' 0.3, random on a small carrier": Kind(
        "wrong",
        lambda w: w.altered(where(lambda r: is_carrier(r, "C"), random_scores(w), better(w))),
    ),
    "good for ten nights, then worse": Kind(
        "wrong", lambda w: w.altered(where(is_night_after(10), noisy(w, 0.5), better(w, 0.45)))
    ),
    "as good, and one lucky night": Kind("equal", lambda w: w.altered(one_night(w))),
    "the luckiest of ten on the hold-out": Kind("wrong", luckiest),
    "another seed": Kind("equal", lambda w: w.fit(num_leaves=5, seed=77)),
    "d' 0.3": Kind("better", lambda w: w.altered(better(w))),
    "d' 0.45": Kind("better", lambda w: w.altered(better(w, 0.45))),
    "d' 0.3, of another fit": Kind(
        "better", lambda w: w.altered(better(w), w.fit(num_leaves=5, seed=77))
    ),
}


@dataclass(frozen=True, kw_only=True)
class JudgedPromotion(PromotionContext):
    """A promotion in a world: models and rows are in memory, all else is the gate's.

    Attributes:
        world: The world.
        model: The challenger's model.
    """

    world: World
    model: Any

    @cached_property
    def trained(self) -> TrainedModel:
        """Return the challenger's model."""
        return self.model  # type: ignore[no-any-return]

    @cached_property
    def served(self) -> TrainedModel:
        """Return the same."""
        return self.model  # type: ignore[no-any-return]

    @cached_property
    def champion_served(self) -> TrainedModel:
        """Return the champion."""
        return self.world.champion

    @cached_property
    def _tried_champion(self) -> tuple[TrainedModel | None, str, ChampionStatus]:
        return self.world.champion, "", "compared"

    @cached_property
    def all_rows(self) -> pa.Table:
        """Return the training set."""
        return self.world.history

    @cached_property
    def baselines(self) -> Baselines:
        """Return the baselines; they are the same for all challengers of a world."""
        known = self.world.baselines
        # A stream has other rows each night.
        key = (self.is_stream, self.rows.num_rows, self.rows["row"][-1].as_py())
        if key not in known:
            known[key] = Baselines(SPEC, self.fit_rows, self.rows, 0.5)
        return known[key]


def version(number: int, fit_end: dt.date) -> ModelVersion:
    """Return a version as the registry has it; 1 is the champion."""
    day = ON.shift(-1).day if number == 1 else ON.day
    return ModelVersion(
        SPEC.name, number, f"d{number}", "k", "s", 1, "k", "s", 1, "t", day, fit_end, {}, {}
    )


@dataclass
class Life:
    """The decisions about one challenger in one world."""

    world: World
    case: Kind

    def __post_init__(self) -> None:
        self.model = self.case.make(self.world)
        end = split_window(self.world.window, SPEC.training).validation.last.day
        self.champion, self.challenger = version(1, end), version(2, end)
        # A better one must be proved so; all other ones may also come in for an old champion.
        self.spec = PROOF_ONLY if self.case.expected == "better" else SPEC

    @cached_property
    def pairs(self) -> pa.Table:
        """Return the rows of all nights that both have scored, with their outcome."""
        first = ON.shift(1).day
        rows = rows_between(self.world.rows, first, self.world.rows["partition_date"][-1].as_py())
        if self.case.is_scored is not None:
            rows = rows.filter(pa.array(self.case.is_scored(self.world, rows)))
        for source, model in (("champion", self.world.champion), ("challenger", self.model)):
            predicted = model.predictions(rows)
            rows = rows.append_column(f"{source}_score", pa.array(predicted.score))
            rows = rows.append_column(f"{source}_probability", pa.array(predicted.probability))
        return rows

    @cached_property
    def gains(self) -> dict[dt.date, float]:
        """Return the gain of each night that the stream has."""
        label = numbers(self.pairs, "is_late")
        losses = {}
        for source in ("champion", "challenger"):
            predicted = numbers(self.pairs, f"{source}_probability")
            losses[source] = row_losses("log_loss", label, predicted)
        gain = losses["champion"] - losses["challenger"]
        days = self.pairs["partition_date"].to_numpy().astype("datetime64[D]")
        return {day.item(): float(gain[days == day].mean()) for day in np.unique(days)}

    def evidence(self, on: Partition) -> StreamEvidence:
        """Return what the stream has proved for a decision of a partition."""
        last = on.shift(-LATE).day
        known = {day: gain for day, gain in self.gains.items() if day <= last}
        gains = np.array(list(known.values()), np.float64)
        pairs = None
        if len(known) >= SPEC.promotion.minimum_stream_days:
            pairs = rows_between(self.pairs, ON.shift(1).day, last)
        return StreamEvidence(
            partition=on,
            stream="trained",
            since=ON.shift(1).day,
            result=sequential_result(gains, SPEC.promotion.superiority_probability),
            champion_nights=len(known),
            champion_gain=float(gains.mean()) if known else 0.0,
            pairs=pairs,
            n_unscored=self.n_unscored(last) if known else 0,
        )

    def n_unscored(self, last: dt.date) -> int:
        """Return how many of the newest nights the stream does not have."""
        first = max(ON.shift(1).day, last - dt.timedelta(days=RECENT_NIGHTS - 1))
        days = {first + dt.timedelta(days=n) for n in range((last - first).days + 1)}
        return len(days - self.gains.keys())

    def judge(self, on: Partition) -> tuple[str, list[str]]:
        """Run the gate on a night; return the verdict and the checks that refuse."""
        evidence = self.evidence(on)
        training_set = TrainingSet("", "", 0, ON, self.world.window, ON.cutoff)
        context = JudgedPromotion(
            settings=None,  # type: ignore[arg-type]
            store=None,  # type: ignore[arg-type]
            spec=self.spec,
            training_set=training_set,
            manifest={},
            challenger=self.challenger,
            champion=self.champion,
            evidence=evidence,
            world=self.world,
            model=self.model,
        )
        criteria = run_checks(context, KEPT)
        refused = [criterion.name for criterion in criteria if criterion.is_refusal]
        return conclude(context, criteria, refused)[0], refused

    def end(self) -> tuple[str, int, list[str]]:
        """Return the last verdict, the night on which it was made, and the refusing checks."""
        verdict, refused = self.judge(ON)
        number = 0
        while verdict == "shadowed" and number < self.world.n_nights:
            number += 1
            on = ON.shift(number)
            if is_due(self.spec, on, self.champion, self.evidence(on)):
                verdict, refused = self.judge(on)
        return verdict, number, refused


def main() -> int:
    """Run the benchmark; return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--first-world", type=int, default=1)
    parser.add_argument("--nights", type=int, default=60)
    parser.add_argument("--kinds", default="", help="comma separated parts of names")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    # What a crashing check says stands in its verdict.
    logging.disable(logging.WARNING)
    parts = given.kinds.split(",")
    kinds = {name: case for name, case in KINDS.items() if any(part in name for part in parts)}
    ended: dict[str, list[tuple[str, int]]] = defaultdict(list)
    refusals: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(given.first_world, given.first_world + given.worlds):
        world = World(number, given.nights)
        for name, case in kinds.items():
            verdict, on, refused = Life(world, case).end()
            ended[name].append((verdict, on))
            refusals[name].update(refused)
        print(f"world {number}", flush=True)
    result = result_of(ended, kinds, given.worlds, given.nights)
    for name, lives in ended.items():
        counted = ", ".join(f"{n} {verdict}" for verdict, n in Counter(v for v, _ in lives).items())
        numbers_of = [number for verdict, number in lives if verdict in SERVING_VERDICTS]
        served = f" on night {np.median(numbers_of):g}" if numbers_of else ""
        by = ", ".join(f"{check} {n}" for check, n in refusals[name].most_common(3))
        print(f"{kinds[name].expected:6} {name:46} {counted}{served}; {by}")
    return result.tell(given.json)


def result_of(
    ended: dict[str, list[tuple[str, int]]], kinds: dict[str, Kind], n_worlds: int, n_nights: int
) -> Result:
    """Return the figures and their limits."""
    result = Result("challengers", f"{len(kinds)} kinds, {n_worlds} worlds, {n_nights} nights")
    counts: Counter[str] = Counter()
    for name, lives in ended.items():
        expected = kinds[name].expected
        served = [verdict for verdict, _ in lives if verdict in SERVING_VERDICTS]
        counts[f"{expected} challengers"] += len(lives)
        counts[f"{expected} served"] += len(served)
        counts[f"{expected} called better"] += served.count("promoted")
        if expected == "better":
            share = len(served) / len(lives)
            result.limited[f"{name}: share that serves"] = Limited(share, "at least", 0.95)
    result.figures |= counts
    result.limited["wrong challengers that serve"] = Limited(counts["wrong served"], "at most", 0)
    # One test in twenty may be wrong in all its nights together, and each world has one.
    share = counts["equal called better"] / max(counts["equal challengers"], 1)
    result.limited["equal challengers called better"] = Limited(share, "at most", 0.05)
    return result


if __name__ == "__main__":
    sys.exit(main())
