"""The views that analysts read of one model: what each promises, and in which version.

Source: docs/adr/0048-analysts-contract.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nightshift.contracts.metrics import Task
from nightshift.contracts.partitions import operating_timezone
from nightshift.contracts.tasks.ranking import RANK_COLUMN
from nightshift.warehouse.relations.prediction_columns import (
    HISTORY_COLUMNS_V1,
    OUTCOME_COLUMNS_V1,
    PREDICTION_COLUMNS,
    ViewColumn,
    back_columns,
    describe_columns,
    front_columns,
    outcome_columns,
    reason_columns,
)
from nightshift.warehouse.relations.record_columns import (
    PERFORMANCE_COLUMNS,
    VERSION_COLUMNS,
    causes_view_columns,
    changes_view_columns,
    reasons_view_columns,
)

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

VERSIONS = {
    "current": (2, 1),
    "history": (2, 1),
    "outcomes": (2, 1),
    "reasons": (1, 0),
    "causes": (1, 0),
    "changes": (1, 0),
    "performance": (1, 1),
    "versions": (1, 0),
}
"""Major and minor version of each view. A column that goes, or changes its type or order, raises
the major version, and the view of before stays; a new column raises the minor one.
"""
REMOVED_AFTER = {"current_v1": dt.date(2027, 6, 1)}
REMOVED_AFTER |= dict.fromkeys(("history_v1", "outcomes_v1"), REMOVED_AFTER["current_v1"])
"""Deprecated views, and until when they stay."""
_ONLY_OF_VALUES = ("changes", *REMOVED_AFTER)
"""Views of binary models and regressions: contributions to two classes, or scores of two rankings,
cannot be compared, and no older view of these tasks was ever read.
"""


@dataclass(frozen=True)
class PredictionView:
    """A view of one model, as people read it.

    Attributes:
        suffix: What follows the model's name, such as ``current`` or ``current_v1``.
        version: Semantic version of its contract.
        content: What it holds.
        grain: What one row stands for.
        example: A query that works.
        columns: Its columns by name, in order.
        owner: Team that answers for it.
        freshness: When it is new.
        model_description: What the model predicts.
        deprecated_by: The view to read instead; empty for all others.
    """

    suffix: str
    version: str
    content: str
    grain: str
    example: str
    columns: Mapping[str, ViewColumn]
    owner: str
    freshness: str
    model_description: str
    deprecated_by: str = ""

    @property
    def major(self) -> int:
        """Return the number that only a breaking change raises."""
        return int(self.version.partition(".")[0])

    @property
    def removed_after(self) -> dt.date | None:
        """Return until when a deprecated view stays."""
        return REMOVED_AFTER.get(self.suffix)

    @property
    def description(self) -> str:
        """Return content, grain and owner in words."""
        replaced = ""
        if self.deprecated_by:
            replaced = (
                f" Deprecated: read {self.deprecated_by}; removed after {self.removed_after}."
            )
        return (
            f"{self.model_description} {self.content} Grain: {self.grain}. Owner: {self.owner}."
            f"{replaced}"
        )

    @property
    def is_typed(self) -> bool:
        """Return whether the type of every column is known without the warehouse."""
        return all(column.data_type for column in self.columns.values())


def prediction_views(
    spec: ModelSpec, attribute_types: Mapping[str, str] | None = None
) -> dict[str, PredictionView]:
    """Return the views of a model by suffix, those of older versions last.

    Args:
        spec: The model.
        attribute_types: PostgreSQL types of ``analytics.attributes``; only dbt's contract reads
            them.
    """
    views = {}
    # Views of older versions have the words of those that replace them.
    for suffix, templates in _columns(spec, attribute_types or {}).items():
        current = suffix.removesuffix("_v1")
        content, grain, example = _WORDS[current]
        answer = "probability" if spec.task.has_probability else "value"
        words = {
            "model": spec.name,
            "entity": spec.entity.name,
            "key": spec.entity.key,
            "best_first": f"decile desc, {answer} desc",
            "loss": "log_loss" if spec.task.has_probability else "absolute_error",
            "by": next(iter(spec.analytics.attributes), "decile"),
        }
        if spec.is_ranking:
            words |= {"best_first": RANK_COLUMN, "loss": "outcome", "by": RANK_COLUMN}
        view = PredictionView(
            suffix=suffix,
            version=_version(spec, suffix),
            content=content.format(**words),
            grain=grain.format(**words),
            example=example.format(**words),
            columns=describe_columns(spec, templates),
            owner=spec.owner,
            freshness=f"each morning by {spec.deadline:%H:%M} {operating_timezone()}",
            model_description=spec.description,
        )
        if suffix != current:
            example = f"table analytics.{spec.name}_{suffix} limit 10"
            deprecated_by = f"analytics.{spec.name}_{current}"
            view = replace(view, example=example, deprecated_by=deprecated_by)
        views[suffix] = view
    return views


def current_suffixes(spec: ModelSpec) -> list[str]:
    """Return the suffixes of the views that a model must have: all that are not deprecated."""
    return [suffix for suffix in _columns(spec, {}) if not suffix.endswith("_v1")]


def _version(spec: ModelSpec, suffix: str) -> str:
    if suffix not in VERSIONS:
        return f"{suffix.rpartition('_v')[2]}.0.0"
    major, minor = VERSIONS[suffix]
    # The spec's own number counts breaking changes of its attributes.
    return f"{major + spec.analytics.version - 1}.{minor}.0"


def _columns(
    spec: ModelSpec, attribute_types: Mapping[str, str]
) -> dict[str, dict[str, ViewColumn]]:
    """Return the templates of each view's columns."""
    front = front_columns(spec)
    for name in spec.analytics.attributes:
        front[name] = replace(front[name], data_type=attribute_types.get(name, ""))
    # The order of these dictionaries is the order in the views.
    has_values = spec.task in (Task.BINARY, Task.REGRESSION)
    reasons = reason_columns(spec)
    history = reasons | back_columns(spec, is_history=True)
    views: dict[str, dict[str, ViewColumn]] = {
        "current": front | reasons | back_columns(spec),
        "history": front | history,
        "outcomes": front | outcome_columns(spec) | reasons | back_columns(spec),
        "reasons": reasons_view_columns(spec),
        "causes": causes_view_columns(spec),
        "changes": changes_view_columns(spec) if has_values else {},
        "performance": dict(PERFORMANCE_COLUMNS),
        "versions": dict(VERSION_COLUMNS),
        "current_v1": dict(PREDICTION_COLUMNS),
        "history_v1": PREDICTION_COLUMNS | HISTORY_COLUMNS_V1,
        "outcomes_v1": PREDICTION_COLUMNS | OUTCOME_COLUMNS_V1,
    }
    for suffix in () if has_values else _ONLY_OF_VALUES:
        del views[suffix]
    return views


# Content, grain and an example query; in braces: words of the spec.
_WORDS = {
    "current": (
        "The predictions that count now.",
        "one row per {entity} and night",
        """select *
from analytics.{model}_current
where predicted_day = current_date
order by {best_first} limit 20""",
    ),
    "history": (
        "Every load that was ever published, also the superseded ones.",
        "one row per {entity} and night and load",
        """select *
from analytics.{model}_history
where published_at <= now() - interval '1 day'
    and coalesce(superseded_at, 'infinity') > now() - interval '1 day'
limit 20""",
    ),
    "outcomes": (
        "The predictions that count now, and what came true.",
        "one row per {entity} and night",
        """select {by}, count(*), avg({loss}) as {loss}
from analytics.{model}_outcomes
where is_mature and outcome is not null
group by 1
order by 3 desc""",
    ),
    "reasons": (
        "Why the predictions that count now are what they are.",
        "one row per {entity}, night and reason",
        """select rank, reason
from analytics.{model}_reasons
where {key} = '…'
order by rank""",
    ),
    "causes": (
        "Why the predictions that count now are what they are, by groups of features.",
        "one row per {entity}, night and cause",
        """select rank, reason, round(100 * share) as percent_of_the_effect
from analytics.{model}_causes
where {key} = '…'
order by rank""",
    ),
    "changes": (
        "What predictions were before, and which features moved them.",
        "one row per {entity} and compared pair of loads",
        """select {key}, change, what_moved_it
from analytics.{model}_changes
where comparison = 'rerun' and is_consecutive
order by abs(change) desc limit 20""",
    ),
    "performance": (
        "How good the predictions of each night turned out, by slice, and the night's verdict.",
        "one row per night, slice and metric",
        """select predicted_day, metric, value, baseline_value
from analytics.{model}_performance
where slice_name = 'all'
order by 1 desc, 2""",
    ),
    "versions": (
        "Which version was champion when, trained when, how good, and why.",
        "one row per time as champion, and one per version that never was",
        """select model_version, champion_from, champion_until, metric, holdout_value, why
from analytics.{model}_versions
order by 1 desc""",
    ),
}
