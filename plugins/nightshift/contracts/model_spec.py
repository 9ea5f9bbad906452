"""A model is one YAML file: what it predicts, from what, and how it is trained and operated."""

from __future__ import annotations

import datetime as dt
import re
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationInfo, field_validator, model_validator

from nightshift.contracts.document_folder import DocumentFolder, read_folder, read_named
from nightshift.contracts.metrics import METRICS, Task, metrics_of
from nightshift.contracts.monitoring_spec import Monitoring
from nightshift.contracts.partitions import CUTOFF, Partition, operating_timezone
from nightshift.contracts.promotion_spec import Promotion
from nightshift.contracts.reserved_names import FEATURE_COLUMNS, EntityKey, ModelName
from nightshift.contracts.scoring_spec import Analytics, Scoring
from nightshift.contracts.tasks.classes import class_columns, read_classes
from nightshift.contracts.tasks.ranking import DEFAULT_TOP_K
from nightshift.contracts.tasks.task_keys import check_task_keys, with_task_defaults
from nightshift.contracts.training_spec import Training
from nightshift.contracts.yaml_document import (
    IDENTIFIER,
    Days,
    Frozen,
    Identifier,
    NamedDocument,
    PositiveInt,
    Ratio,
)

MAXIMUM_NAME_LENGTH = 40


class Entity(Frozen):
    """The thing that features describe.

    Attributes:
        name: For people.
        key: The identifier column of the feature view, of type text.
        recurs: Whether the same key comes again in later partitions (a customer, not an order of
            one day); then the entities of the last published features stand in for a list that is
            missing.
    """

    name: Identifier
    key: EntityKey
    recurs: bool = False


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
    maturity_days: Days = 1


class ModelSpec(NamedDocument):
    """The whole life of one model.

    Attributes:
        name: Name of the model, of its prediction table and of its DAGs.
        description: What it predicts and for whom.
        task: Type of label.
        classes: Task ``multiclass`` only: the values of the label, compared as texts, in the order
            of the probability columns. Another value is a data error.
        group: Task ``ranking`` only: column of the feature view whose rows of one night are ordered
            among each other, such as a shop; null orders the rows of a night as one group.
        top_k: Task ``ranking`` only: how many rows of a group are chosen, and judged.
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
        analytics: What analysts read next to the predictions.
    """

    name: ModelName
    description: str
    task: Task
    classes: tuple[str, ...] = ()
    group: Identifier | None = None
    top_k: PositiveInt = DEFAULT_TOP_K
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
    analytics: Analytics = Analytics()

    @model_validator(mode="before")
    @classmethod
    def _without_what_its_task_has_not(cls, document: object) -> object:
        return with_task_defaults(document)

    @field_validator("classes", mode="before")
    @classmethod
    def _classes_are_texts(cls, classes: object) -> object:
        return read_classes(classes)

    @field_validator("promotion", "monitoring")
    @classmethod
    def _metric_fits_task(
        cls, part: Promotion | Monitoring, info: ValidationInfo
    ) -> Promotion | Monitoring:
        # Without a task, the task itself is wrong: one mistake is reported once.
        task = info.data.get("task")
        if task is None or part.metric in metrics_of(task):
            return part
        names = ", ".join(metrics_of(task))
        raise ValueError(f"a metric of task {task}: {names}; not {part.metric!r}")

    @field_validator("promotion")
    @classmethod
    def _metric_has_a_better_side(cls, promotion: Promotion) -> Promotion:
        if METRICS[promotion.metric].better == "nearer":
            raise ValueError(
                "a metric of which more or less is better;"
                f" {promotion.metric} has a best value in between"
            )
        return promotion

    @model_validator(mode="after")
    def _name_fits(self) -> ModelSpec:
        if len(self.name) > MAXIMUM_NAME_LENGTH:
            raise ValueError(
                f"name has at most {MAXIMUM_NAME_LENGTH} characters,"
                " relation names are built from it"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> ModelSpec:
        check_task_keys(self)
        return self

    @model_validator(mode="after")
    def _features_are_features(self) -> ModelSpec:
        names = {*self.features.names, *self.scoring.fallback.columns}
        if self.label.column in names:
            raise ValueError(
                f"the label {self.label.column!r} is no feature: the model would read the answer"
            )
        taken = sorted(names & {self.entity.key, self.event_timestamp, *FEATURE_COLUMNS})
        if taken:
            raise ValueError(f"{', '.join(taken)}: columns that identify a row are no features")
        return self

    @model_validator(mode="after")
    def _recipe_fits_features(self) -> ModelSpec:
        training = self.training
        unknown = sorted(training.recipe.directions.keys() - set(self.features.numeric))
        if unknown:
            raise ValueError(
                "training.recipe.increasing and decreasing name numeric features;"
                f" {', '.join(unknown)} is none"
            )
        categorical = {feature.name for feature in self.features.categorical}
        unknown = sorted(set(training.recipe.target_encoding.columns) - categorical)
        if unknown:
            raise ValueError(
                "training.recipe.target_encoding.columns name categorical features;"
                f" {', '.join(unknown)} is none"
            )
        if training.weight_column in {*self.features.names, self.label.column}:
            raise ValueError(
                f"training.weight_column {training.weight_column!r} is neither feature nor label"
            )
        return self

    @model_validator(mode="after")
    def _attributes_are_not_the_label(self) -> ModelSpec:
        taken = {self.entity.key, self.event_timestamp, self.label.column, *FEATURE_COLUMNS}
        wrong = sorted(taken & set(self.analytics.attributes))
        if wrong:
            raise ValueError(f"analytics.attributes: {', '.join(wrong)} is in the views already")
        return self

    @model_validator(mode="after")
    def _causes_have_features(self) -> ModelSpec:
        unknown = sorted(self.analytics.cause_of.keys() - set(self.features.names))
        if unknown:
            raise ValueError(f"analytics.causes: {', '.join(unknown)} is no feature of the model")
        return self

    @model_validator(mode="after")
    def _rule_gives_a_probability(self) -> ModelSpec:
        default = self.scoring.fallback.default
        if self.task is Task.BINARY and not 0 <= default <= 1:
            raise ValueError(
                "scoring.fallback.default of a binary model is a probability, 0 to 1;"
                f" not {default:g}"
            )
        return self

    @model_validator(mode="after")
    def _rescue_starts_after_the_cutoff(self) -> ModelSpec:
        if self._rescue_minute < CUTOFF.hour * 60 + CUTOFF.minute:
            raise ValueError(
                "deadline - scoring.rescue_minutes_before_deadline is at least"
                f" {CUTOFF:%H:%M}, when the night begins: a later deadline or fewer minutes"
            )
        timezone = operating_timezone()
        for time in (self.rescue_at, self.deadline):
            if is_skipped_by_clock(time, timezone):
                raise ValueError(
                    f"{time:%H:%M} does not exist in {timezone} on the night on which clocks go"
                    " forward, and the rescue would come too late:"
                    " another deadline, or other minutes before it"
                )
        return self

    @property
    def _rescue_minute(self) -> int:
        minute = self.deadline.hour * 60 + self.deadline.minute
        return minute - self.scoring.rescue_minutes_before_deadline

    @property
    def rescue_at(self) -> dt.time:
        """Return the local time of the rescue, on the morning after the partition's day."""
        return dt.time(*divmod(self._rescue_minute, 60))

    def deadline_of(self, partition: Partition) -> dt.datetime:
        """Return the deadline of a partition in UTC, on the morning after its day."""
        zone = ZoneInfo(partition.timezone)
        local = dt.datetime.combine(partition.shift(1).day, self.deadline, zone)
        return local.astimezone(dt.UTC)

    def last_due(self, at: dt.datetime) -> Partition:
        """Return the last partition whose deadline is not after an instant (with a timezone)."""
        local = at.astimezone(ZoneInfo(operating_timezone()))
        partition = Partition(local.date())
        # The deadline of a day is on the next morning, so today's is never due yet.
        while self.deadline_of(partition) > at:
            partition = partition.shift(-1)
        return partition

    def last_to_rescue(self, at: dt.datetime) -> Partition:
        """Return the last partition whose rescue time is not after an instant (with a timezone)."""
        # A rescue is due when the deadline is so many minutes away.
        lead = dt.timedelta(minutes=self.scoring.rescue_minutes_before_deadline)
        return self.last_due(at + lead)

    @property
    def class_columns(self) -> dict[str, str]:
        """Return the column of each class's probability, by class; none without classes."""
        return class_columns(self.classes)

    @property
    def is_ranking(self) -> bool:
        """Return whether predictions order the rows of a group."""
        return self.task is Task.RANKING

    @property
    def group_columns(self) -> tuple[str, ...]:
        """Return the column of the feature view that tells groups apart; none for whole nights."""
        return (self.group,) if self.group else ()

    @property
    def predictions_dataset(self) -> str:
        """Return the ledger's name of the predictions."""
        return f"predictions/{self.name}"

    @property
    def shadow_dataset(self) -> str:
        """Return the ledger's name of the challengers' shadow scores."""
        return f"shadow/{self.name}"

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
        """Return the SHA-256 of the spec's content, hex: of all that makes a prediction."""
        # What is shown next to a prediction must not make it another one. Who gets a challenger's
        # is recorded with each night, so that a rerun keeps it when the share is changed.
        left_out: dict[str, Any] = {"analytics": True, "promotion": {"canary"}}
        # Other specs keep the digest that they had before there were these keys.
        left_out["training"] = {"recipe": self.training.recipe.later_keys}
        if not self.classes:
            left_out |= {"classes": True, "scoring": {"fallback": {"shares"}}}
        if not self.is_ranking:
            left_out |= {"group": True, "top_k": True}
        return sha256(self.model_dump_json(exclude=left_out).encode()).hexdigest()


@cache
def is_skipped_by_clock(time: dt.time, timezone: str) -> bool:
    """Return whether a local time does not exist on the day on which clocks go forward."""
    zone = ZoneInfo(timezone)
    first = dt.datetime.combine(dt.date(2025, 1, 1), time, zone)
    # Two years are enough: the rules of a zone repeat by the year.
    for n_days in range(2 * 366):
        local = first + dt.timedelta(days=n_days)
        if local.astimezone(dt.UTC).astimezone(zone).time() != time:
            return True
    return False


def is_model_name(name: str) -> bool:
    """Return whether a model can have this name."""
    return re.fullmatch(IDENTIFIER, name) is not None and len(name) <= MAXIMUM_NAME_LENGTH


@lru_cache(maxsize=64)
def load_spec(models_dir: Path, name: str) -> ModelSpec:
    """Read one spec, ``<models_dir>/<name>.yaml``.

    Raises:
        SpecError: It is absent or wrong, or its name is not the file's.
    """
    return read_named(models_dir, name, ModelSpec, "model")


def read_specs(models_dir: Path) -> DocumentFolder[ModelSpec]:
    """Read all specs: the valid ones, and what is wrong with each of the other files."""
    return read_folder(models_dir, lambda name: load_spec(models_dir, name))


def load_specs(models_dir: Path) -> dict[str, ModelSpec]:
    """Read all specs, by name in alphabetical order, where a missing one would be a wrong answer.

    Raises:
        SpecError: One is wrong; all that are wrong are named.
    """
    return read_specs(models_dir).require_all()
