"""Documents are read as YAML 1.2 and as fast as libyaml reads; what is refused has its line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from nightshift.contracts.yaml_document import Frozen, read_document
from nightshift.errors import SpecError
from nightshift.settings import PROJECT_ROOT

OURS = [*sorted((PROJECT_ROOT / "dags").rglob("*.yaml"))]
SCALARS = st.text("abnyoeYNfilruTs0123456789+-.:_~=<xXE ", max_size=8)


class Anything(Frozen):
    """A document with any keys."""

    model_config = ConfigDict(extra="allow")


def read(path: Path) -> dict[str, Any]:
    return read_document(path, Anything).model_extra or {}


def by_ruamel(text: str) -> dict[str, Any]:
    """Return the document as the other parser, of YAML 1.2, has it."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("documents") / "document.yaml"


@pytest.mark.parametrize("document", OURS, ids=lambda document: document.name)
def test_our_documents_are_read_as_yaml_1_2(document: Path):
    assert read(document) == by_ruamel(document.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "a: 04:00",
        "a: 010",
        "a: -010",
        "a: 0x1f",
        "a: 0o17",
        "a: 0b11",
        "a: 1_000",
        "a: 1e3",
        "a: .inf",
        "a: 2013-02-01T00:00:00Z",
        "a: 2013-02-01",
        "a: yes",
        "a: on",
        "a: y",
        "a: 'yes'",
        'a: "04:00"',
        "a:",
        "a: ~",
        "a: |\n  1\n",
        "&x a: *x",
        "b: &b {a: 1, c: 2}\nd: {<<: *b, a: 3}",
        "x: {<<: &b {<<: &a {k: 1}, k: 2}}\ny: *b",
    ],
)
def test_reading_is_that_of_yaml_1_2(path: Path, text: str):
    path.write_text(text)
    assert read(path) == by_ruamel(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", 2),
        ("a: 1\nb:\n  c: 1\n  c: 2", 4),
        ("versions: {2: x, +2: y}", 1),
        ("b: 1\na: [1, }", 2),
        ("b: 1\na: !x 1", 2),
        ("b: 1\na: !!python/name:os.system", 2),
        ('b: 1\na: "x\\0y"', 2),
        ('b: 1\n"k\\ey": 1', 2),
        ('b: 1\na: [x, "\\a"]', 2),
        (f"b: 1\na: {10**30}", 2),
        (f"b: 1\na: -0x{'f' * 17}", 2),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_line(path: Path, text: str, line: int):
    path.write_text(text)
    with pytest.raises(SpecError, match=f"document.yaml:{line} is not YAML"):
        read(path)


def test_a_merge_of_merges_is_refused_before_it_is_written_out(path: Path):
    merges = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    path.write_text("\n".join(["a0: &a0 {k: 1, l: 2}", *merges]))
    with pytest.raises(SpecError, match="is too large"):
        read(path)


@given(scalar=SCALARS)
def test_a_scalar_is_read_as_by_another_parser_or_refused(path: Path, scalar: str):
    text = f"a: {scalar}"
    path.write_text(text)
    try:
        content = read(path)
    except SpecError:
        return
    try:
        expected = by_ruamel(text)
    except (ValueError, YAMLError):  # ``-_`` is a number without digits there, ``=`` an old type
        assert content["a"] == scalar.strip()
        return
    if "._" in scalar and content["a"] == scalar.strip():
        return  # the other parser drops the underscore and reads ``._0`` as a number
    assert content == expected or content["a"] != content["a"]
    assert type(content["a"]) is type(expected["a"])


def test_a_document_is_read_in_a_few_milliseconds():
    largest = max(OURS, key=lambda document: document.stat().st_size)
    read(largest)
    start = time.process_time()
    for _ in range(10):
        read(largest)
    assert time.process_time() - start < 10 * 0.03
