"""The OpenLineage standard as JSON Schema.

``schema_of_classes`` derives it from the classes that the standard's own generator makes of the
specification (``openlineage.client.generated``): required fields, types, enumerations, formats.
``schema_of_files`` takes the specification itself, from a checkout that a person names.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
import re
import types
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attr
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client import facet_v2
from openlineage.client.generated import base
from referencing import Registry, Resource

FORMATS = FormatChecker()
_FORMATS = {"runId": "uuid", "producer": "uri", "_producer": "uri", "_schemaURL": "uri"}
_TIMES = {"eventTime", "nominalStartTime", "nominalEndTime"}
_KINDS = (
    (base.RunFacet, "run"),
    (base.JobFacet, "job"),
    (base.InputDatasetFacet, "input"),
    (base.OutputDatasetFacet, "output"),
    (base.DatasetFacet, "dataset"),
)


# The library knows these two only with further packages.
@FORMATS.checks("date-time", raises=ValueError)
def _is_instant(value: object) -> bool:
    return not isinstance(value, str) or dt.datetime.fromisoformat(value).tzinfo is not None


@FORMATS.checks("uri", raises=ValueError)
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme)


@cache
def _facet_classes() -> dict[tuple[str, str], type]:
    """Return the facets of the standard by where they stand, and by the file of their schema."""
    classes = {}
    for name in facet_v2.__all__:
        module = getattr(facet_v2, name)
        if not isinstance(module, types.ModuleType):
            continue
        for value in vars(module).values():
            if not isinstance(value, type) or value.__module__ != module.__name__:
                continue
            for parent, kind in _KINDS:
                if issubclass(value, parent):
                    classes[kind, value.__name__] = value
    return classes


def problems_of(event: dict[str, Any]) -> list[str]:
    """Return what the standard does not allow in an event, facets included."""
    return [*_check(base.RunEvent, event), *_facet_problems(event)]


def _check(kind: type, document: dict[str, Any]) -> Iterator[str]:
    validator = Draft202012Validator(schema_of_class(kind), format_checker=FORMATS)
    for problem in validator.iter_errors(document):
        yield f"{kind.__name__} {problem.json_path}: {problem.message}"


def _facet_problems(event: dict[str, Any]) -> Iterator[str]:
    for place, kind, facets in _facets_of(event):
        for key, document in facets.items():
            url = document.get("_schemaURL", "")
            named = re.fullmatch(r"https://openlineage\.io/spec/facets/.+#/\$defs/(\w+)", url)
            known = _facet_classes().get((kind, named[1])) if named else None
            if known is None:
                yield f"{place}.{key}: {url} is no {kind} facet of the standard"
                continue
            # The key of a facet is its name without the words of its place.
            is_its_key = named[1].lower().startswith(key.replace("_", "").lower())
            if not is_its_key and (key, named[1]) != ("version", "DatasetVersionDatasetFacet"):
                yield f"{place}.{key} has the schema of {named[1]}"
            if known._get_schema() != url:
                yield f"{place}.{key}: {url} is another version"
            yield from _check(known, document)


def _facets_of(event: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "run", "run", event["run"].get("facets", {})
    yield "job", "job", event["job"].get("facets", {})
    for side, kind in (("inputs", "input"), ("outputs", "output")):
        for dataset in event.get(side, []):
            yield side, "dataset", dataset.get("facets", {})
            yield side, kind, dataset.get(f"{kind}Facets", {})


@cache
def schema_of_class(kind: type, around: tuple[type, ...] = ()) -> dict[str, Any]:
    """Return the JSON Schema of a generated class, which may stand within others."""
    if kind in around:
        # Fields of fields: one level is enough.
        return {"type": "object"}
    around = (*around, kind)
    hints = typing.get_type_hints(kind, {**vars(base), **_names_of(kind)})
    properties, required = {}, []
    for field in attr.fields(kind):
        if field.name == "_deleted":
            continue
        properties[field.name] = _schema_of_type(hints[field.name], around) | _format_of(field.name)
        is_optional = type(None) in typing.get_args(hints[field.name])
        if not is_optional:
            required.append(field.name)
    return {"type": "object", "properties": properties, "required": required}


def _names_of(kind: type) -> dict[str, Any]:
    import sys

    return vars(sys.modules[kind.__module__])


def _format_of(name: str) -> dict[str, str]:
    if name in _TIMES:
        return {"format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT"}
    return {"format": _FORMATS[name]} if name in _FORMATS else {}


def _schema_of_type(hint: Any, around: tuple[type, ...]) -> dict[str, Any]:
    simple = {str: "string", bool: "boolean", int: "integer", float: "number"}
    if hint in simple:
        return {"type": simple[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {types.UnionType, typing.Union}:
        (inner,) = [each for each in arguments if each is not type(None)]
        return _schema_of_type(inner, around)
    if origin is list:
        return {"type": "array", "items": _schema_of_type(arguments[0], around)}
    if origin is dict:
        # Facets are checked by the schema that they name.
        is_facet = isinstance(arguments[1], type) and issubclass(arguments[1], base.BaseFacet)
        value = {"type": "object"} if is_facet else _schema_of_type(arguments[1], around)
        return {"type": "object", "additionalProperties": value}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [each.value for each in hint]}
    return schema_of_class(hint, around) if attr.has(hint) else {}


def problems_by_files(spec: Path, event: dict[str, Any]) -> list[str]:
    """Return what the specification's own files do not allow in an event.

    Args:
        spec: Folder ``spec`` of a checkout of OpenLineage.
        event: The event as it is sent.
    """
    registry, by_name = Registry(), {}
    for path in [spec / "OpenLineage.json", *sorted((spec / "facets").glob("*.json"))]:
        document = json.loads(path.read_text())
        resource = Resource.from_contents(document)
        registry = registry.with_resource(document["$id"], resource)
        by_name[path.stem] = document
    problems = _by_schema(registry, by_name["OpenLineage"], event)
    for _, _, facets in _facets_of(event):
        for key, facet in facets.items():
            name = facet["_schemaURL"].rpartition("/")[2]
            # A facet's file describes the object that holds it under its key.
            if key not in by_name[name]["properties"]:
                problems.append(f"{key} is no key of {name}")
            problems += _by_schema(registry, by_name[name], {key: facet})
    return problems


def _by_schema(registry: Registry, schema: dict[str, Any], document: dict[str, Any]) -> list[str]:
    validator = Draft202012Validator(schema, registry=registry, format_checker=FORMATS)
    return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(document)]
