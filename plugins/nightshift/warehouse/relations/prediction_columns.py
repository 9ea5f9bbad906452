"""What the columns of the analysts' views say: type, unit, description, and what replaces them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.contracts.partitions import operating_timezone
from nightshift.contracts.tasks.classes import CLASS_COLUMN, CORRECT_COLUMN, RAW_COLUMN
from nightshift.contracts.tasks.ranking import RANK_COLUMN, TOP_COLUMN

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec


RAW_UNIT = "raw score"
"""Unit of effects on a class: a logarithm, of what the class's share is in proportion to. The score
of a ranking has it too.
"""


@dataclass(frozen=True)
class ViewColumn:
    """A column of a view.

    Attributes:
        data_type: PostgreSQL's; empty if only the label relation knows it.
        description: For people.
        unit: Of its numbers; empty without one.
        replaced_by: The column to read instead, for a deprecated one; empty for all others.
    """

    data_type: str
    description: str
    unit: str = ""
    replaced_by: str = ""


# Columns of the table and of the views of version 1, in their order. In braces: words of the spec.
PREDICTION_COLUMNS = {
    "partition_date": ViewColumn("date", "Operating day whose night made the prediction."),
    "load_id": ViewColumn("bigint", "The load that wrote the row."),
    "{key}": ViewColumn("text", "The {entity} that is predicted for."),
    "event_timestamp": ViewColumn(
        "timestamp with time zone",
        "When the predicted thing is due to happen, UTC.",
    ),
    "score": ViewColumn("double precision", "What rows are ordered by: {score}."),
    "probability": ViewColumn(
        "double precision",
        "Calibrated probability, 0 to 1, of the positive class;"
        " null for models that are not binary.",
    ),
    "decile": ViewColumn(
        "smallint",
        "10 (highest) to 1: where the score lies among its model's hold-out,"
        " or without a model within its night.",
    ),
    "is_positive": ViewColumn(
        "boolean",
        "Whether the probability reaches the model's threshold;"
        " null for models that are not binary.",
    ),
    "reasons": ViewColumn(
        "jsonb",
        "The features that moved the score most, as [{{feature, value, contribution}}],"
        " the strongest first.",
    ),
    "model_version": ViewColumn(
        "integer",
        "Version of the model that scored tonight's features; null where none did.",
    ),
    "features_as_of": ViewColumn(
        "timestamp with time zone",
        "Nothing that was delivered later than this was used, UTC.",
    ),
    "score_source": ViewColumn(
        "text",
        "champion, previous_champion, carried_over (an older score of a model, aged),"
        " fallback_rule; canary (a challenger on a share of the entities); named_version by hand.",
    ),
    "score_source_reason": ViewColumn(
        "text",
        "Why not the champion; for carried_over whose old score,"
        " for named_version by whom, for canary since when; null for a champion.",
    ),
    "run_id": ViewColumn("text", "The run that wrote the row."),
}
TABLE_COLUMNS = PREDICTION_COLUMNS | {
    "causes": ViewColumn(
        "jsonb",
        "What the features of each declared cause add to the raw score, by cause;"
        " null where no model scored.",
    ),
    "median": ViewColumn(
        "double precision",
        "As many outcomes lie below as above; null without a model, and for binary models.",
    ),
    "interval_low": ViewColumn(
        "double precision",
        "Lower end of the interval of a value, or of the probability's band of the night;"
        " null without one.",
    ),
    "interval_high": ViewColumn("double precision", "Upper end of the same."),
}
HISTORY_COLUMNS_V1 = {
    "published_at": ViewColumn("timestamp with time zone", "From when readers saw this load, UTC."),
    "superseded_at": ViewColumn(
        "timestamp with time zone",
        "When a newer load took its place, UTC; null while it is current.",
    ),
}
OUTCOME_COLUMNS_V1 = {
    "outcome": ViewColumn(
        "",
        "What came true: {label} as last delivered;"
        " null while unknown, or when this {entity} never gets one.",
    ),
    "outcome_known_at": ViewColumn(
        "timestamp with time zone", "When that outcome was delivered, UTC."
    ),
    "is_mature": ViewColumn(
        "boolean",
        "Whether so many days of outcomes have been delivered since that it counts as final.",
    ),
}

# What the views of today have besides.
_REASON = ViewColumn(
    "text",
    "Reason {n} in words: the feature, its value, what was usual in training, and its effect;"
    " null where a row has fewer reasons.",
)
_EFFECT = ViewColumn(
    "double precision",
    "What reason {n} adds to the prediction, against the base.",
    "{effect_unit}",
)
_OTHER_EFFECTS = ViewColumn(
    "double precision",
    "What all other features add: base + effects + other effects is the prediction.",
    "{effect_unit}",
)
_PROBABILITY = ViewColumn(
    "double precision", "Calibrated probability of the positive class, 0 to 1.", "probability"
)
_BASE_PROBABILITY = ViewColumn(
    "double precision",
    "What the model version answers before it knows the row; effects add up from here.",
    "probability",
)
_BAND = ViewColumn(
    "double precision",
    "{end} end of the probability's band: the night as a whole may be so much {way} with {level};"
    " null without one.",
    "probability",
)
_INTERVAL = ViewColumn(
    "double precision",
    "{end} end of the interval that the {label} lies in with {level}; null without one.",
    "{unit}",
)
_MEDIAN = ViewColumn(
    "double precision",
    "The {label} that is as likely to be exceeded as not; below the value where a few outcomes are"
    " very high. Null without an interval.",
    "{unit}",
)
_VALUE = ViewColumn("double precision", "The predicted {label}.", "{unit}")
_BASE_VALUE = ViewColumn(
    "double precision",
    "What the model version answers before it knows the row; effects add up from here.",
    "{unit}",
)
_PREDICTED_CLASS = ViewColumn("text", "The likeliest {label}, the first of equals.")
_PROBABILITY_OF_PREDICTED = ViewColumn(
    "double precision", "Calibrated probability of the predicted class, 0 to 1.", "probability"
)
_PROBABILITY_OF_CLASS = (
    "Calibrated probability that {label} is {class}; those of all classes add up to 1."
)
_RAW_SCORE = ViewColumn(
    "double precision",
    "Raw score of the predicted class: base + effects + other effects. Null without a model.",
    RAW_UNIT,
)
_BASE_OF_CLASS = ViewColumn(
    "double precision",
    "What the model version answers for the predicted class before it knows the row; effects add up"
    " from here.",
    RAW_UNIT,
)
_RANKS = {
    RANK_COLUMN: ViewColumn(
        "integer",
        "1 is the best of its group and night; of equal scores the lower key comes first.",
    ),
    TOP_COLUMN: ViewColumn("boolean", "Whether the rank is at most top_k: the row is chosen."),
}
_SCORE_OF_RANKING = ViewColumn(
    "double precision",
    "What orders the rows of a group: base + effects + other effects. It compares within a group"
    " and night only.",
    RAW_UNIT,
)
_BASE_OF_RANKING = ViewColumn(
    "double precision",
    "What the model version answers before it knows the row; effects add up from here.",
    RAW_UNIT,
)
_PREDICTED_DAY = ViewColumn(
    "date", "Operating day on which the predicted thing is due, in {timezone}."
)
_ATTRIBUTE = ViewColumn("", "{name} of the {entity}, as it was when the row was scored.")


def front_columns(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return what a person looks at first: templates by name, in order."""
    attributes = dict.fromkeys(spec.analytics.attributes, _ATTRIBUTE)
    # One answer per task: no column that is always null.
    answer = {"value": _VALUE, "median": _MEDIAN, **_ends("value", _INTERVAL)}
    if spec.task is Task.BINARY:
        answer = {
            "probability": _PROBABILITY,
            **_ends("probability", _BAND),
            "is_positive": PREDICTION_COLUMNS["is_positive"],
        }
    if spec.classes:
        answer = {
            CLASS_COLUMN: _PREDICTED_CLASS,
            "probability": _PROBABILITY_OF_PREDICTED,
            **_class_probabilities(spec),
        }
    if spec.is_ranking:
        answer = {**_RANKS, "score": _SCORE_OF_RANKING}
    return {
        "{key}": PREDICTION_COLUMNS["{key}"],
        "predicted_day": _PREDICTED_DAY,
        **attributes,
        **answer,
        "decile": PREDICTION_COLUMNS["decile"],
    }


def _class_probabilities(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return the column of each class's probability."""
    columns = {}
    for name, column in spec.class_columns.items():
        # A class may be written with braces, which templates keep for words of the spec.
        quoted = repr(name).replace("{", "{{").replace("}", "}}")
        description = _PROBABILITY_OF_CLASS.replace("{class}", quoted)
        columns[column] = ViewColumn("double precision", description, "probability")
    return columns


def table_columns_of(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return the templates of a model's table, in order."""
    if spec.is_ranking:
        return TABLE_COLUMNS | _RANKS
    if not spec.classes:
        return TABLE_COLUMNS
    columns = {CLASS_COLUMN: _PREDICTED_CLASS, RAW_COLUMN: _RAW_SCORE}
    return TABLE_COLUMNS | columns | _class_probabilities(spec)


def _ends(name: str, column: ViewColumn) -> dict[str, ViewColumn]:
    """Return the columns of the lower and the upper end."""
    ends = {}
    for suffix, end, way in (("low", "Lower", "lower"), ("high", "Upper", "higher")):
        description = column.description.replace("{end}", end).replace("{way}", way)
        ends[f"{name}_{suffix}"] = replace(column, description=description)
    return ends


def reason_columns(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return the reasons in words, their effects, and what is left to the base."""
    columns: dict[str, ViewColumn] = {}
    for number in range(1, spec.scoring.reasons + 1):
        columns[f"reason_{number}"] = _REASON
        columns[f"effect_{number}"] = _EFFECT
    columns["other_effects"] = _OTHER_EFFECTS
    if spec.task is Task.BINARY:
        return columns | {"base_probability": _BASE_PROBABILITY}
    if spec.classes:
        return columns | {"base_value": _BASE_OF_CLASS}
    if spec.is_ranking:
        return columns | {"base_value": _BASE_OF_RANKING}
    return columns | {"base_value": _BASE_VALUE}


def outcome_columns(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return what came true, and how wrong the prediction was."""
    loss = {
        "absolute_error": ViewColumn(
            "double precision", "Distance of the predicted value from the outcome.", "{unit}"
        )
    }
    outcome_type = "double precision"
    if spec.task.has_probability:
        outcome_type = "integer"
        loss = {
            "log_loss": ViewColumn(
                "double precision",
                "Minus the logarithm of the probability that was given to what came true; its mean"
                " is the log loss of any slice.",
                "nats",
            )
        }
    if spec.classes:
        outcome_type = "text"
        right = ViewColumn("boolean", "Whether the predicted class came true.")
        loss = {CORRECT_COLUMN: right, **loss}
    if spec.is_ranking:
        # How wrong an order is, is a number of the group.
        loss = {}
    outcome = OUTCOME_COLUMNS_V1["outcome"]
    return {
        "outcome": ViewColumn(outcome_type, outcome.description, "{unit}"),
        **loss,
        "is_mature": OUTCOME_COLUMNS_V1["is_mature"],
        "outcome_known_at": OUTCOME_COLUMNS_V1["outcome_known_at"],
    }


def back_columns(spec: ModelSpec, *, is_history: bool = False) -> dict[str, ViewColumn]:
    """Return where a row comes from, deprecated columns, and the ids of loads last."""
    source = (
        "model_version",
        "score_source",
        "score_source_reason",
    )
    columns = {name: PREDICTION_COLUMNS[name] for name in source}
    # The words of a person; the name of the table's column stays until it is removed.
    as_of = PREDICTION_COLUMNS["features_as_of"]
    columns["known_as_of"] = as_of
    columns["published_at"] = HISTORY_COLUMNS_V1["published_at"]
    if is_history:
        columns["superseded_at"] = HISTORY_COLUMNS_V1["superseded_at"]
    for name in ("event_timestamp", "partition_date"):
        columns[name] = PREDICTION_COLUMNS[name]
    columns["reasons"] = _deprecated("reasons", "reason_1 and the view of reasons")
    if spec.classes:
        columns[RAW_COLUMN] = _RAW_SCORE
    if spec.task.has_probability:
        columns["score"] = PREDICTION_COLUMNS["score"]
    # The score of a ranking stands in front.
    elif not spec.is_ranking:
        columns["score"] = _deprecated("score", "value")
        # Always null: a table of every task has them.
        columns["probability"] = _deprecated("probability", "value")
        columns["is_positive"] = _deprecated("is_positive", "value")
    columns["features_as_of"] = _deprecated("features_as_of", "known_as_of")
    return columns | {name: PREDICTION_COLUMNS[name] for name in ("load_id", "run_id")}


def _deprecated(name: str, replaced_by: str) -> ViewColumn:
    return replace(PREDICTION_COLUMNS[name], replaced_by=replaced_by)


def describe_table(spec: ModelSpec) -> str:
    """Return what the table behind the views holds."""
    return (
        f"Every load of {spec.name}, published or not: read the views in schema analytics."
        f" Grain: partition, load and {spec.entity.name}."
    )


def describe_columns(spec: ModelSpec, templates: Mapping[str, ViewColumn]) -> dict[str, ViewColumn]:
    """Return columns by name, with the words of the spec."""
    is_binary = spec.task is Task.BINARY
    score = f"the predicted {spec.label.column}"
    if is_binary:
        score = "the probability before calibration"
    if spec.classes:
        score = "the probability of the predicted class before calibration"
    if spec.is_ranking:
        score = "a number without a unit, which compares within a group and night only"
    words = {
        "key": spec.entity.key,
        "entity": spec.entity.name,
        "label": spec.label.column,
        "score": score,
        "unit": "" if spec.task.has_probability else spec.analytics.unit,
        "effect_unit": effect_unit(spec),
        "level": interval_level(spec),
        "timezone": operating_timezone(),
    }
    # The name of the key column is a word of the spec too.
    columns = {}
    for template, column in templates.items():
        name = template.format(**words)
        number = name.rpartition("_")[2]
        description = column.description.format(**words, name=name, n=number)
        unit = column.unit.format(**words)
        columns[name] = replace(column, description=description, unit=unit)
    return columns


def interval_level(spec: ModelSpec) -> str:
    """Return the level of a model's intervals in words."""
    interval = spec.scoring.interval
    return f"{interval.level:.0%} probability" if interval else "the declared probability"


def effect_unit(spec: ModelSpec) -> str:
    """Return the unit of what a reason adds to a prediction."""
    if spec.classes or spec.is_ranking:
        return RAW_UNIT
    return "points" if spec.task is Task.BINARY else spec.analytics.unit
