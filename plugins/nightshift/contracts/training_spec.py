"""How a model is trained: schedule, window, splits and parameters."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator, model_validator

from nightshift.contracts.yaml_document import Days, Frozen, PositiveDays, PositiveInt, Ratio

Calibration = Literal["platt", "isotonic", "temperature", "vector", "none", "auto"]

# LightGBM parameters, all aliases included, that the trainer sets: same training set and spec must
# give the same trees.
# fmt: off
TRAINER_PARAMS = frozenset({
    "num_threads", "num_thread", "nthread", "nthreads", "n_jobs", "seed", "random_seed",
    "random_state", "data_random_seed", "data_seed", "bagging_seed", "bagging_fraction_seed",
    "feature_fraction_seed", "extra_seed", "drop_seed", "deterministic", "force_col_wise",
    "force_row_wise", "objective", "objective_type", "app", "application", "loss", "metric",
    "metrics", "metric_types", "num_class", "num_classes", "boosting", "boosting_type", "boost",
    "linear_tree", "linear_trees", "num_iterations", "num_iteration", "n_iter", "num_tree",
    "num_trees", "num_round", "num_rounds", "nrounds", "num_boost_round", "n_estimators",
    "max_iter", "early_stopping_round", "early_stopping_rounds", "early_stopping",
    "n_iter_no_change", "first_metric_only", "device", "device_type", "input_model", "model_input",
    "model_in", "output_model", "model_output", "model_out", "snapshot_freq", "save_period",
    "valid", "test", "valid_data", "data", "train", "train_data", "task", "task_type", "machines",
    "num_machines", "tree_learner", "config", "config_file", "categorical_feature", "cat_feature",
    "cat_column", "ignore_column", "weight_column", "group_column", "label_column", "header",
    "two_round", "verbosity", "verbose", "eval_at", "ndcg_eval_at", "ndcg_at", "map_eval_at",
    "map_at", "label_gain", "group", "group_id", "query_column", "query", "query_id",
})
# fmt: on


_WIDE = 10
"""Ratio from which a range is searched by its logarithm."""


class Weekday(StrEnum):
    """Day of the week of a partition."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


class Linear(Frozen):
    """The linear member alongside the trees: a ridge regression on standardised columns.

    Attributes:
        penalty: Of a weight per standard deviation, for a column with a value of its own in each
            row; columns that many rows of a day share are penalised as many times as strongly.
        shares: Shares of the score that it may get; the out-of-fold days choose. 0 alone leaves it
            out.
    """

    penalty: float = Field(default=3.0, gt=0)
    shares: tuple[Ratio, ...] = (0.0, 0.25, 0.5)

    @field_validator("shares")
    @classmethod
    def _names_a_share(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares:
            raise ValueError("at least one share")
        return shares


class Level(Frozen):
    """The level of all predictions, moved by the newest mature days that no member was fitted on.

    Attributes:
        days: Newest out-of-fold days that a training estimates the level on; 0 leaves it alone, and
            so does an isotonic calibration, whose steps do not move.
        prior_days: Days that speak for no change: the estimate is multiplied by
            ``days / (days + prior_days)``.
        mature_nights: Newest mature nights, since the version's fit, by which each scoring moves
            the level; 0 leaves it alone. Objectives that are no mean have none.
        prior_nights: Nights that speak for no change, as ``prior_days``.
        half_life_nights: Nights after which a mature night counts half; without it all count alike.
            Fewer nights' worth of evidence is left, so take fewer ``prior_nights`` with it.
        minimum_nights: Fewer nights move nothing.
        minimum_rows: Fewer labelled rows of these nights move nothing.
        maximum: Most by which a scoring moves the level: in log-odds, or of a regression in
            standard deviations of the nights' labels.
    """

    days: Days = 14
    prior_days: PositiveDays = 14
    mature_nights: int = Field(default=14, ge=0, le=60)
    prior_nights: PositiveDays = 14
    half_life_nights: PositiveDays | None = None
    minimum_nights: PositiveDays = 1
    minimum_rows: PositiveInt = 100
    maximum: float = Field(default=1.0, gt=0)


class Costs(Frozen):
    """What wrong calls cost; the threshold of a calibrated probability follows from them.

    Attributes:
        false_alarm: Of a row that is called positive and is not.
        miss: Of a positive row that is not called so, in the same unit.
    """

    false_alarm: float = Field(gt=0)
    miss: float = Field(gt=0)

    @property
    def threshold(self) -> float:
        """Return the probability at which both calls cost the same on average."""
        return self.false_alarm / (self.false_alarm + self.miss)


class TargetEncoding(Frozen):
    """Categories that become numbers: by how much the label of a level lies above that of all rows.

    Attributes:
        columns: Categorical features. A training row of a night gets what labels that were mature
            on that night say, so no label of its own night or of a later one.
        prior_rows: Rows that speak for no difference: a level of ``n`` rows gets ``n / (n +
            prior_rows)`` of its difference.
    """

    columns: tuple[str, ...] = ()
    prior_rows: PositiveInt = 100


class Recipe(Frozen):
    """What a model is made of: trees of several seeds and nights, and a linear member.

    Attributes:
        folds: Rolling blocks that the validation days are divided into; each is predicted by
            members that were fitted on the days before it. They choose the number of rounds, the
            linear member's share, the calibration and the level.
        seeds: Fits of the trees whose scores are averaged.
        averaged_nights: Windows of the trees, each fitted with every seed and averaged: they end on
            the newest night and on those before it, and are so many nights less one shorter than
            the window. A night more changes an average less than a single fit.
        target_encoding: Categories that become numbers.
        linear: The linear member.
        level: The level of all predictions.
        half_life_days: A row so many days older than the newest one counts half; None weighs all
            days alike.
        increasing: Numeric features that may only raise the score.
        decreasing: Numeric features that may only lower it.
        costs: Binary only: what wrong calls cost. Without them the threshold has the best F1 score.
        refit: Fit what serves on all mature days, the hold-out included. The hold-out is then
            measured on a model of the same recipe that was fitted on the days before it.
    """

    folds: int = Field(default=2, ge=1, le=100)
    seeds: int = Field(default=1, ge=1, le=20)
    averaged_nights: int = Field(default=1, ge=1, le=7)
    target_encoding: TargetEncoding = Field(default_factory=TargetEncoding)
    linear: Linear = Field(default_factory=Linear)
    level: Level = Field(default_factory=Level)
    half_life_days: PositiveDays | None = None
    increasing: tuple[str, ...] = ()
    decreasing: tuple[str, ...] = ()
    costs: Costs | None = None
    refit: bool = True

    @property
    def directions(self) -> dict[str, int]:
        """Return 1 or -1 for each feature that may only raise or only lower the score."""
        rising = dict.fromkeys(self.increasing, 1)
        return rising | dict.fromkeys(self.decreasing, -1)

    @property
    def later_keys(self) -> set[str]:
        """Return newer keys that are at their defaults: a digest leaves them out."""
        is_off = {
            "averaged_nights": self.averaged_nights == 1,
            "target_encoding": not self.target_encoding.columns,
        }
        return {name for name, off in is_off.items() if off}

    @model_validator(mode="after")
    def _has_one_direction(self) -> Recipe:
        both = sorted(set(self.increasing) & set(self.decreasing))
        if both:
            raise ValueError(f"features of one direction; both have {', '.join(both)}")
        return self


class SearchRange(Frozen):
    """From where to where a parameter is searched.

    Attributes:
        low: The smallest value.
        high: The largest value.
    """

    low: int | float
    high: int | float

    @model_validator(mode="after")
    def _rises(self) -> SearchRange:
        if self.low >= self.high:
            raise ValueError("low < high")
        return self

    @property
    def is_whole(self) -> bool:
        """Return whether both ends are whole numbers: then so are the values."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def is_wide(self) -> bool:
        """Return whether it spans an order of magnitude."""
        return self.low > 0 and self.high >= _WIDE * self.low


class Search(Frozen):
    """A search of parameters before each training, on the days before the validation days.

    Attributes:
        trials: Budget: sets of parameters that are tried. Ten of two folds cost about as much as
            five trainings.
        folds: Rolling blocks that each trial is measured on.
        parameters: Ranges by name of LightGBM's parameter; the declared ``params`` are the first
            trial if they lie within.
    """

    trials: int = Field(default=10, ge=1, le=200)
    folds: int = Field(default=2, ge=1, le=100)
    parameters: dict[str, SearchRange]

    @field_validator("parameters")
    @classmethod
    def _parameters_are_free(cls, parameters: dict[str, SearchRange]) -> dict[str, SearchRange]:
        taken = sorted(TRAINER_PARAMS & parameters.keys())
        if taken or not parameters:
            raise ValueError(
                f"parameters that the trainer does not set itself; not {', '.join(taken) or 'none'}"
            )
        return parameters


class Training(Frozen):
    """How a challenger is made.

    Attributes:
        schedule: ``nightly``, ``weekly`` (on ``weekday``) or ``never`` (only when the monitor
            requests it).
        weekday: The operating day after which a weekly training runs.
        window_days: Operating days of labelled rows, the hold-out included.
        minimum_days: Labelled days from which all members of the recipe are fitted; fewer refuse to
            train, unless ``cold_start_days`` allows it.
        cold_start_days: Labelled days from which the linear member alone is fitted, on as few
            validation days as a third of those before the hold-out; None waits for
            ``minimum_days``.
        gap_days: Days left out between training, validation and hold-out, so that no window
            straddles.
        validation_days: Days that choose rounds, shares, calibration and level, each predicted by
            members that were fitted before it.
        holdout_days: Later days that no fit has seen; the evaluation stands on them.
        maximum_rows: A larger window is sampled to about so many rows, by a hash of the entity's
            key: it bounds the memory.
        backtest_folds: Rolling folds before the final fit; 0 switches the backtest off.
        seed: Seed of every random choice.
        num_boost_round: Upper limit of trees.
        early_stopping_rounds: Rounds without a better validation loss.
        objective: Regression only: the loss; None takes the task's own. ``recipe.linear`` and
            ``recipe.level`` are fitted to the mean: with any other loss than ``regression`` they
            are off unless they are declared.
        calibration: How scores become probabilities, fitted on out-of-fold days; no regression has
            one. ``platt`` and ``isotonic`` are of a binary label, ``temperature`` (one slope) and
            ``vector`` (a slope and a shift of each class) of classes. ``auto``, the default of
            classes, takes the method with the lowest log loss on blocks that it was not fitted on.
        engine: ``local`` trains on the machine of the task; ``dask`` on the workers of a cluster
            (``NIGHTSHIFT_DASK_SCHEDULER``; without one, on workers that the task starts). The trees
            of ``dask`` differ from those of ``local``, but are of the same kind.
        recipe: What a model is made of.
        search: A search of parameters before each training; None switches it off.
        weight_column: Column of the feature view with each row's weight in the fit, above 0; None
            weighs all rows alike. It is no feature.
        params: LightGBM parameters; the trainer sets threads, seeds, determinism, objective and
            rounds, so they are refused here.
    """

    schedule: Literal["nightly", "weekly", "never"]
    weekday: Weekday = Weekday.SUNDAY
    window_days: PositiveDays = 120
    minimum_days: PositiveDays = 40
    cold_start_days: PositiveDays | None = None
    gap_days: Days = 1
    validation_days: PositiveDays = 14
    holdout_days: PositiveDays = 14
    maximum_rows: PositiveInt = 10_000_000
    backtest_folds: int = Field(default=2, ge=0, le=100)
    seed: int = Field(default=20130101, ge=0, le=2**31 - 1)
    num_boost_round: PositiveInt = 400
    early_stopping_rounds: PositiveInt = 40
    objective: (
        Literal["regression", "regression_l1", "huber", "fair", "quantile", "mape"] | None
    ) = None
    calibration: Calibration = "platt"
    engine: Literal["local", "dask"] = "local"
    recipe: Recipe = Field(default_factory=Recipe)
    search: Search | None = None
    weight_column: str | None = None
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _line_and_level_follow_the_objective(cls, data: object) -> object:
        # A line of squares and a level of mean residuals would pull a median to the mean.
        if not isinstance(data, Mapping) or data.get("objective") in (None, "regression"):
            return data
        recipe = data.get("recipe", {})
        if not isinstance(recipe, Mapping):
            return data
        off = {"linear": {"shares": [0.0]}, "level": {"days": 0}}
        return {**data, "recipe": {**off, **recipe}}

    @field_validator("params")
    @classmethod
    def _params_are_free(
        cls, params: dict[str, bool | int | float | str]
    ) -> dict[str, bool | int | float | str]:
        taken = sorted(TRAINER_PARAMS & params.keys())
        if taken:
            raise ValueError(
                f"parameters that the trainer does not set itself; remove {', '.join(taken)}"
            )
        return params

    @model_validator(mode="after")
    def _window_holds_splits(self) -> Training:
        # Two gaps: before the validation days and before the hold-out.
        if self.minimum_days <= self.validation_days + self.holdout_days + 2 * self.gap_days:
            raise ValueError("minimum_days > validation_days + holdout_days + 2 * gap_days")
        if self.window_days < self.minimum_days:
            raise ValueError("window_days >= minimum_days")
        # Each window of the trees keeps some days.
        if self.recipe.averaged_nights > self.validation_days:
            raise ValueError("recipe.averaged_nights <= validation_days")
        return self

    @model_validator(mode="after")
    def _cold_start_holds_splits(self) -> Training:
        if self.cold_start_days is None:
            return self
        # At least one validation day, and two to fit on.
        needed = self.holdout_days + 2 * self.gap_days + 3
        if not needed <= self.cold_start_days < self.minimum_days:
            raise ValueError(f"cold_start_days from {needed} to below minimum_days")
        return self

    @property
    def first_days(self) -> int:
        """Return the labelled days from which there is a model at all."""
        return self.cold_start_days or self.minimum_days

    def for_days(self, n_days: int) -> Training:
        """Return how a window of so many days is trained: a short one by the linear member alone.

        Trees need one more look at each day than a short history has; the line's penalties grow
        with what is missing.
        """
        if n_days >= self.minimum_days or self.cold_start_days is None:
            return self
        n_before = n_days - self.holdout_days - 2 * self.gap_days
        linear = self.recipe.linear.model_copy(update={"shares": (1.0,)})
        recipe = self.recipe.model_copy(update={"linear": linear, "seeds": 1, "averaged_nights": 1})
        changes = {
            "validation_days": min(self.validation_days, max(1, n_before // 3)),
            "recipe": recipe,
            # A text model has at least one tree; with no share it adds nothing.
            "num_boost_round": 1,
            "search": None,
            "backtest_folds": 0,
        }
        return self.model_copy(update=changes)

    @model_validator(mode="after")
    def _dask_weighs_alike(self) -> Training:
        is_weighted = self.weight_column or self.recipe.half_life_days
        if self.engine == "dask" and is_weighted:
            raise ValueError("engine: local, for a fit with weights")
        return self
