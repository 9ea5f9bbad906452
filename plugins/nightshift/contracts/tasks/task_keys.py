"""The keys of a spec that only some tasks have: what is off for a task, and what is refused.

Source: docs/adr/0057-multiclass.md; docs/adr/0062-ranking.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from nightshift.contracts.metrics import Task
from nightshift.contracts.tasks.classes import check_classes, class_problems
from nightshift.contracts.tasks.ranking import (
    DEFAULT_TOP_K,
    ranking_problems,
    with_shown_group,
)

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

_DEFAULTS: dict[str, Any] = {
    "training": {
        "recipe": {
            "linear": {"shares": [0.0]},
            "level": {"days": 0, "mature_nights": 0},
        },
    },
    "scoring": {
        "carry_over": {"maximum_age_days": 0},
        "interval": None,
    },
}
"""By part of the spec: what is off where a prediction is no single number with a unit."""
_CALIBRATIONS = {
    Task.MULTICLASS.value: "auto",
    Task.RANKING.value: "none",
}
"""By task without such a number: its calibration unless one is declared."""


def with_task_defaults(document: object) -> object:
    """Return a spec in which everything is off that its task does not have, unless it is declared.

    Args:
        document: A spec as it was read; of another task, or no mapping, it stays as it is.
    """
    if not isinstance(document, Mapping):
        return document
    task = str(document.get("task"))
    completed = dict(document)
    if task not in _CALIBRATIONS:
        return completed
    for part, defaults in _DEFAULTS.items():
        declared = completed.get(part)
        if isinstance(declared, Mapping):
            completed[part] = _merged(defaults, declared)
    training = completed.get("training")
    if isinstance(training, Mapping):
        completed["training"] = {"calibration": _CALIBRATIONS[task], **training}
    if task == Task.RANKING:
        return with_shown_group(completed)
    return completed


def _merged(defaults: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared keys, and the defaults of those that are not declared.

    Args:
        defaults: Keys of a part, with parts of their own.
        declared: What the spec says.
    """
    merged = deepcopy(dict(defaults))
    for name, value in declared.items():
        default = merged.get(name)
        # Parts are completed key by key; anything else is what was declared.
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(
                default,
                value,
            )
        else:
            merged[name] = value
    return merged


def check_task_keys(spec: ModelSpec) -> None:
    """Refuse keys that mean nothing for the task of a spec.

    Args:
        spec: Each of its keys is right by itself.

    Raises:
        ValueError: Which, in words.
    """
    problems = _of_other_tasks(spec)
    # Classes that are no classes are refused first: their columns follow from them.
    if spec.task is Task.MULTICLASS:
        check_classes(spec.classes)
        problems += class_problems(spec)
    if spec.task is Task.RANKING:
        problems += ranking_problems(spec)
    if problems:
        words = "; ".join(problems)
        raise ValueError(f"task {spec.task} has {words}")


def _of_other_tasks(spec: ModelSpec) -> list[str]:
    """Return the declared keys that only another task has."""
    problems = []
    has_groups = spec.group is not None or spec.top_k != DEFAULT_TOP_K
    if has_groups and spec.task is not Task.RANKING:
        problems.append(
            "no group and top_k (they are of task ranking)",
        )
    if spec.task is Task.MULTICLASS:
        return problems
    if spec.classes or spec.scoring.fallback.shares:
        problems.append(
            "no classes and scoring.fallback.shares (they are of task multiclass)",
        )
    # A ranking has no calibration at all, which is refused with its own words.
    is_of_classes = spec.training.calibration in ("temperature", "vector")
    if is_of_classes and spec.task is not Task.RANKING:
        problems.append(
            "training.calibration: platt, isotonic or none",
        )
    return problems
