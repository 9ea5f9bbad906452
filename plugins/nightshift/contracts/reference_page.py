"""Write ``docs/specs.md``: every key of a model spec and a dataset contract, read from the types themselves so that it cannot drift.

``python -m nightshift.contracts.reference_page`` prints the page.
"""

from __future__ import annotations

import datetime as dt
import inspect
import json
import re
from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nightshift.contracts.datasets import DatasetContract
from nightshift.contracts.metrics import METRICS
from nightshift.contracts.model_spec import TRAINER_PARAMS, ModelSpec

_HEAD = """# Model specs and dataset contracts

Every key of `dags/models/<model>.yaml` and `dags/datasets/<dataset>.yaml`. An unknown key or a wrong value is refused with file, line and
what was expected. This page is generated: `python -m nightshift.contracts.reference_page > docs/specs.md`.
"""
_NO_DEFAULT = "required"
_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    dt.date: "day",
    dt.time: "time",
}


def render() -> str:
    """Return the page as Markdown."""
    parts = [
        _HEAD,
        "## Model spec\n",
        *_sections(ModelSpec, "", set()),
        "## Dataset contract\n",
        *_sections(DatasetContract, "", set()),
    ]
    return "\n".join([*parts, *_metrics(), *_parameters()]).rstrip() + "\n"


def _sections(model: type[BaseModel], path: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    """Yield one table for a type, then one for each type within it that was not seen yet."""
    described = _described(model)
    if path:
        yield f"### `{path}`\n\n{_summary(model)}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    yield from (
        _row(name, field, described.get(name, _summary(_part(field.annotation))))
        for name, field in model.model_fields.items()
    )
    yield ""
    for name, field in model.model_fields.items():
        inner = _part(field.annotation)
        if inner is not None and inner not in seen:
            seen.add(inner)
            yield from _sections(inner, f"{path}.{name}".lstrip("."), seen)


def _row(name: str, field: FieldInfo, meaning: str) -> str:
    default = (
        _NO_DEFAULT
        if field.is_required()
        else f"`{_plain(field.get_default(call_default_factory=True))}`"
    )
    return f"| `{name}` | {_type_name(field.annotation)}{_limits(field)} | {default} | {meaning} |"


def _limits(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {getattr(part, name):g}"
        for part in field.metadata
        for name, sign in signs.items()
        if getattr(part, name, None) is not None
    ]
    return f", {', '.join(found)}" if found else ""


def _type_name(annotation: Any) -> str:  # noqa: ANN401 - any type
    """Return a type as a person writes it in YAML."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in {Union, UnionType}:
        return " or ".join("null" if part is type(None) else _type_name(part) for part in args)
    if origin is dict:
        return f"mapping of {_type_name(args[0])} to {_type_name(args[1])}"
    if args:
        return f"list of {_type_name(args[0])}" if origin is tuple else _type_name(args[0])
    return _plain_type_name(annotation)


def _plain_type_name(kind: type) -> str:
    if issubclass(kind, Enum):
        return " or ".join(f"`{member.value}`" for member in kind)
    return "mapping, see below" if issubclass(kind, BaseModel) else _NAMES[kind]


def _part(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any type
    """Return the type of our own that stands in an annotation, None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for part in get_args(annotation) if (found := _part(part)) is not None), None
    )


def _described(model: type[BaseModel]) -> dict[str, str]:
    """Return what the docstring's ``Attributes`` section says of each field."""
    _, _, section = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {
        name: re.sub(r"\bNone\b", "null", re.sub(r"\s+", " ", text)).replace("``", "`")
        for name, text in entries
    }


def _summary(model: type[BaseModel] | None) -> str:
    return inspect.cleandoc(model.__doc__ or "").splitlines()[0].replace("``", "`") if model else ""


def _plain(value: Any) -> str:  # noqa: ANN401 - any default
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, bool | None):
        return json.dumps(value)
    return str(value.value if isinstance(value, Enum) else value) or '""'


def _metrics() -> Iterator[str]:
    yield "## Metrics\n\nNames for `promotion.metric` and `monitoring.metric`; they fit one task each.\n"
    yield "| metric | task | better | best value | unit | meaning |\n|---|---|---|---|---|---|"
    for name, metric in METRICS.items():
        yield f"| `{name}` | {metric.task} | {metric.better} | {metric.best:g} | {metric.unit} | {metric.description} |"
    yield ""


def _parameters() -> Iterator[str]:
    yield "## Parameters that `training.params` refuses\n"
    yield "The trainer sets them, so that the same training set and spec give the same trees:\n"
    yield ", ".join(f"`{name}`" for name in sorted(TRAINER_PARAMS)) + ".\n"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - what the command is for
