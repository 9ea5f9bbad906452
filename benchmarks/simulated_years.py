"""Simulated years of several kinds, for a model that says whether a parcel is late.

A change needs a retraining from the night on which the old relation costs more than the spec's
``maximum_metric_loss``, by the true probabilities.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import pyarrow as pa
from benchmarks.input_faults import ONE_DAY

from nightshift.contracts.model_spec import ModelSpec

if TYPE_CHECKING:
    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

FIRST = dt.date(2020, 1, 1)
WINDOW_DAYS, BEFORE_DAYS, YEAR_DAYS = 60, 70, 365
ROWS = 600
NUMERIC = ("size", "speed", "age", "load", "distance", "temperature", "day_of_week")
SPEC = ModelSpec.model_validate({
    "name": "parcel_late", "description": "Will this parcel be late?", "task": "binary",
    "owner": "parcels", "runbook": "docs/runbooks/README.md", "deadline": "04:00",
    "entity": {"name": "parcel", "key": "parcel_id"},
    "event_timestamp": "event_timestamp", "feature_view": "parcel",
    "features": {"numeric": NUMERIC},
    "label": {"relation": "fct_parcel_labels", "column": "is_late", "maturity_days": 1},
    "training": {
        "schedule": "never", "window_days": WINDOW_DAYS, "minimum_days": 40,
        "validation_days": 14, "holdout_days": 14, "num_boost_round": 100, "backtest_folds": 0,
        "recipe": {"linear": {"shares": [0.5]}},
        "params": {"learning_rate": 0.1, "num_leaves": 7, "min_data_in_leaf": 100},
    },
    "promotion": {"metric": "log_loss"},
    "scoring": {"reasons": 0, "fallback": {"feature": "late_rate_7d", "default": 0.3}},
    "monitoring": {
        "metric": "log_loss", "maximum_metric_loss": 0.05, "windows": {"n": 2, "m": 3},
    },
})  # fmt: skip


@dataclass(frozen=True)
class YearType:
    """A kind of year.

    Attributes:
        name: For people.
        changes: Nights of the year on which the relation begins to change.
        n_days: How many nights each change takes.
        is_fault: Whether any retraining is wrong, because it would learn from what is broken.
    """

    name: str
    changes: tuple[int, ...] = ()
    n_days: int = 1
    is_fault: bool = False


KINDS = (
    YearType("stable"),
    YearType("season"),
    YearType("slow covariate drift"),
    YearType("sudden change", (120,)),
    YearType("slow change", (120,), n_days=60),
    YearType("two changes", (100, 230)),
    YearType("shock of three days", is_fault=True),
    YearType("feed broken for two weeks", is_fault=True),
    YearType("unit changed for ever", is_fault=True),
    YearType("weekdays changed"),
    YearType("noise level changed", (120,)),
)
# Weights of the standardised size, speed and load, before the changes and after each.
RELATIONS = ((1.3, -1.0, 0.6), (1.3, 1.0, 0.6), (-0.6, 1.0, 0.6))
NOISIER = (0.9, -0.7, 0.42)
PLANTED = 120
"""Night of the year on which everything else that is planted begins."""


class Need(NamedTuple):
    """The night on which a change begins, and the one from which a retraining is needed."""

    begin: dt.date
    needed: dt.date


@dataclass
class World:
    """A simulated year with the nights before it.

    Attributes:
        rows: Labelled rows, ordered by night.
        truth: Probability of each row.
        needs: Of each change that needs a retraining.
    """

    rows: pa.Table
    truth: Doubles
    needs: list[Need]


def simulate(year: YearType, seed: int, n_rows: int = ROWS, n_days: int = YEAR_DAYS) -> World:
    """Return a year of one year."""
    dice = np.random.default_rng(seed)
    n_nights = BEFORE_DAYS + n_days
    index = np.arange(n_nights)
    number = (index - BEFORE_DAYS)[:, np.newaxis]
    weekday = np.broadcast_to(((index + FIRST.weekday()) % 7)[:, np.newaxis], (n_nights, n_rows))
    shape = weekday.shape

    columns = {name: dice.normal(size=shape) for name in ("size", "speed", "age", "load")}
    for name in ("size", "speed", "age", "load"):
        columns[name] += 0.1 * dice.normal(size=(n_nights, 1))
    busy = np.where((year.name == "weekdays changed") & (number >= PLANTED), 0, 5)
    columns["load"] += 0.8 * (weekday == busy)
    warm = 15 + 2 * dice.normal(size=(n_nights, 1))
    if year.name == "season":
        warm = warm + 10 * np.sin(2 * np.pi * number / 365)
    columns["temperature"] = warm + dice.normal(size=shape)
    columns["distance"] = dice.gamma(4, 100, shape)
    columns["day_of_week"] = weekday.astype(np.float64)
    if year.name == "slow covariate drift":
        columns["age"] += np.clip(number / 200, 0, 1)

    # The luck that all rows of a night share.
    level = -1.2 + 0.2 * dice.normal(size=(n_nights, 1))
    level = level + 0.04 * (columns["temperature"] - 15) + 0.002 * (columns["distance"] - 400)
    if year.name == "shock of three days":
        level = level + 3 * ((number >= PLANTED) & (number < PLANTED + 3))
    weights = [_weights(year, day) for day in number.ravel()]
    probability = _probability(columns, np.array(weights), level)
    label = dice.random(shape) < probability
    needs = [_needed_from(year, index, columns, level) for index in range(len(year.changes))]

    if year.name == "feed broken for two weeks":
        broken = (index >= BEFORE_DAYS + PLANTED) & (index < BEFORE_DAYS + PLANTED + 14)
        columns["size"][broken] = 0.0
    if year.name == "unit changed for ever":
        columns["distance"][BEFORE_DAYS + PLANTED :] *= 1.609
    days = np.datetime64(FIRST) + index
    rates = [label[max(0, at - 8) : max(1, at - 1)].mean() for at in index]
    table = pa.table({
        "partition_date": pa.array(np.repeat(days, n_rows), pa.date32()),
        "parcel_id": [f"{at:08d}" for at in range(n_nights * n_rows)],
        **{name: columns[name].ravel() for name in NUMERIC},
        "late_rate_7d": np.repeat(rates, n_rows),
        "is_late": label.ravel(),
    })  # fmt: skip
    return World(table, probability.ravel(), [need for need in needs if need is not None])


def _weights(year: YearType, day: int) -> tuple[float, ...]:
    """Return the relation of a night of the year."""
    now = np.array(RELATIONS[0])
    for index, begin in enumerate(year.changes):
        after = NOISIER if year.name == "noise level changed" else RELATIONS[index + 1]
        share = np.clip((day - begin + 1) / year.n_days, 0, 1)
        now = (1 - share) * now + share * np.array(after)
    return tuple(now)


def _probability(columns: dict[str, Doubles], weights: Doubles, level: Doubles) -> Doubles:
    parts = zip(("size", "speed", "load"), weights.T[:, :, np.newaxis], strict=True)
    score = level + sum(weight * columns[name] for name, weight in parts)
    return cast("Doubles", 1 / (1 + np.exp(-score)))


def _needed_from(
    year: YearType, index: int, columns: dict[str, Doubles], level: Doubles
) -> Need | None:
    """Return the night from which a change costs more than the limit; None if it never does."""
    begin = year.changes[index]
    days = range(begin, begin + year.n_days)
    part = slice(BEFORE_DAYS + begin, BEFORE_DAYS + begin + year.n_days)
    chosen = {name: values[part] for name, values in columns.items()}
    now = _probability(chosen, np.array([_weights(year, day) for day in days]), level[part])
    before = np.array([_weights(year, begin - 1)] * year.n_days)
    cost = log_loss(now, _probability(chosen, before, level[part])) - log_loss(now, now)
    costly = np.flatnonzero(cost.mean(axis=1) > SPEC.monitoring.maximum_metric_loss)
    if not costly.size:
        return None
    first = FIRST + (BEFORE_DAYS + begin) * ONE_DAY
    return Need(first, first + int(costly[0]) * ONE_DAY)


def log_loss(truth: Doubles, probability: Doubles) -> Doubles:
    """Return the expected log loss of each row."""
    known = np.clip(probability, 1e-9, 1 - 1e-9)
    return cast("Doubles", -truth * np.log(known) - (1 - truth) * np.log(1 - known))
