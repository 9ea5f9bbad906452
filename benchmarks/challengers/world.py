"""The worlds of the challengers: parcels with a known truth, and a champion fitted on them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.models.calibration import log_odds_of, sigmoid
from nightshift.models.predictions import Predictions
from nightshift.models.signature import numbers
from nightshift.training.baselines import Baselines
from nightshift.training.model_fit import fit_model
from nightshift.training.splits import rows_of, split_window

if TYPE_CHECKING:
    import numpy.typing as npt

    from nightshift.models.trained_model import TrainedModel

    Doubles = npt.NDArray[np.float64]
    Change = Callable[[pa.Table, Doubles], Doubles]

FIRST_DAY, N_HISTORY, ROWS_A_DAY = dt.date(2020, 1, 1), 44, 300
ON = Partition(FIRST_DAY).shift(45)
"""The partition whose night trains: the labels of the 44 days are mature."""
LATE = 2
"""Nights until the outcome of a scored one is known."""
RARE_EVERY = 6
"""Nights from one with parcels of the rare carrier to the next one."""
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
