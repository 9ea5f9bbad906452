"""The quick reader agrees with the whole one, or leaves the text to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from nightshift.contracts.quick_yaml import read_plain
from nightshift.settings import PROJECT_ROOT

OURS = [*sorted((PROJECT_ROOT / "dags").rglob("*.yaml"))]
SCALARS = st.text("abnyoeYNfilruTs0123456789+-.:_~=<xXE ", max_size=8)


def whole(text: str) -> object:
    return YAML(typ="safe", pure=True).load(text)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_documents_are_plain(path: Path):
    text = path.read_text(encoding="utf-8")
    assert read_plain(text) == whole(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: 04:00",
        "a: 010",
        "a: 0x1f",
        "a: 1_000",
        "a: 1e3",
        "a: .inf",
        "a: 2013-02-01T00:00:00Z",
        "a: 1\na: 2",
        "<<: {a: 1}",
        "a: [1",
        "a: !x 1",
    ],
)
def test_text_is_left_to_the_whole_parser_when_it_is_doubtful(text: str):
    assert read_plain(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "a: yes",
        "a: on",
        "a: y",
        "a: 'yes'",
        'a: "04:00"',
        "a:",
        "a: ~",
        "a: 2013-02-01",
        "a: |\n  1\n",
        "&x a: *x",
    ],
)
def test_reading_is_that_of_yaml_1_2(text: str):
    assert read_plain(text) == whole(text)


@given(scalar=SCALARS)
def test_a_scalar_is_read_as_the_whole_parser_does_or_not_at_all(scalar: str):
    text = f"a: {scalar}"
    found = read_plain(text)
    if found is not None:
        expected = whole(text)
        assert found == expected
        assert type(found["a"]) is type(expected["a"])
