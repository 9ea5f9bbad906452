"""What a spec of task ``ranking`` declares, and which keys mean nothing for it.

Source: docs/adr/0062-ranking.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

DEFAULT_TOP_K = 10
MAXIMUM_RELEVANCE = 30
"""Highest relevance of which LightGBM knows a gain, 2 to its power minus 1."""
RANK_COLUMN = "rank"
TOP_COLUMN = "is_top_k"
RANK_TYPES = {RANK_COLUMN: "integer", TOP_COLUMN: "boolean"}
"""Columns that only predictions of a ranking have, with their types, in order."""


def with_shown_group(document: dict[str, Any]) -> dict[str, Any]:
    """Return a ranking's spec whose views show the group: a rank says nothing without it.

    Args:
        document: A spec of the task as it was read; what is wrong in it stays to be refused.
    """
    group = document.get("group")
    analytics = document.get("analytics", {})
    if not group or not isinstance(analytics, Mapping):
        return document
    shown = analytics.get("attributes", ())
    if not isinstance(shown, list | tuple):
        return document
    # Where the spec shows it already, it keeps its place.
    if group in shown:
        return document
    with_group = {
        **analytics,
        "attributes": [group, *shown],
    }
    return {
        **document,
        "analytics": with_group,
    }


def ranking_problems(spec: ModelSpec) -> list[str]:
    """Return which keys of a ranking's spec mean nothing for it, in words."""
    return [
        *_recipe_problems(spec),
        *_training_problems(spec),
        *_scoring_problems(spec),
        *_name_problems(spec),
    ]


def _recipe_problems(spec: ModelSpec) -> Iterator[str]:
    """Yield what a recipe must leave out: a ranking is its trees alone."""
    recipe = spec.training.recipe
    if recipe.linear.shares != (0.0,):
        yield ("training.recipe.linear.shares: [0.0] (a line is fitted to values, not to an order)")
    # The level moves all rows of a night alike.
    if recipe.level.days or recipe.level.mature_nights:
        yield ("training.recipe.level.days: 0 and mature_nights: 0 (an order has no level)")
    if recipe.costs is not None or spec.positive_threshold is not None:
        yield ("no training.recipe.costs and positive_threshold (top_k says which rows are chosen)")


def _training_problems(spec: ModelSpec) -> Iterator[str]:
    """Yield what a score that only orders the rows of a group cannot have."""
    training = spec.training
    if training.cold_start_days is not None:
        yield "no training.cold_start_days (a cold start is a line)"
    if training.calibration != "none":
        yield "training.calibration: none (a score is no probability)"
    if training.objective is not None:
        yield "no training.objective (it is lambdarank)"
    # Its workers get rows in pieces, which cut groups.
    if training.engine != "local":
        yield "training.engine: local (Dask keeps no groups together)"


def _scoring_problems(spec: ModelSpec) -> Iterator[str]:
    """Yield what predictions of a ranking do not have."""
    if spec.scoring.interval is not None:
        yield "scoring.interval: null (a score has no unit)"
    # Scores of two nights or versions are not comparable, so one group cannot hold both.
    if spec.scoring.carry_over.maximum_age_days > 0:
        yield (
            "scoring.carry_over.maximum_age_days: 0 (an old score does not compare with new ones)"
        )
    if spec.promotion.canary.share > 0:
        yield ("promotion.canary.share: 0 (one group cannot be ordered by two versions)")
    if spec.promotion.fairness:
        yield ("no promotion.fairness (it compares the rates of one positive class)")


def _name_problems(spec: ModelSpec) -> Iterator[str]:
    """Yield names that predictions of a ranking have themselves, and a group that is none."""
    named = {
        spec.entity.key,
        *spec.analytics.attributes,
    }
    # A view cannot show two columns of one name.
    taken = sorted(RANK_TYPES.keys() & named)
    if taken:
        names = ", ".join(taken)
        yield f"another name for {names}, which predictions have themselves"
    if spec.group in (spec.label.column, spec.entity.key):
        yield f"a group that is neither label nor key: {spec.group}"
