"""Links between pages of the repository, as a reader of the files or of GitHub follows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightshift.settings import PROJECT_ROOT

# Made of the last run of the tests: a test that was renamed since has no file until the next run.
MADE_OF_TESTS = {"docs/ml-test-score.md", "docs/reliability.md"}
LINK = re.compile(r"\]\(([^)#\s]+)")


def pages() -> Iterator[str]:
    folders = ("docs", "examples", "docker", "expectations", "dbt_project")
    paths = [*PROJECT_ROOT.glob("*.md")]
    for folder in folders:
        paths += (PROJECT_ROOT / folder).rglob("*.md")
    for path in sorted(paths):
        name = str(path.relative_to(PROJECT_ROOT))
        if name not in MADE_OF_TESTS and "target/" not in name:
            yield name


def lost_links(page: Path) -> list[str]:
    """Return the links of a page that lead to no file."""
    links = LINK.findall(page.read_text(encoding="utf-8"))
    return [link for link in links if ":" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_to_a_file(page: str) -> None:
    assert lost_links(PROJECT_ROOT / page) == []


def test_a_lost_link_is_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[here](page.md#top), [there](../gone.md), [far](https://example.org/x)")
    assert lost_links(page) == ["../gone.md"]
