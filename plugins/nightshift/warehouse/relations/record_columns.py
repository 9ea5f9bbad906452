"""What the columns of a model's reasons, changes, performance and versions say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.contracts.tasks.classes import CLASS_COLUMN
from nightshift.warehouse.relations.prediction_columns import (
    HISTORY_COLUMNS_V1,
    PREDICTION_COLUMNS,
    ViewColumn,
    front_columns,
    reason_columns,
)

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

_DOUBLE = "double precision"


def _explained_columns(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return what a reason or cause explains, and where it comes from, in order."""
    front = front_columns(spec)
    # A binary model's prediction has a name of its own.
    prediction = {"prediction": front["value"]} if "value" in front else {}
    if spec.is_ranking:
        prediction = {"score": front["score"]}
    if spec.classes:
        prediction = {CLASS_COLUMN: front[CLASS_COLUMN]}
    if spec.task.has_probability:
        prediction |= {"probability": front["probability"]}
    # The base stands last among the columns of reasons.
    base = list(reason_columns(spec).items())[-1]
    return {
        **prediction,
        base[0]: base[1],
        "model_version": PREDICTION_COLUMNS["model_version"],
        "published_at": HISTORY_COLUMNS_V1["published_at"],
        "partition_date": PREDICTION_COLUMNS["partition_date"],
        "load_id": PREDICTION_COLUMNS["load_id"],
    }


def causes_view_columns(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return the columns of one row per cause, in order."""
    front = front_columns(spec)
    return {
        "{key}": front["{key}"],
        "predicted_day": front["predicted_day"],
        "rank": ViewColumn("smallint", "1 is the strongest cause."),
        "reason": ViewColumn(
            "text",
            "The cause in words, with its effect and the strongest published reason in it.",
        ),
        "effect": ViewColumn(
            _DOUBLE,
            "What its features add to the prediction, against the base; the effects of all causes"
            " and the base are the prediction.",
            "{effect_unit}",
        ),
        "share": ViewColumn(
            _DOUBLE, "Its part of the sum of all causes' absolute effects, 0 to 1.", "share"
        ),
        "cause": ViewColumn(
            "text", "Name of the group of features; other for those that no cause names."
        ),
        "words": ViewColumn("text", "What the group says."),
        "strongest_feature": ViewColumn(
            "text", "Its feature that stands highest among the published reasons; null without one."
        ),
        "contribution": ViewColumn(
            _DOUBLE, "Sum of its features' Shapley values, to 9 decimals.", "raw score"
        ),
        **_explained_columns(spec),
    }


def reasons_view_columns(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return the columns of one row per reason, in order."""
    front = front_columns(spec)
    return {
        "{key}": front["{key}"],
        "predicted_day": front["predicted_day"],
        # The sentence first, then what it is made of.
        "rank": ViewColumn("smallint", "1 is the strongest reason."),
        "reason": ViewColumn("text", "The reason in words, with its effect."),
        "effect": ViewColumn(
            _DOUBLE, "What it adds to the prediction, against the base.", "{effect_unit}"
        ),
        "feature": ViewColumn("text", "The feature's column in the feature view."),
        "label": ViewColumn("text", "The feature in a person's words."),
        "cause": ViewColumn("text", "The cause that it belongs to; null without one."),
        "value": ViewColumn("text", "Its value, as it was scored; null if unknown."),
        "unit": ViewColumn("text", "Unit of the value; share is 0 to 1, shown as a percentage."),
        "usual_low": ViewColumn(_DOUBLE, "A fifth of the version's training rows lies below."),
        "usual_high": ViewColumn(_DOUBLE, "A fifth of the version's training rows lies above."),
        "usual_level": ViewColumn("text", "Most frequent level in training."),
        "description": ViewColumn("text", "What the feature says."),
        "contribution": ViewColumn(
            _DOUBLE, "What it adds to the raw score: its Shapley value.", "raw score"
        ),
        **_explained_columns(spec),
    }


def changes_view_columns(spec: ModelSpec) -> dict[str, ViewColumn]:
    """Return the columns of one row per entity and compared pair of loads, in order."""
    front = front_columns(spec)
    name = "probability" if spec.task.has_probability else "value"
    answer = front[name]
    before = ViewColumn(_DOUBLE, "The earlier prediction.", answer.unit)
    deciles = PREDICTION_COLUMNS["decile"]
    return {
        "{key}": front["{key}"],
        "predicted_day": front["predicted_day"],
        "comparison": ViewColumn(
            "text",
            "rerun: with an earlier load of the same night; night before: what counts of both.",
        ),
        f"{name}_before": before,
        name: answer,
        "change": ViewColumn(_DOUBLE, "The later prediction minus the earlier.", "{effect_unit}"),
        # Both sides of each column stand together, the earlier one first.
        "decile_before": ViewColumn(deciles.data_type, "Decile of the earlier prediction."),
        "decile": deciles,
        "what_moved_it": ViewColumn(
            "text", "The features that moved it most, in words; null if none is known."
        ),
        # The exact differences, for whoever sums or joins them.
        "contribution_changes": ViewColumn(
            "jsonb",
            "By feature: value and contribution before and after, change, effect; change and effect"
            " are null where one of the two was not published.",
        ),
        "base_effect": ViewColumn(
            _DOUBLE, "What another model version's base adds.", "{effect_unit}"
        ),
        "other_effects": ViewColumn(
            _DOUBLE,
            "What features without a known difference add: base effect + effects + other effects is"
            " the change.",
            "{effect_unit}",
        ),
        "is_complete": ViewColumn(
            "boolean", "Whether all contributions of both predictions are published."
        ),
        "model_version_before": ViewColumn("integer", "Version of the earlier prediction."),
        "model_version": PREDICTION_COLUMNS["model_version"],
        "score_source_before": ViewColumn("text", "Source of the earlier prediction."),
        "score_source": PREDICTION_COLUMNS["score_source"],
        "published_before": ViewColumn(
            "timestamp with time zone", "When the earlier load was published, UTC."
        ),
        "published_at": HISTORY_COLUMNS_V1["published_at"],
        "is_consecutive": ViewColumn(
            "boolean", "Whether no other load of the night was published in between."
        ),
        "partition_date_before": ViewColumn("date", "Night of the earlier prediction."),
        "partition_date": PREDICTION_COLUMNS["partition_date"],
        "load_id_before": ViewColumn("bigint", "Load of the earlier prediction."),
        "load_id": PREDICTION_COLUMNS["load_id"],
    }


# Columns of views that are the same for every model.
_STATUS = "ok, breached or unknown."
PERFORMANCE_COLUMNS = {
    "predicted_day": ViewColumn("date", "Operating day that was predicted."),
    "metric": ViewColumn("text", "Name of the metric."),
    "slice_name": ViewColumn("text", "Attribute of the slice; all for all rows."),
    "slice_value": ViewColumn("text", "Its value."),
    "value": ViewColumn(_DOUBLE, "The metric of the published predictions."),
    "baseline_value": ViewColumn(_DOUBLE, "The metric of the fallback rule on the same rows."),
    "expected_value": ViewColumn(
        _DOUBLE, "The metric on the version's hold-out; for the monitored metric of all rows."
    ),
    "n_labels": ViewColumn("bigint", "Rows with a known outcome."),
    "maturity": ViewColumn("text", "mature: final; maturing or immature: outcomes are missing."),
    "performance_status": ViewColumn("text", f"Verdict on the loss against expectation: {_STATUS}"),
    "drift_status": ViewColumn("text", f"Verdict on the features' drift that night: {_STATUS}"),
    "has_requested_retraining": ViewColumn("boolean", "Whether the verdict asked for a training."),
    "model_version": ViewColumn("integer", "Version that predicted; null for the fallback rule."),
    "measured_on": ViewColumn("date", "Night that measured, with the outcomes that it knew."),
    "partition_date": PREDICTION_COLUMNS["partition_date"],
    "value_low": ViewColumn(
        _DOUBLE,
        "Lower bound of the 95 % interval of value, by draws of the night's rows: other rows of the"
        " same day, not another day.",
    ),
    "value_high": ViewColumn(_DOUBLE, "Upper bound of the same interval."),
}
VERSION_COLUMNS = {
    "model_version": ViewColumn("integer", "The version."),
    "champion_from": ViewColumn("date", "First night that it was champion for; null for none."),
    "champion_until": ViewColumn("date", "Last such night; null while nothing follows."),
    "is_newest_champion": ViewColumn("boolean", "Whether the next night is scored by it."),
    "verdict": ViewColumn("text", "first, promoted, refused or rolled_back; null if undecided."),
    "why": ViewColumn("text", "Why it was promoted or refused, in words."),
    "metric": ViewColumn("text", "The metric that decides."),
    # Measured before it served; what it achieved stands in the view of the performance.
    "holdout_value": ViewColumn(_DOUBLE, "That metric on days that the version never saw."),
    "baseline_value": ViewColumn(_DOUBLE, "The same of the rule baseline."),
    "holdout_metrics": ViewColumn("jsonb", "Every hold-out metric, by source."),
    "trained_at": ViewColumn("timestamp with time zone", "When it was registered, UTC."),
    "trained_on_night": ViewColumn("date", "The night whose knowledge it was trained with."),
    "training_first_day": ViewColumn("date", "First partition of its training set."),
    "training_last_day": ViewColumn("date", "Last partition of its training set."),
    "n_training_rows": ViewColumn("bigint", "Rows of its training set."),
    "compared_with_version": ViewColumn("integer", "The champion that it was compared with."),
    "decided_at": ViewColumn("timestamp with time zone", "When the gate decided, UTC."),
    "decided_by": ViewColumn("text", "Who started the run that decided."),
}
