"""Read a YAML file into a frozen pydantic model; errors name the file, the line and what was expected."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nightshift.contracts.quick_yaml import read_plain
from nightshift.errors import SpecError

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

IDENTIFIER = r"^[a-z_][a-z0-9_]{0,62}$"
"""Names that become SQL identifiers. Source: PostgreSQL's limit of 63 bytes."""
MAXIMUM_BYTES = 1 << 20
"""The largest specs of ours have 5 KB; one with 300 features has 20 KB."""
MAXIMUM_DEPTH = 100
"""Nesting: specs have 5 levels. libyaml overflows the stack, and ends the process, at some
20,000.
"""
MAXIMUM_NODES = 200_000
"""Values of a document with its aliases written out: nine lines can stand for a billion."""

_DEEP_BLOCK = re.compile(rf"^[ \t?-]{{{2 * MAXIMUM_DEPTH},}}", re.MULTILINE)
"""A block nests by one column at least, so a deep one begins far to the right."""
_BRACKETS = re.compile(r"[\[\]{}]")


class Frozen(BaseModel):
    """A strict, immutable part of a document that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


DocumentT = TypeVar("DocumentT", bound=Frozen)


def read_document(path: Path, model: type[DocumentT]) -> DocumentT:
    """Read and validate one YAML file.

    Raises:
        SpecError: The file is absent, is no YAML mapping, has an unknown key or a wrong value.
    """
    text = _read_text(path)
    raw = read_plain(text)
    _refuse_bomb(path, raw)
    try:
        return model.model_validate(raw)
    except ValidationError:
        return _read_with_lines(path, text, model)


def _read_text(path: Path) -> str:
    """Return the text of a file that can be parsed without harm.

    Raises:
        SpecError: It is absent, no regular file, not readable, not UTF-8, too large or nested too
            deeply.
    """
    if not path.is_file():
        raise _no_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path.name} is not YAML.", expected="UTF-8", got=str(error)) from None
    except OSError as error:
        raise SpecError(
            f"{path.name} cannot be read.", got=error.strerror, todo="Correct its rights."
        ) from None
    if len(content) > MAXIMUM_BYTES:
        raise SpecError(f"{path.name} is too large.", expected=f"{MAXIMUM_BYTES:,} bytes at most")
    if _is_deep(text):
        raise SpecError(
            f"{path.name} is nested too deeply.", expected=f"{MAXIMUM_DEPTH} levels at most"
        )
    return text


def _no_file(path: Path) -> SpecError:
    if path.is_symlink():
        return SpecError(
            f"{path.name} is a link to nowhere.", expected="a file", got=str(path.readlink())
        )
    if path.exists():
        got = "a folder" if path.is_dir() else "a device, socket or pipe"
        return SpecError(
            f"{path.name} is no file.",
            expected="a file",
            got=got,
            todo="Take it out of the folder.",
        )
    return SpecError(f"{path} does not exist.", todo="Create it, or correct the name.")


def _is_deep(text: str) -> bool:
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > MAXIMUM_DEPTH:
            return True
    return _DEEP_BLOCK.search(text) is not None


def _refuse_bomb(path: Path, raw: object) -> None:
    """Refuse a document that is huge once its aliases are written out, or that contains itself.

    Raises:
        SpecError: It is.
    """
    if _n_nodes(raw, {}) > MAXIMUM_NODES:
        raise SpecError(
            f"{path.name} is too large.",
            expected=f"{MAXIMUM_NODES:,} values at most, aliases written out",
        )


def _n_nodes(node: object, seen: dict[int, float]) -> float:
    """Return the values below a node, each alias counted as often as it stands there; infinite for a node within itself."""
    if not isinstance(node, dict | list):
        return 1
    if id(node) not in seen:
        seen[id(node)] = float("inf")
        below = [*node.keys(), *node.values()] if isinstance(node, dict) else node
        seen[id(node)] = 1 + sum(_n_nodes(part, seen) for part in below)
    return seen[id(node)]


def _read_with_lines(path: Path, text: str, model: type[DocumentT]) -> DocumentT:
    raw = _parse(path, text)
    _refuse_bomb(path, raw)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [_describe(path, raw, dict(e)) for e in error.errors()]
        raise SpecError(
            f"{path.name} has {len(problems)} problem(s):\n    " + "\n    ".join(problems),
            todo=f"Correct {path.name}; docs/specs.md lists every key.",
        ) from None


def _parse(path: Path, text: str) -> CommentedMap:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        raw = YAML(typ="rt").load(text)
    except (YAMLError, ValueError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{path.name}:{mark.line + 1}" if mark else path.name
        raise SpecError(f"{where} is not YAML.", got=str(error).splitlines()[0]) from None
    if not isinstance(raw, CommentedMap):
        got = "nothing" if raw is None else type(raw).__name__
        raise SpecError(f"{path.name} is not a mapping.", expected="keys and values", got=got)
    return raw


def _describe(path: Path, raw: CommentedMap, error: dict[str, Any]) -> str:
    loc = error["loc"]
    dotted = ".".join(map(str, loc)) or "document"
    expected = _expected(error)
    got = "" if error["type"] == "missing" else f" (got {error['input']!r:.80})"
    return f"{path.name}:{_line_of(raw, loc)}: {dotted}: expected {expected}{got}"


def _expected(error: dict[str, Any]) -> str:
    """Return what is accepted, in words where pydantic has none."""
    if error["type"] == "extra_forbidden":
        return "a known key"
    if error.get("ctx", {}).get("pattern") == IDENTIFIER:
        return "a name of lower-case letters, digits and _, not beginning with a digit, at most 63 characters"
    return str(error["msg"])


def _line_of(raw: CommentedMap, loc: tuple[Any, ...]) -> int:
    """Return the 1-based line of the deepest part of ``loc`` that stands in the file."""
    from ruamel.yaml.comments import CommentedMap

    line = 1
    node: Any = raw
    for part in loc:
        try:
            line = (node.lc.key(part) if isinstance(node, CommentedMap) else node.lc.item(part))[
                0
            ] + 1
            node = node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
