"""How a model is trained: schedule, window, splits and parameters."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, field_validator, model_validator

from nightshift.contracts.yaml_document import Frozen, PositiveInt

Calibration = Literal["platt", "isotonic", "none"]

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
    "two_round", "verbosity", "verbose",
})
# fmt: on


class Weekday(StrEnum):
    """Day of the week of a partition."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


class Training(Frozen):
    """How a challenger is made.

    Attributes:
        schedule: ``nightly``, ``weekly`` (on ``weekday``) or ``never`` (only when the monitor
            requests it).
        weekday: The operating day after which a weekly training runs.
        window_days: Operating days of labelled rows, the hold-out included.
        minimum_days: Fewer labelled days refuse to train.
        gap_days: Days left out between training, validation and hold-out, so that no window
            straddles.
        validation_days: Days for early stopping and calibration.
        holdout_days: Later days that no fit has seen; the evaluation stands on them.
        maximum_rows: A larger window is sampled to about so many rows, by a hash of the entity's
            key: it bounds the memory.
        backtest_folds: Rolling folds before the final fit; 0 switches the backtest off.
        seed: Seed of every random choice.
        num_boost_round: Upper limit of trees.
        early_stopping_rounds: Rounds without a better validation loss.
        objective: Regression only: the loss; None takes the task's own.
        calibration: Binary only: how scores become probabilities, fitted on the validation days.
        engine: ``local`` trains on the machine of the task; ``dask`` on the workers of a cluster
            (``NIGHTSHIFT_DASK_SCHEDULER``; without one, on workers that the task starts). The trees
            of ``dask`` differ from those of ``local``, but are of the same kind.
        params: LightGBM parameters; the trainer sets threads, seeds, determinism, objective and
            rounds, so they are refused here.
    """

    schedule: Literal["nightly", "weekly", "never"]
    weekday: Weekday = Weekday.SUNDAY
    window_days: PositiveInt = 120
    minimum_days: PositiveInt = 40
    gap_days: int = Field(default=1, ge=0)
    validation_days: PositiveInt = 14
    holdout_days: PositiveInt = 14
    maximum_rows: PositiveInt = 10_000_000
    backtest_folds: int = Field(default=2, ge=0)
    seed: int = 20130101
    num_boost_round: PositiveInt = 400
    early_stopping_rounds: PositiveInt = 40
    objective: (
        Literal["regression", "regression_l1", "huber", "fair", "quantile", "mape"] | None
    ) = None
    calibration: Calibration = "platt"
    engine: Literal["local", "dask"] = "local"
    params: dict[str, bool | int | float | str] = Field(default_factory=dict)

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
        return self
