"""What every template keeps, whatever it shows."""

from __future__ import annotations

import re

import pytest

from nightshift.page.rendering import FOLDER, arguments, count_of

TEMPLATES = sorted(path.name for path in FOLDER.glob("*.html"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_scrolls_is_reached_by_the_keyboard_and_has_a_name(name: str) -> None:
    # Without a name it is no region; without a stop, a keyboard cannot move what overflows.
    regions = re.findall(r'<div class="scroll[^>]*>', (FOLDER / name).read_text(encoding="utf-8"))
    for region in regions:
        assert re.search(r' tabindex="0" role="region" aria-label="[^"]+"', region), region


def test_there_are_regions_that_scroll():
    assert sum('class="scroll' in (FOLDER / name).read_text() for name in TEMPLATES) >= 8


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_two_regions_of_a_page_have_one_name(name: str) -> None:
    # A section takes its name from its heading: what scrolls in it needs another one.
    text = (FOLDER / name).read_text(encoding="utf-8")
    headings = re.findall(r'<h2 id="[^"]+">([^<{]+)', text)
    labels = [*map(str.strip, headings), *re.findall(r'role="region" aria-label="([^"]+)"', text)]
    assert sorted(labels) == sorted(set(labels))


def test_what_an_act_was_asked_for_is_said_in_words():
    asked = {"partition_key": "2013-02-04", "dag": "ingest", "conf": {}, "note": None, "n": 0}
    assert arguments(asked) == "dag ingest, n 0, partition_key 2013-02-04"
    assert arguments({}) == ""


@pytest.mark.parametrize(
    ("items", "words"), [([], "0 models"), (["a"], "1 model"), (["a", "b"], "2 models")]
)
def test_what_is_counted_has_its_plural(items: list[str], words: str):
    assert count_of(items, "model") == words


def test_the_list_of_incidents_counts_what_each_touches():
    now = (FOLDER / "now.html").read_text(encoding="utf-8")
    for noun in ("model", "table", "consumer"):
        assert f'row.touched_{noun}s|count_of("{noun}")' in now
