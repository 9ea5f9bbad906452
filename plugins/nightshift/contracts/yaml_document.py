"""Read a YAML file into a frozen pydantic model; errors name the file and the line."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.errors import SpecError

# Names that become SQL identifiers. Source: PostgreSQL's limit of 63 bytes.
IDENTIFIER = r"^[a-z_][a-z0-9_]{0,62}$"
Identifier = Annotated[str, Field(pattern=IDENTIFIER)]
# Counts reach columns of PostgreSQL's integer.
PositiveInt = Annotated[int, Field(gt=0, le=2**31 - 1)]
# A century: a date minus so many days is one that Python, PostgreSQL and the calendar have.
_MAXIMUM_DAYS = 36_525
Days = Annotated[int, Field(ge=0, le=_MAXIMUM_DAYS)]
PositiveDays = Annotated[int, Field(gt=0, le=_MAXIMUM_DAYS)]
Ratio = Annotated[float, Field(ge=0, le=1)]

# The largest specs of ours have 5 KB; one with 300 features has 20 KB.
MAXIMUM_BYTES = 1 << 20
# Nesting: specs have 5 levels.
MAXIMUM_DEPTH = 100
# Values of a document with its aliases written out: nine lines can stand for a billion.
MAXIMUM_NODES = 200_000

# A block nests by one column at least, so a deep one begins far to the right.
_DEEP_BLOCK = re.compile(rf"^[ \t?-]{{{2 * MAXIMUM_DEPTH},}}", re.MULTILINE)
_BRACKETS = re.compile(r"[\[\]{}]")
# PostgreSQL stores neither NUL nor half a surrogate pair, and a log shows no control character.
_UNSTORABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_MAXIMUM_INTEGER = 2**63 - 1
_TAG = "tag:yaml.org,2002:"
# Type, pattern and first characters of the plain scalars of YAML 1.2 that are no text.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (
        "float",
        (
            r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)"
            r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        "-+.0123456789",
    ),
    ("int", r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)", "-+0123456789"),
    (
        "timestamp",
        (
            r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}"
            r":[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?"
        ),
        "0123456789",
    ),
    ("merge", r"<<", "<"),
)


class Frozen(BaseModel):
    """A strict, immutable part of a document that refuses unknown keys.

    Numbers are finite: NaN passes every comparison with a limit, and infinity switches it off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NamedDocument(Frozen):
    """A document that names itself.

    Attributes:
        name: Must be the name of its file.
    """

    name: Identifier


DocumentT = TypeVar("DocumentT", bound=Frozen)


class _Loader(yaml.CSafeLoader):
    """Read YAML 1.2 with libyaml.

    PyYAML's own table is that of YAML 1.1, where ``on`` is a truth value and ``04:00`` a number.
    """

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (PyYAML's way)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Read an integer; PyYAML takes a leading zero for octal, as YAML 1.1 does."""
    digits = str(loader.construct_scalar(node)).replace("_", "")
    has_base = digits.lstrip("+-")[1:2] in {"b", "o", "x"}
    number = int(digits, 0 if has_base else 10)
    if abs(number) > _MAXIMUM_INTEGER:
        raise yaml.MarkedYAMLError(
            problem="an integer of more than 64 bits", problem_mark=node.start_mark
        )
    return number


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor(f"{_TAG}int", _integer)


def read_document(path: Path, model: type[DocumentT]) -> DocumentT:
    """Read and validate one YAML file.

    Raises:
        SpecError: The file is absent, is no YAML mapping, has an unknown key or a wrong value.
    """
    root, content = _parse(path, _read_text(path))
    try:
        return model.model_validate(content)
    except ValidationError as error:
        # A document that names secrets shows no value: one may stand where it should not.
        shows_values = not getattr(model, "hides_values", False)
        problems = [_describe(path, root, dict(d), shows_values) for d in error.errors()]
        raise SpecError(
            f"{path.name} has {len(problems)} problem(s):\n    " + "\n    ".join(problems),
            todo=f"Correct {path.name}; docs/specs.md lists every key.",
        ) from None


def _read_text(path: Path) -> str:
    """Return the text of a file that can be parsed without harm.

    Raises:
        SpecError: It is absent, no regular file, not readable, not UTF-8, too large or nested too
            deeply.
    """
    if not path.is_file():
        raise _not_a_file(path)
    try:
        with path.open("rb") as file:
            # One byte more than allowed shows that there is more.
            content = file.read(MAXIMUM_BYTES + 1)
        # Some editors begin a file with a byte-order mark.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path.name} is not YAML.", expected="UTF-8", got=str(error)) from None
    except OSError as error:
        raise SpecError(
            f"{path.name} cannot be read.", got=error.strerror, todo="Correct its rights."
        ) from None
    if len(content) > MAXIMUM_BYTES:
        raise SpecError(f"{path.name} is too large.", expected=f"{MAXIMUM_BYTES:,} bytes at most")
    # libyaml recurses: at some 20,000 levels it overflows the stack and ends the process.
    if _is_deep(text):
        raise SpecError(
            f"{path.name} is nested too deeply.", expected=f"{MAXIMUM_DEPTH} levels at most"
        )
    return text


def _not_a_file(path: Path) -> SpecError:
    if path.is_symlink():
        target = str(path.readlink())
        return SpecError(f"{path.name} is a broken link.", expected="a file", got=target)
    if path.exists():
        return SpecError(
            f"{path.name} is not a file.",
            expected="a file",
            got="a folder" if path.is_dir() else "a device, socket or pipe",
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


def _parse(path: Path, text: str) -> tuple[yaml.MappingNode, dict[object, object]]:
    """Return the mapping of a text, as nodes with their lines and as plain values.

    Raises:
        SpecError: It is no YAML, no mapping, has a key twice or is too large.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        sizes: dict[yaml.Node, float] = {}
        # Before anything is constructed: a merge of aliases grows as fast as the aliases do.
        if root is not None and _n_values(root, sizes) > MAXIMUM_NODES:
            raise SpecError(
                f"{path.name} is too large.",
                expected=f"{MAXIMUM_NODES:,} values at most, aliases written out",
            )
        for node in sizes:
            _refuse_repeated_key(loader, node)
            _refuse_unstorable_text(node)
        content = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}:{mark.line + 1}" if mark else path.name
        got = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{where} is not YAML.", got=got) from None
    if not isinstance(root, yaml.MappingNode) or not isinstance(content, dict):
        got = "nothing" if content is None else type(content).__name__
        raise SpecError(f"{path.name} is not a mapping.", expected="keys and values", got=got)
    return root, content


def _n_values(node: yaml.Node, sizes: dict[yaml.Node, float]) -> float:
    """Return the number of values below a node, each alias written out.

    Args:
        node: The node; one that contains itself has infinitely many.
        sizes: Known numbers by node; those of lists and mappings are added.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in sizes:
        # Until its parts are counted, so that a node that contains itself ends the recursion.
        sizes[node] = float("inf")
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            parts = list(chain.from_iterable(node.value))
        sizes[node] = 1 + sum(_n_values(part, sizes) for part in parts)
    return sizes[node]


def _refuse_repeated_key(loader: _Loader, node: yaml.Node) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, _ in node.value:
        # Several merges may stand in one mapping.
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
            continue
        name = loader.construct_object(key)
        if name in seen:
            raise yaml.MarkedYAMLError(problem=f"key {name!r} twice", problem_mark=key.start_mark)
        seen.add(name)


def _refuse_unstorable_text(node: yaml.Node) -> None:
    parts = chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
    for part in parts:
        if isinstance(part, yaml.ScalarNode) and _UNSTORABLE.search(part.value):
            raise yaml.MarkedYAMLError(
                problem="a control character in a text", problem_mark=part.start_mark
            )


def _describe(path: Path, root: yaml.MappingNode, error: dict[str, Any], shows_values: bool) -> str:
    location = error["loc"]
    dotted = ".".join(map(str, location)) or "document"
    got = ""
    if shows_values and error["type"] != "missing":
        got = f" (got {error['input']!r:.80})"
    line = _line_of(root, location)
    return f"{path.name}:{line}: {dotted}: expected {_expected(error)}{got}"


def _expected(error: dict[str, Any]) -> str:
    """Return what is accepted, in words where pydantic has none."""
    if error["type"] == "extra_forbidden":
        return "a known key"
    if error.get("ctx", {}).get("pattern") == IDENTIFIER:
        return (
            "a name of lower-case letters, digits and _, not beginning with a digit,"
            " at most 63 characters"
        )
    return str(error["msg"])


def _line_of(root: yaml.Node, location: tuple[int | str, ...]) -> int:
    """Return the 1-based line of the deepest part of a location that stands in the file."""
    line, node = 1, root
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            pairs = [(item, item) for item in node.value[part : part + 1]]
        else:
            break
        if not pairs:
            break
        key, node = pairs[0]
        line = key.start_mark.line + 1
    return line
