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
FILE = re.compile(r"`([\w./-]+/|[\w./-]+\.py)`")


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
