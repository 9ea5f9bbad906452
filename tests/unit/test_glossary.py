"""Every file that the glossary names exists, and every word has one sentence."""

from __future__ import annotations

import re

import pytest

from nightshift.settings import PROJECT_ROOT

LIBRARY = PROJECT_ROOT / "plugins" / "nightshift"
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (PROJECT_ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| word")
]
FILE = re.compile(r"`([\w./-]+/|[\w./-]+\.(?:py|sql))`")


def test_the_glossary_is_read() -> None:
    assert len(ROWS) > 60


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_word_has_a_sentence_and_a_file_that_exists(row: list[str]) -> None:
    word, sentence, home = row
    assert sentence[0].isupper(), word
    assert sentence.endswith("."), word
    files = FILE.findall(home)
    assert files
    for name in files:
        assert (LIBRARY / name).exists() or (PROJECT_ROOT / name).exists(), name


def test_a_word_stands_in_one_row() -> None:
    words = [row[0] for row in ROWS]
    assert sorted(set(words)) == sorted(words)


ROOM = re.compile(r"^\| `(\w+/)` \|.*\| `(\w+\.py)` \|$", re.MULTILINE)
NAMED = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|md|sql|yaml|json)|[\w./-]+/)[:`]")


def read(page: str) -> str:
    return (PROJECT_ROOT / "docs" / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["architecture.md", "recipes.md"])
def test_each_file_of_the_library_that_a_page_names_exists(page: str) -> None:
    names = [name for name in NAMED.findall(read(page)) if not name.startswith("landing/")]
    assert len(names) > 10
    missing = [
        name
        for name in names
        if not any((root / name).exists() for root in (LIBRARY, PROJECT_ROOT))
    ]
    assert missing == []


def test_architecture_lists_every_room_and_the_module_to_open_first() -> None:
    rooms = dict(ROOM.findall(read("architecture.md")))
    packages = {f"{path.parent.name}/" for path in LIBRARY.glob("*/__init__.py")}
    assert set(rooms) == packages
    assert [room for room, module in rooms.items() if not (LIBRARY / room / module).is_file()] == []
