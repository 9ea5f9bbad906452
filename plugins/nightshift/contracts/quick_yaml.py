"""Read plain YAML with libyaml, ten times faster; whatever is not plain is left to the parser that knows lines and all of YAML 1.2.

Airflow reads each DAG file, and with it every spec, in a process of its own, twice a minute.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_WORDS = {"~": "null", "": "null"} | {
    spelt: tag
    for word, tag in (("null", "null"), ("true", "bool"), ("false", "bool"))
    for spelt in (word, word.title(), word.upper())
}
_RESOLVED = {
    "int": re.compile(r"[-+]?(0|[1-9][0-9]*)"),
    "float": re.compile(r"[-+]?(0|[1-9][0-9]*)\.[0-9]+([eE][-+][0-9]+)?"),
    "timestamp": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
}
"""What YAML 1.1, which libyaml's binding speaks, and 1.2 read alike."""
_DOUBTFUL = re.compile(r"[-+.0-9].*|<<|=", re.DOTALL)
"""What else may be a number, a time or a merge in one of them."""


class _NotPlainError(ValueError):
    """The whole parser must read this."""


class _Loader(yaml.CSafeLoader):
    """Constructs only what is read alike, and no mapping with a key twice."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:  # noqa: ANN401 - the parent's signature
        if kind is not yaml.ScalarNode or not implicit[0]:
            return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        return f"tag:yaml.org,2002:{_WORDS.get(value) or _tag_of(value)}"

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise _NotPlainError
        return found


def _tag_of(value: str) -> str:
    """Return what a scalar is that is no word of YAML's own.

    Raises:
        _NotPlainError: The two versions of YAML may disagree.
    """
    if value[0].isalpha():
        return "str"
    tag = next((tag for tag, pattern in _RESOLVED.items() if pattern.fullmatch(value)), "str")
    if tag == "str" and _DOUBTFUL.fullmatch(value):
        raise _NotPlainError(value)
    return tag


def read_plain(text: str) -> Any | None:  # noqa: ANN401 - YAML is anything
    """Return the document of a text; None where the whole parser must read it."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derived from the safe loader
    except (yaml.YAMLError, ValueError, TypeError):
        return None
