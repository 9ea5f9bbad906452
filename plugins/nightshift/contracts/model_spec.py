"""A model is a spec: one YAML file says what is predicted, from what, how it is trained, promoted, scored and watched."""

from __future__ import annotations

import datetime as dt
import re
from enum import StrEnum
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationInfo, field_validator, model_validator

from nightshift.contracts.datasets import Identifier
from nightshift.contracts.document_folder import DocumentFolder, read_folder
from nightshift.contracts.metrics import METRICS, NOT_SUPPORTED, Task, metrics_of
from nightshift.contracts.partitions import CUTOFF, OPERATING_TIMEZONE, Partition
from nightshift.contracts.promotion_spec import Promotion
from nightshift.contracts.reserved_names import FEATURE_COLUMNS, refuse_entity_key, refuse_model
from nightshift.contracts.yaml_document import IDENTIFIER, Frozen, read_document
from nightshift.errors import SpecError

Ratio = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]


MAXIMUM_NAME_LENGTH = 40
_RULES_SINCE = dt.date(2025, 1, 1)
Calibration = Literal["platt", "isotonic", "none"]

# fmt: off
TRAINER_PARAMS = frozenset({
    "num_threads", "num_thread", "nthread", "nthreads", "n_jobs", "seed", "random_seed", "random_state", "data_random_seed",
    "data_seed", "bagging_seed", "bagging_fraction_seed", "feature_fraction_seed", "extra_seed", "drop_seed", "deterministic",
    "force_col_wise", "force_row_wise", "objective", "objective_type", "app", "application", "loss", "metric", "metrics",
    "metric_types", "num_class", "num_classes", "boosting", "boosting_type", "boost", "linear_tree", "linear_trees", "num_iterations",
    "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds", "nrounds", "num_boost_round", "n_estimators",
    "max_iter", "early_stopping_round", "early_stopping_rounds", "early_stopping", "n_iter_no_change", "first_metric_only", "device",
    "device_type", "input_model", "model_input", "model_in", "output_model", "model_output", "model_out", "snapshot_freq",
    "save_period", "valid", "test", "valid_data", "data", "train", "train_data", "task", "task_type", "machines", "num_machines",
    "tree_learner", "config", "config_file", "categorical_feature", "cat_feature", "cat_column", "ignore_column", "weight_column",
    "group_column", "label_column", "header", "two_round", "verbosity", "verbose"
})
# fmt: on
"""LightGBM parameters, all aliases included, that the trainer sets: same training set and spec
must give the same trees.
"""


class Weekday(StrEnum):
    """Day of the week of a partition."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


class Entity(Frozen):
    """The thing that features describe.

    Attributes:
        name: For people.
        key: The identifier column of the feature view, of type text.
        recurs: Whether the same key comes again night after night (a customer, not a flight of one
            day); then the entities of the last published features stand in for a list that is
            missing.
    """

    name: Identifier
    key: Identifier
    recurs: bool = False

    @field_validator("key")
    @classmethod
    def _key_is_free(cls, key: str) -> str:
        refuse_entity_key(key)
        return key


class CategoricalFeature(Frozen):
    """A feature with levels; a level that is not known is treated as missing.

    Attributes:
        name: Column of the feature view.
        levels: The known levels; empty takes them from the training set, sorted.
        minimum_rows: Levels from the training set with fewer rows count as missing.
    """

    name: Identifier
    levels: tuple[str, ...] = ()
    minimum_rows: PositiveInt = 20


class Features(Frozen):
    """The columns of the feature view that the model reads, in this order.

    Attributes:
        numeric: Columns with numbers or truth values; null is missing.
        categorical: Columns with levels.
    """

    numeric: tuple[Identifier, ...] = ()
    categorical: tuple[CategoricalFeature, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> Features:
        if len(set(self.names)) < len(self.names) or not self.names:
            raise ValueError("at least one feature, each named once")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return all names, numeric ones first."""
        return self.numeric + tuple(feature.name for feature in self.categorical)


class Label(Frozen):
    """Where the outcome stands and when it can be trusted.

    Attributes:
        relation: Relation of schema ``marts`` with the entity key, ``partition_date``,
            ``event_timestamp``, ``known_at`` and ``superseded_at``; a relation that is written
            through the write path is read through its pointer ``marts/<relation>``.
        column: Its label column; null means that the entity never gets a label.
        maturity_days: Whole operating days after the predicted day until labels count as final.
    """

    relation: Identifier
    column: Identifier
    maturity_days: int = Field(default=1, ge=0)


class Training(Frozen):
    """How a challenger is made.

    Attributes:
        schedule: ``nightly``, ``weekly`` (on ``weekday``) or ``never`` (only when the monitor
            asks).
        weekday: The operating day after which a weekly training runs.
        window_days: Operating days of labelled rows, the hold-out included.
        minimum_days: Fewer labelled days refuse to train.
        gap_days: Days left out between training, validation and hold-out, so that no window
            straddles.
        validation_days: Days for early stopping and calibration.
        holdout_days: Later days that no fit has seen; the evaluation stands on them.
        maximum_rows: Of a larger window a sample of about so many rows is taken, by a hash of the
            entity's key: it bounds the memory.
        backtest_folds: Rolling folds before the final fit; 0 switches the backtest off.
        seed: Seed of every random choice.
        num_boost_round: Upper limit of trees.
        early_stopping_rounds: Rounds without a better validation loss.
        objective: Regression only: the loss; None takes the task's own.
        calibration: Binary only: how scores become probabilities, fitted on the validation days.
        engine: ``local`` trains on the machine of the task; ``dask`` on the workers of a cluster
            (``NIGHTSHIFT_DASK_SCHEDULER``; without one, on workers that are started beside the
            task). Other trees than ``local``, of the same kind.
        params: LightGBM parameters; threads, seeds, determinism, objective and rounds are set by us
            and refused here.
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
        if taken := sorted(TRAINER_PARAMS & params.keys()):
            raise ValueError(
                f"parameters that the trainer does not set itself; remove {', '.join(taken)}"
            )
        return params

    @model_validator(mode="after")
    def _window_holds_splits(self) -> Training:
        if self.minimum_days <= self.validation_days + self.holdout_days + 2 * self.gap_days:
            raise ValueError("minimum_days > validation_days + holdout_days + 2 * gap_days")
        if self.window_days < self.minimum_days:
            raise ValueError("window_days >= minimum_days")
        return self


class FallbackRule(Frozen):
    """What is published without a usable champion; also the rule baseline that a model must beat.

    Attributes:
        feature: Numeric column of the feature view that serves as the score.
        default: Score where that column is null.
    """

    feature: Identifier
    default: float


class CarryOver(Frozen):
    """How the last score of the same recurring entity serves when no model can score.

    Attributes:
        key: Columns by which the entity is known on another day, of the spine's relation, or of the
            feature view without a spine; empty takes the entity's key itself.
        maximum_age_days: Older scores are not used; 0 switches the step off.
        half_life_days: After so many days half of the difference to the rule's score is left.
    """

    key: tuple[Identifier, ...] = ()
    maximum_age_days: int = Field(default=7, ge=0)
    half_life_days: float = Field(default=3.5, gt=0)


class Spine(Frozen):
    """Where the entities of a night stand when its feature view is not published.

    Attributes:
        relation: Relation of schema ``staging`` with the entity's key, ``partition_date``,
            ``load_id``, ``known_at`` and ``superseded_at``.
        event_timestamp: Its column that says when the predicted thing happens.
        key_parts: Columns whose values, joined by ``_``, make the entity's key; with ``day`` they
            allow to expect an old list again.
        day: The date among ``key_parts``.
        repeat_days: Without tonight's list the one of so many days before is expected again; 0
            switches that off.
        repeat_times: How often ``repeat_days`` may be gone back.
    """

    relation: Identifier
    event_timestamp: Identifier
    key_parts: tuple[Identifier, ...] = ()
    day: Identifier | None = None
    repeat_days: int = Field(default=7, ge=0)
    repeat_times: PositiveInt = 3

    @model_validator(mode="after")
    def _day_is_a_part(self) -> Spine:
        if self.day is not None and self.day not in self.key_parts:
            raise ValueError("day is one of key_parts")
        return self


EngineChoice = Literal["auto", "lightgbm", "quickscorer"]
"""Who computes raw scores. Source: docs/adr/0022-engines.md."""


class Scoring(Frozen):
    """How a partition is scored.

    Attributes:
        shards: Number of mapped tasks per partition range; entities are split by hash of their key.
        reasons: Number of top reasons per row; 0 switches them off.
        engine: ``lightgbm`` is the reference; ``auto`` takes the accelerated ``quickscorer`` where
            training has proved it equal in every bit; ``quickscorer`` does the same, and logs an
            error where it cannot.
        fallback: The rule, the ladder's last step.
        carry_over: The step before it: the last score of the same entity, aged.
        spine: Where the entities stand without features; null leaves a night without features to a
            person, unless the entity recurs.
        rescue_minutes_before_deadline: When the rescue looks whether the partition is published.
    """

    shards: PositiveInt = 2
    reasons: int = Field(default=3, ge=0)
    engine: EngineChoice = "auto"
    fallback: FallbackRule
    carry_over: CarryOver = CarryOver()
    spine: Spine | None = None
    rescue_minutes_before_deadline: PositiveInt = 60


class WindowRule(Frozen):
    """A condition must hold in ``n`` of the last ``m`` operating days.

    Attributes:
        n: Days on which it holds.
        m: Days that are looked at.
    """

    n: PositiveInt
    m: PositiveInt

    @model_validator(mode="after")
    def _n_of_m(self) -> WindowRule:
        if self.n > self.m:
            raise ValueError("n <= m")
        return self


class Triggers(Frozen):
    """Which evidence may open a decision. The normal rule: drift and matured loss together.

    Attributes:
        drift: What counts as drift: of the features, of the score, or either.
        may_act_on_drift_alone: Whether drift may also act while the matured loss is unknown; a loss
            that is ok always contradicts it.
        severe_loss_factor: Matured loss above so many times ``maximum_metric_loss`` acts without
            drift; null: never.
    """

    drift: tuple[Literal["drift", "score_drift"], ...] = ("drift", "score_drift")
    may_act_on_drift_alone: bool = False
    severe_loss_factor: float | None = Field(default=2.0, ge=1)


class RetrainBudget(Frozen):
    """At most so many decisions in so many days.

    Attributes:
        retrainings: Decisions.
        days: Operating days, the judged one included.
    """

    retrainings: PositiveInt = 3
    days: PositiveInt = 28


class Monitoring(Frozen):
    """When the evidence says that the model must be retrained.

    Attributes:
        psi_threshold: Population stability index of one feature above which it drifts. Source: 0.2,
            Siddiqi, Credit Risk Scorecards (2006).
        minimum_effect: Effect size below which nothing counts as drift, score included: largest
            difference of the cumulated shares, total variation of levels, or change of the missing
            share.
        drifted_features_ratio: Share of features that must drift for a drifted day.
        score_psi_threshold: The same for the score.
        metric: Performance metric that is watched.
        maximum_metric_loss: Allowed loss against the champion's hold-out, in the metric's unit.
        windows: Days on which a condition must hold.
        cooldown_days: Operating days without another decision after one.
        retrain_budget: How many decisions are allowed in how many days, beside the cooldown.
        triggers: Which conditions must hold together.
        minimum_labels: Matured labels below which performance gives no verdict.
        minimum_label_share: Share of a night's predictions, those that never get a label left out,
            whose label must be known for a mature night; below it the night is maturing and its
            metrics trigger nothing.
        report_rows: Rows of each sample in the Evidently report.
    """

    psi_threshold: float = Field(default=0.2, gt=0)
    minimum_effect: Ratio = 0.1
    drifted_features_ratio: Ratio = 0.3
    score_psi_threshold: float = Field(default=0.2, gt=0)
    metric: str
    maximum_metric_loss: float = Field(gt=0)
    windows: WindowRule
    cooldown_days: int = Field(default=7, ge=0)
    retrain_budget: RetrainBudget = RetrainBudget()
    triggers: Triggers = Triggers()
    minimum_labels: PositiveInt = 200
    minimum_label_share: float = Field(default=0.9, gt=0, le=1)
    report_rows: PositiveInt = 4000


@cache
def is_skipped_by_clock(at: dt.time, timezone: str) -> bool:
    """Return whether a local time is left out on some night, when clocks go forward; two years tell, since rules repeat by the year."""
    zone = ZoneInfo(timezone)
    days = (_RULES_SINCE + dt.timedelta(days=n) for n in range(2 * 366))
    local = (dt.datetime.combine(day, at, zone) for day in days)
    return any(one.astimezone(dt.UTC).astimezone(zone).time() != at for one in local)


class ModelSpec(Frozen):
    """The whole life of one model.

    Attributes:
        name: Name of the model, of its prediction table and of its DAGs.
        description: What it predicts and for whom.
        task: Kind of label.
        owner: Team that answers for it.
        runbook: Page for on-call.
        deadline: Local time on the morning after the partition's day by which predictions must
            stand.
        entity: What is predicted for.
        event_timestamp: Column of the feature view that says when the predicted thing happens.
        feature_view: Name; its table is ``features.feat_<feature_view>``.
        features: Columns that the model reads.
        label: The outcome.
        positive_threshold: Binary only: probability from which a row counts as positive; None
            chooses the best F1 on validation.
    """

    name: Identifier
    description: str
    task: Task
    owner: str
    runbook: str
    deadline: dt.time
    entity: Entity
    event_timestamp: Identifier
    feature_view: Identifier
    features: Features
    label: Label
    training: Training
    promotion: Promotion
    scoring: Scoring
    monitoring: Monitoring
    positive_threshold: Ratio | None = None

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        refuse_model(name)
        return name

    @field_validator("task", mode="before")
    @classmethod
    def _task_is_supported(cls, task: object) -> object:
        if task in NOT_SUPPORTED:
            raise ValueError(f"{task} is not supported yet: supported tasks are {', '.join(Task)}")
        return task

    @field_validator("promotion", "monitoring")
    @classmethod
    def _metric_fits_task(
        cls, part: Promotion | Monitoring, info: ValidationInfo
    ) -> Promotion | Monitoring:
        task = info.data.get("task")
        if task is not None and part.metric not in metrics_of(task):
            raise ValueError(
                f"a metric of task {task}: {', '.join(metrics_of(task))}; not {part.metric!r}"
            )
        return part

    @field_validator("promotion")
    @classmethod
    def _metric_has_a_better_side(cls, promotion: Promotion) -> Promotion:
        if METRICS[promotion.metric].better == "nearer":
            raise ValueError(
                f"a metric of which more or less is better; {promotion.metric} has a best value in between"
            )
        return promotion

    @model_validator(mode="after")
    def _name_fits(self) -> ModelSpec:
        if len(self.name) > MAXIMUM_NAME_LENGTH:
            raise ValueError(
                f"name has at most {MAXIMUM_NAME_LENGTH} characters, relation names are built from it"
            )
        return self

    @model_validator(mode="after")
    def _features_are_features(self) -> ModelSpec:
        names = {*self.features.names, self.scoring.fallback.feature}
        if self.label.column in names:
            raise ValueError(
                f"the label {self.label.column!r} is no feature: the model would read the answer"
            )
        if taken := sorted(names & {self.entity.key, self.event_timestamp, *FEATURE_COLUMNS}):
            raise ValueError(
                f"{', '.join(taken)}: columns that say which row it is are no features"
            )
        return self

    @model_validator(mode="after")
    def _rule_gives_a_probability(self) -> ModelSpec:
        default = self.scoring.fallback.default
        if self.task is Task.BINARY and not 0 <= default <= 1:
            raise ValueError(
                f"scoring.fallback.default of a binary model is a probability, 0 to 1; not {default:g}"
            )
        return self

    @model_validator(mode="after")
    def _rescue_lies_in_the_night(self) -> ModelSpec:
        if self._rescue_minute < CUTOFF.hour * 60 + CUTOFF.minute:
            raise ValueError(
                f"deadline - scoring.rescue_minutes_before_deadline is at least {CUTOFF:%H:%M}, when the night begins: a later deadline or"
                " fewer minutes"
            )
        if skipped := next(
            (
                at
                for at in (self.rescue_at, self.deadline)
                if is_skipped_by_clock(at, OPERATING_TIMEZONE)
            ),
            None,
        ):
            raise ValueError(
                f"{skipped:%H:%M} does not exist in {OPERATING_TIMEZONE} on the night on which clocks go forward, and the rescue would come"
                " too late: another deadline, or other minutes before it"
            )
        return self

    @property
    def _rescue_minute(self) -> int:
        return (
            self.deadline.hour * 60
            + self.deadline.minute
            - self.scoring.rescue_minutes_before_deadline
        )

    @property
    def rescue_at(self) -> dt.time:
        """Return the local time at which the rescue looks, on the morning after the partition's day."""
        return dt.time(*divmod(self._rescue_minute, 60))

    def deadline_of(self, partition: Partition) -> dt.datetime:
        """Return by when the predictions of a partition must stand, UTC: the deadline on the morning after its day."""
        local = dt.datetime.combine(
            partition.day + dt.timedelta(days=1), self.deadline, ZoneInfo(partition.timezone)
        )
        return local.astimezone(dt.UTC)

    def last_due(self, at: dt.datetime) -> Partition:
        """Return the last partition whose deadline is not after an instant (with a timezone)."""
        partition = Partition(at.astimezone(ZoneInfo(OPERATING_TIMEZONE)).date())
        while self.deadline_of(partition) > at:
            partition = partition.shift(-1)
        return partition

    def last_to_rescue(self, at: dt.datetime) -> Partition:
        """Return the last partition whose rescue time is not after an instant (with a timezone)."""
        return self.last_due(at + dt.timedelta(minutes=self.scoring.rescue_minutes_before_deadline))

    @property
    def predictions_dataset(self) -> str:
        """Return the ledger's name of the predictions."""
        return f"predictions/{self.name}"

    @property
    def features_dataset(self) -> str:
        """Return the ledger's name of the feature view."""
        return f"features/{self.feature_view}"

    @property
    def feature_table(self) -> str:
        """Return the table of the feature view within schema ``features``."""
        return f"feat_{self.feature_view}"

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the spec's content, hex."""
        return sha256(self.model_dump_json().encode()).hexdigest()


def is_model_name(name: str) -> bool:
    """Return whether a model can have this name."""
    return re.fullmatch(IDENTIFIER, name) is not None and len(name) <= MAXIMUM_NAME_LENGTH


@lru_cache(maxsize=64)
def load_spec(models_dir: Path, name: str) -> ModelSpec:
    """Read one spec, ``<models_dir>/<name>.yaml``.

    Raises:
        SpecError: It is absent or wrong, or its name is not the file's.
    """
    spec = read_document(models_dir / f"{name}.yaml", ModelSpec)
    if spec.name != name:
        raise SpecError(
            f"{name}.yaml names the model {spec.name!r}.",
            expected=name,
            todo="Rename the file or the model; take a copy out of the folder.",
        )
    return spec


def read_specs(models_dir: Path) -> DocumentFolder[ModelSpec]:
    """Read all specs file by file: those that can be used, and what is wrong with the others."""
    return read_folder(models_dir, lambda name: load_spec(models_dir, name))


def load_specs(models_dir: Path) -> dict[str, ModelSpec]:
    """Read all specs, by name in alphabetical order; for whom one that is missing would be a wrong answer.

    Raises:
        SpecError: One is wrong; all that are wrong are named.
    """
    return read_specs(models_dir).require_all()
