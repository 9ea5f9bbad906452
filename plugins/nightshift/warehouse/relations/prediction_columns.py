"""What analysts read of one model's predictions: three views, and what each column says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec


@dataclass(frozen=True)
class ViewColumn:
    """A column of a view.

    Attributes:
        data_type: PostgreSQL's; empty if only the label relation knows it.
        description: For people.
    """

    data_type: str
    description: str


# In the order of macros/predictions.sql. In braces: words of the spec.
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
        " fallback_rule; named_version by hand.",
    ),
    "score_source_reason": ViewColumn(
        "text",
        "Why not the champion; for carried_over whose old score,"
        " for named_version by whom; null for a champion.",
    ),
    "run_id": ViewColumn("text", "The run that wrote the row."),
}
_HISTORY_COLUMNS = {
    "published_at": ViewColumn("timestamp with time zone", "From when readers saw this load, UTC."),
    "superseded_at": ViewColumn(
        "timestamp with time zone",
        "When a newer load took its place, UTC; null while it is current.",
    ),
}
_OUTCOME_COLUMNS = {
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


@dataclass(frozen=True)
class PredictionView:
    """A view of one model's predictions, as people read it.

    Attributes:
        suffix: ``current``, ``history`` or ``outcomes``: what follows the model's name.
        description: What it holds, its grain and its owner.
        columns: Its columns by name, in order.
    """

    suffix: str
    description: str
    columns: Mapping[str, ViewColumn]


def prediction_views(spec: ModelSpec) -> dict[str, PredictionView]:
    """Return the views of a model's predictions, by suffix."""
    grain = f"one row per {spec.entity.name} and night"
    contents = {
        "current": f"The predictions that count now. Grain: {grain}.",
        "history": "Every load that was ever published, also the superseded ones."
        f" Grain: {grain} and load.",
        "outcomes": f"The predictions that count now, and what came true. Grain: {grain}.",
    }
    more_columns = {"history": _HISTORY_COLUMNS, "outcomes": _OUTCOME_COLUMNS}
    views = {}
    for suffix, content in contents.items():
        description = f"{spec.description} {content} Owner: {spec.owner}."
        columns = describe_columns(spec, PREDICTION_COLUMNS | more_columns.get(suffix, {}))
        views[suffix] = PredictionView(suffix, description, columns)
    return views


def describe_table(spec: ModelSpec) -> str:
    """Return what the table behind the views holds."""
    return (
        f"Every load of {spec.name}, published or not: read the views in schema analytics."
        f" Grain: partition, load and {spec.entity.name}."
    )


def describe_columns(spec: ModelSpec, templates: Mapping[str, ViewColumn]) -> dict[str, ViewColumn]:
    """Return columns by name, with the words of the spec."""
    score = f"the predicted {spec.label.column}"
    if spec.task is Task.BINARY:
        score = "the probability before calibration"
    words = {
        "key": spec.entity.key,
        "entity": spec.entity.name,
        "label": spec.label.column,
        "score": score,
    }
    # The name of the key column is a word of the spec too.
    columns = {}
    for name, column in templates.items():
        description = column.description.format(**words)
        columns[name.format(**words)] = ViewColumn(column.data_type, description)
    return columns
