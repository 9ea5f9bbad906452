"""Read a YAML file into a frozen pydantic model; errors name the file, the line and what was expected."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nightshift.contracts.quick_yaml import read_plain
from nightshift.errors import SpecError

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

IDENTIFIER = r"^[a-z_][a-z0-9_]{0,62}$"
"""Names that become SQL identifiers. Source: PostgreSQL's limit of 63 bytes."""


class Frozen(BaseModel):
    """A strict, immutable part of a document that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


DocumentT = TypeVar("DocumentT", bound=Frozen)


def read_document(path: Path, model: type[DocumentT]) -> DocumentT:
    """Read and validate one YAML file.

    Raises:
        SpecError: The file is absent, is no YAML mapping, has an unknown key or a wrong value.
    """
    try:
        return model.model_validate(read_plain(path.read_text(encoding="utf-8")))
    except (ValidationError, UnicodeDecodeError, OSError):
        return _read_with_lines(path, model)


def _read_with_lines(path: Path, model: type[DocumentT]) -> DocumentT:
    raw = _parse(path)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [_describe(path, raw, dict(e)) for e in error.errors()]
        raise SpecError(
            f"{path.name} has {len(problems)} problem(s):\n    " + "\n    ".join(problems),
            todo=f"Correct {path.name}; docs/specs.md lists every key.",
        ) from None


def _parse(path: Path) -> CommentedMap:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        raw = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist.", todo="Create it, or correct the name.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{path.name}:{mark.line + 1}" if mark else path.name
        raise SpecError(f"{where} is not YAML.", got=str(error).splitlines()[0]) from None
    if not isinstance(raw, CommentedMap):
        raise SpecError(f"{path.name} is not a mapping.", expected="keys and values", got=type(raw).__name__)
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
            line = (node.lc.key(part) if isinstance(node, CommentedMap) else node.lc.item(part))[0] + 1
            node = node[part]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
