"""What a spec of task ``multiclass`` declares, and which keys mean nothing for it.

Source: docs/adr/0057-multiclass.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec

# Two classes are task binary, which has a threshold, a level and a band besides.
MINIMUM_CLASSES = 3
MAXIMUM_CLASSES = 100
MAXIMUM_CLASS_LENGTH = 50
CLASS_COLUMN = "predicted_class"
RAW_COLUMN = "raw_score"
CORRECT_COLUMN = "is_correct"


def class_columns(classes: Iterable[str]) -> dict[str, str]:
    """Return the column of each class's probability, by class, in their order."""
    columns = {}
    for number, label in enumerate(classes, 1):
        plain = re.sub(
            r"[^a-z0-9]+",
            "_",
            label.lower(),
        ).strip("_")
        # A class of signs, or in another script, is known by its number.
        if not plain:
            plain = f"class_{number}"
        columns[label] = f"probability_{plain}"
    return columns


def read_classes(values: object) -> object:
    """Return declared classes as strings: YAML reads a class 1 as a number.

    Raises:
        ValueError: YAML has read a class in a form that may not be the label's.
    """
    if not isinstance(values, list | tuple):
        return values
    # 1.0 would be the text 1.0, and yes the text True.
    for value in values:
        if isinstance(value, bool | float):
            raise ValueError(  # noqa: TRY004 - what pydantic reports with the line
                "classes are strings or whole numbers; write others in quotes"
            )
    strings = []
    for value in values:
        text = str(value) if isinstance(value, int) else value
        strings.append(text)
    return tuple(strings)


def check_classes(classes: tuple[str, ...]) -> None:
    """Refuse classes that are too few, too many, or not told apart.

    Raises:
        ValueError: What is wrong.
    """
    if not MINIMUM_CLASSES <= len(classes) <= MAXIMUM_CLASSES:
        raise ValueError(
            f"{MINIMUM_CLASSES} to {MAXIMUM_CLASSES} classes, not {len(classes)};"
            " two classes are task binary"
        )
    for label in classes:
        is_text = label.isprintable() and bool(label.strip())
        if not is_text or len(label) > MAXIMUM_CLASS_LENGTH:
            raise ValueError(
                f"a class has 1 to {MAXIMUM_CLASS_LENGTH} printable characters, not {label!r}"
            )
    columns = class_columns(classes)
    n_columns = len(set(columns.values()))
    if n_columns < len(classes):
        raise ValueError(
            "classes differ in letters or digits: each gets a column, here"
            f" {', '.join(columns.values())}"
        )


def class_problems(spec: ModelSpec) -> list[str]:
    """Return which keys of a spec of classes mean nothing for them, in words."""
    return [
        *_training_problems(spec),
        *_scoring_problems(spec),
    ]


def _training_problems(spec: ModelSpec) -> Iterator[str]:
    """Yield what the recipe must leave out: a model of classes is its trees alone."""
    training = spec.training
    recipe = training.recipe
    # The linear member, and so a cold start, gives one score a row.
    if recipe.linear.shares != (0.0,):
        yield "training.recipe.linear.shares: [0.0] (a class has no line)"
    if training.cold_start_days is not None:
        yield "no training.cold_start_days (a cold start is a line)"
    if recipe.level.days or recipe.level.mature_nights:
        yield "training.recipe.level.days: 0 and mature_nights: 0 (classes have no common level)"
    # What raises the share of a class lowers that of its rivals.
    if recipe.directions:
        yield "no training.recipe.increasing or decreasing (a class falls where another rises)"
    if recipe.target_encoding.columns:
        yield "no training.recipe.target_encoding (the number of a class has no mean)"
    if recipe.costs is not None or spec.positive_threshold is not None:
        yield "no training.recipe.costs and positive_threshold (the likeliest class is predicted)"
    if training.objective is not None:
        yield "no training.objective (it is multiclass)"
    if training.engine != "local":
        yield "training.engine: local (Dask grows one score a row)"
    if training.calibration in ("platt", "isotonic"):
        yield "training.calibration: auto, temperature, vector or none"


def _scoring_problems(spec: ModelSpec) -> Iterator[str]:
    """Yield what predictions of classes do not have, and names that they take."""
    scoring = spec.scoring
    if scoring.interval is not None:
        yield "scoring.interval: null (a class has no interval)"
    # Between two classes there is nothing in the middle.
    if scoring.carry_over.maximum_age_days > 0:
        yield "scoring.carry_over.maximum_age_days: 0 (an old class does not age)"
    if spec.promotion.fairness:
        yield "no promotion.fairness (it compares the rates of one positive class)"
    if spec.promotion.canary.share > 0:
        yield "promotion.canary.share: 0 (no canary for classes yet)"
    if len(scoring.fallback.shares) != len(spec.classes):
        yield "scoring.fallback.shares, one of each class in the order of classes"
    columns = {
        CLASS_COLUMN,
        RAW_COLUMN,
        CORRECT_COLUMN,
        *spec.class_columns.values(),
    }
    # A view cannot show two columns of one name.
    taken = sorted(columns & {spec.entity.key, *spec.analytics.attributes})
    if taken:
        yield f"another name for {', '.join(taken)}, which predictions have themselves"
