"""Describe every key of a model spec and a dataset contract: a page, and JSON Schemas for editors.

Both are read from the types themselves, so that they cannot drift from them.
``python -m nightshift.contracts.reference_page docs`` writes ``specs.md`` and ``schemas/``.
"""

from __future__ import annotations

import datetime as dt
import inspect
import json
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nightshift.contracts.datasets import DatasetContract
from nightshift.contracts.metrics import METRICS
from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.training_spec import TRAINER_PARAMS

_HEAD = """# Model specs and dataset contracts

Every key of `dags/models/<model>.yaml` and `dags/datasets/<dataset>.yaml`. An unknown key or a \
wrong value is refused with file, line and
what was expected. This page is generated: \
`make docs`.
"""
_TYPE_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    type(None): "null",
    bool: "true or false",
    dt.date: "day",
    dt.time: "time",
}
SCHEMAS: dict[str, type[BaseModel]] = {"model": ModelSpec, "dataset": DatasetContract}
"""Documents by the name of their schema file."""
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def render() -> str:
    """Return the page as Markdown."""
    lines = [
        _HEAD,
        "## Model spec\n",
        *_sections(ModelSpec, "", set()),
        "## Dataset contract\n",
        *_sections(DatasetContract, "", set()),
        *_metrics(),
        *_parameters(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a document, with the meaning of each key for editors."""
    schema = model.model_json_schema()
    # An enum is among the definitions too; it has no docstring for people, and no keys.
    definitions = {**schema.get("$defs", {}), model.__name__: schema}
    for part in {model, *_parts_of(model)}:
        _describe_definition(definitions[part.__name__], part)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _describe_definition(definition: dict[str, Any], part: type[BaseModel]) -> None:
    """Add the meaning of a type and of its keys, which pydantic does not read from docstrings."""
    definition["description"] = _summary(part)
    meanings = _meanings(part)
    for key, value in definition.get("properties", {}).items():
        value["description"] = meanings[key]
        # JSON Schema's time has seconds and a zone; ours is on the wall clock.
        if value.get("format") == "time":
            del value["format"]
            value["pattern"] = r"^\d{2}:\d{2}(:\d{2})?$"


def write(folder: Path) -> None:
    """Write the page and the schemas into the folder of the documentation."""
    (folder / "specs.md").write_text(render(), encoding="utf-8")
    for name, model in SCHEMAS.items():
        path = folder / "schemas" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        text = json.dumps(json_schema(model), indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def _parts_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the types within a type, however deep."""
    for field in model.model_fields.values():
        part = _part(field.annotation)
        if part is not None:
            yield part
            yield from _parts_of(part)


def _sections(model: type[BaseModel], path: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    """Yield one table for a type, then one for each type within it that was not seen yet."""
    if path:
        yield f"### `{path}`\n\n{_summary(model)}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    meanings = _meanings(model)
    for name, field in model.model_fields.items():
        yield _row(name, field, meanings[name])
    yield ""
    for name, field in model.model_fields.items():
        inner = _part(field.annotation)
        if inner is not None and inner not in seen:
            seen.add(inner)
            inner_path = f"{path}.{name}".lstrip(".")
            yield from _sections(inner, inner_path, seen)


def _row(name: str, field: FieldInfo, meaning: str) -> str:
    default = "required"
    if not field.is_required():
        value = field.get_default(call_default_factory=True)
        # The defaults of a mapping stand in its own table.
        default = "see below" if isinstance(value, BaseModel) else f"`{_plain(value)}`"
    type_name = _type_name(field.annotation) + _limits(field)
    return f"| `{name}` | {type_name} | {default} | {meaning} |"


def _limits(field: FieldInfo) -> str:
    limits = ""
    for part in field.metadata:
        for attribute, sign in _SIGNS.items():
            limit = getattr(part, attribute, None)
            if limit is not None:
                shown = f"{limit:g}" if isinstance(limit, int | float) else str(limit)
                limits += f", {sign} {shown}"
    return limits


def _type_name(annotation: Any) -> str:  # noqa: ANN401 - any type
    """Return a type as a person writes it in YAML."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in {Union, UnionType}:
        return " or ".join(map(_type_name, args))
    if origin is dict:
        return f"mapping of {_type_name(args[0])} to {_type_name(args[1])}"
    if origin is tuple:
        return f"list of {_type_name(args[0])}"
    # What is left with arguments is `Annotated`: its limits have a function of their own.
    if args:
        return _type_name(args[0])
    if issubclass(annotation, Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    return "mapping, see below" if issubclass(annotation, BaseModel) else _TYPE_NAMES[annotation]


def _part(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - any type
    """Return the type of our own that stands in an annotation, None if there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        part = _part(argument)
        if part is not None:
            return part
    return None


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the meaning of each field: its text in the docstring, or the summary of its type."""
    meanings = {}
    for name, field in model.model_fields.items():
        meanings[name] = _summary(_part(field.annotation))
    _, _, section = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")
    # A field's text goes on as long as its lines are indented more deeply than its name.
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    for name, text in entries:
        on_one_line = re.sub(r"\s+", " ", text)
        # The reader writes YAML and not Python.
        in_yaml = re.sub(r"\bNone\b", "null", on_one_line)
        meanings[name] = in_yaml.replace("``", "`")
    return meanings


def _summary(model: type[BaseModel] | None) -> str:
    if model is None:
        return ""
    return inspect.cleandoc(model.__doc__ or "").splitlines()[0].replace("``", "`")


def _plain(value: Any) -> str:  # noqa: ANN401 - any default
    if isinstance(value, tuple):
        items = ", ".join(map(_plain, value))
        return f"[{items}]"
    if isinstance(value, bool | None):
        return json.dumps(value)
    if isinstance(value, Enum):
        value = value.value
    # An empty text would be an empty cell of the table.
    return str(value) or '""'


def _metrics() -> Iterator[str]:
    yield "## Metrics\n"
    yield "Names for `promotion.metric` and `monitoring.metric`; each fits the named tasks.\n"
    yield "| metric | task | better | best value | unit | meaning |\n|---|---|---|---|---|---|"
    for name, metric in METRICS.items():
        cells = [
            f"`{name}`",
            ", ".join(metric.tasks),
            metric.better,
            f"{metric.best:g}",
            metric.unit,
            metric.description,
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _parameters() -> Iterator[str]:
    yield "## Parameters that `training.params` refuses\n"
    yield "The trainer sets them, so that the same training set and spec give the same trees:\n"
    names = ", ".join(f"`{name}`" for name in sorted(TRAINER_PARAMS))
    yield f"{names}.\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
