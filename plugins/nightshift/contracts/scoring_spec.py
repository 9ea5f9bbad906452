"""How a partition is scored, what is published without a usable model, and what analysts read."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from nightshift.contracts.reserved_names import PREDICTION_COLUMNS, VIEW_COLUMNS
from nightshift.contracts.yaml_document import Days, Frozen, Identifier, PositiveDays, PositiveInt

OTHER_CAUSE = "other"
"""Features that no declared cause names."""

SHARES_TOLERANCE = 1e-6
"""By how much declared shares may miss 1: they are written with a few digits."""

# Who computes raw scores. Source: docs/adr/0022-engines.md.
EngineChoice = Literal["auto", "lightgbm", "quickscorer"]


class FallbackRule(Frozen):
    """What is published without a usable champion; also the rule baseline that a model must beat.

    Attributes:
        feature: Numeric column of the feature view that serves as the score; empty for task
            ``multiclass``.
        default: Score where that column is null.
        shares: Task ``multiclass`` only: the probability of each class, in the order of
            ``classes``; the largest is the predicted class.
    """

    feature: Identifier = ""
    default: float = 0.0
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()

    @model_validator(mode="after")
    def _is_one_rule(self) -> FallbackRule:
        declared = self.model_fields_set
        if self.shares:
            if declared & {"feature", "default"}:
                raise ValueError("either shares, or feature and default")
            if abs(sum(self.shares) - 1) > SHARES_TOLERANCE:
                raise ValueError(f"shares that add up to 1, not to {sum(self.shares):g}")
        elif not {"feature", "default"} <= declared:
            raise ValueError("feature and default, or the shares of the classes")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of the feature view that the rule reads."""
        return (self.feature,) if self.feature else ()


class CarryOver(Frozen):
    """How the last score of the same recurring entity serves when no model can score.

    Attributes:
        key: Columns that identify the entity on another day, of the spine's relation, or of the
            feature view without a spine; empty takes the entity's key itself.
        maximum_age_days: Older scores are not used; 0 switches the step off.
        half_life_days: After so many days half of the difference to the rule's score is left.
    """

    key: tuple[Identifier, ...] = ()
    maximum_age_days: Days = 7
    half_life_days: float = Field(default=3.5, gt=0)


class Spine(Frozen):
    """Where the entities of a partition stand when its feature view is not published.

    Attributes:
        relation: Relation of schema ``staging`` with the entity's key, ``partition_date``,
            ``load_id``, ``known_at`` and ``superseded_at``.
        event_timestamp: Its column that says when the predicted thing happens.
        key_parts: Columns whose values, joined by ``_``, make the entity's key; with ``day`` they
            allow to expect an earlier list again.
        day: The date among ``key_parts``.
        repeat_days: Without the list of this partition, the one of so many days before is expected
            again; 0 switches that off.
        repeat_times: How often ``repeat_days`` may be gone back.
    """

    relation: Identifier
    event_timestamp: Identifier
    key_parts: tuple[Identifier, ...] = ()
    day: Identifier | None = None
    repeat_days: Days = 7
    repeat_times: PositiveDays = 3

    @model_validator(mode="after")
    def _day_is_a_part(self) -> Spine:
        # An expected list has the keys of an earlier one with its day replaced.
        if self.day is not None and self.day not in self.key_parts:
            raise ValueError("day is one of key_parts")
        return self


class Interval(Frozen):
    """How sure a prediction says that it is.

    A regression publishes a median and an interval for each row, a binary model the band of the
    night. Source: docs/adr/0054-intervals.md.

    Attributes:
        level: Share of the outcomes that lies within the interval, and of the nights whose rate
            lies within the band.
        mature_nights: Newest mature nights that it is estimated from; those on which a training
            measured its out-of-fold scores count until newer ones are there.
        minimum_nights: Fewer nights give none.
        adaptation: Of what the last nights missed, the share by which each moves the quantile that
            the next ones take; 0 keeps the nominal quantiles.
    """

    level: float = Field(default=0.8, ge=0.5, le=0.98)
    mature_nights: int = Field(default=28, ge=2, le=90)
    minimum_nights: int = Field(default=10, ge=2)
    adaptation: float = Field(default=0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _has_nights_enough(self) -> Interval:
        if self.minimum_nights > self.mature_nights:
            raise ValueError("minimum_nights <= mature_nights")
        return self


class Scoring(Frozen):
    """How a partition is scored.

    Attributes:
        shards: Number of mapped tasks per partition range; entities are split by hash of their key.
        reasons: Number of top reasons per row; 0 switches them off.
        engine: ``lightgbm`` is the reference; ``auto`` takes the accelerated ``quickscorer`` where
            training has proved it equal in every bit; ``quickscorer`` does the same, and logs an
            error where it cannot.
        fallback: The rule, the last step of the fallback chain.
        carry_over: The step before it: the last score of the same entity, aged.
        spine: Where the entities stand without features; null leaves a partition without features
            to a person, unless the entity recurs.
        rescue_minutes_before_deadline: When the rescue checks whether the partition is published.
        interval: The median and interval of each row, or the band of a night; null publishes none.
    """

    shards: int = Field(default=2, ge=1, le=1000)
    reasons: int = Field(default=3, ge=0, le=1000)
    engine: EngineChoice = "auto"
    fallback: FallbackRule
    carry_over: CarryOver = CarryOver()
    spine: Spine | None = None
    rescue_minutes_before_deadline: int = Field(default=60, ge=1, le=1440)
    interval: Interval | None = Interval()


class Cause(Frozen):
    """A group of features that a person would name as one reason.

    Attributes:
        name: Short, for a column; contributions are stored under it.
        words: What the group says, as the beginning of a sentence; empty takes the name.
        features: Its features.
    """

    name: str = Field(min_length=1, max_length=60)
    words: str = ""
    features: tuple[Identifier, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _is_not_the_rest(cls, name: str) -> str:
        if name == OTHER_CAUSE:
            raise ValueError(f"{OTHER_CAUSE!r} holds the features that no cause names")
        return name


class Analytics(Frozen):
    """What the views of schema ``analytics`` say of a model besides its predictions.

    Attributes:
        attributes: Columns of the feature view to slice by, such as a region; the views show their
            values as they were when the row was scored.
        unit: Unit of the predicted value, such as ``minutes``; binary models need none.
        version: Raise it when an attribute goes or changes its type: the views of before stay under
            names with the old version.
        causes: Groups of features that explain a prediction together; a feature is in one at most.
            The view of causes says what each adds.
    """

    attributes: tuple[Identifier, ...] = ()
    unit: str = ""
    version: PositiveInt = 1
    causes: tuple[Cause, ...] = ()

    @property
    def cause_of(self) -> dict[str, str]:
        """Return the cause of each feature that has one, by feature."""
        causes: dict[str, str] = {}
        for cause in self.causes:
            causes |= dict.fromkeys(cause.features, cause.name)
        return causes

    @field_validator("causes")
    @classmethod
    def _are_disjoint(cls, causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
        names = Counter(cause.name for cause in causes)
        names.update(chain.from_iterable(cause.features for cause in causes))
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise ValueError(f"each cause and each feature once; {', '.join(twice)} is there twice")
        return causes

    @field_validator("attributes")
    @classmethod
    def _are_new_columns(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted(set(names) & (PREDICTION_COLUMNS | VIEW_COLUMNS))
        if taken or len(set(names)) < len(names):
            problem = ", ".join(taken) or "a name that is there twice"
            raise ValueError(f"names of columns that the views do not have yet; not {problem}")
        # The views number their columns of reasons.
        numbered = [name for name in names if name.startswith(("reason_", "effect_"))]
        if numbered:
            raise ValueError(
                f"{', '.join(numbered)}: reason_<n> and effect_<n> are columns of ours"
            )
        return names
