"""Hooks of MkDocs: what the pages of the repository need to be pages of a site.

GitHub shows a page wherever it stands, and reads lists and tables as CommonMark does. MkDocs knows
one folder, and Python-Markdown wants blank lines and four spaces. So the pages stay as they are,
and this module adds what a link of theirs leads to and writes their lists as the site needs them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PROJECT_PAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "dbt_project/README.md",
    "docker/README.md",
    "examples/flights/README.md",
    "expectations/README.md",
)
"""Pages that stand outside of docs/; on the site they are below project/."""
EVIDENCE_PAGES = ("ml-test-score.md", "reliability.md")
"""Made of the last run of the tests; a test that was renamed since has no file until the next."""
WAYS_BACK = {
    "runbooks/NS-": "\n[All codes](README.md#the-codes)\n",
    "adr/0": "\n[All decisions](README.md)\n",
}
"""Pages that no menu has end with the way to their index."""
LANGUAGES = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".sh": "sh", ".sql": "sql"}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
TEST_LINK = re.compile(r"\[([^\]]+)\]\(\.\./(tests/[^)#]+)\)")
FENCE = re.compile(r"^ *(```|~~~)")
ITEM = re.compile(r"^( *)([-*]|\d+\.) +(?=\S)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of docs/, and the source files to which a page links."""
    for path in PROJECT_PAGES:
        content = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, f"project/{path}", content=content))
    for path in sorted(_linked_sources(files)):
        files.append(File.generated(config, _site_uri(path), content=_source_page(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page's text with links and lists of the site."""
    del config, files
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    way_back = next((text for folder, text in WAYS_BACK.items() if uri.startswith(folder)), "")
    return for_python_markdown(with_site_links(markdown, uri)) + way_back


def with_site_links(markdown: str, uri: str) -> str:
    """Return the text with each link to a file of the repository as a link of the site.

    Args:
        markdown: Text of the page.
        uri: Path of the page on the site.
    """
    folder = posixpath.dirname(_repository_path(uri))

    def rewrite(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if ":" in target or not (ROOT / path).is_file():
            # MkDocs names a link that leads nowhere.
            return target + anchor
        return posixpath.relpath(_site_uri(path), posixpath.dirname(uri) or ".") + anchor

    if uri in EVIDENCE_PAGES:
        markdown = TEST_LINK.sub(_without_lost_test, markdown)
    return _outside_code(markdown, lambda line: LINK.sub(rewrite, line))


def for_python_markdown(markdown: str) -> str:
    """Return CommonMark's lists, fences and tables in the form that Python-Markdown reads.

    A list, a fence and a table get blank lines around them, and what belongs to an item of a list
    is indented by four spaces a level instead of by the width of the item's mark.
    """
    lines: list[str] = []
    # Where the text of each open item begins: in the page, from the outer item to the inner.
    columns: list[int] = []
    fence = ""
    for line in markdown.splitlines():
        text = line.lstrip(" ")
        column = len(line) - len(text)
        if not text:
            lines.append("")
            continue
        if not fence:
            is_lazy = bool(lines and lines[-1]) and not ITEM.match(line)
            while columns and column < columns[-1] and not (is_lazy and column):
                columns.pop()
        depth = len(columns)
        rest = column - (columns[-1] if columns else 0)
        shown = " " * (4 * depth + max(rest, 0)) + text

        is_fence = FENCE.match(line)
        item = None if fence else ITEM.match(line)
        opens_block = not fence and bool(is_fence or item or text.startswith("|"))
        if opens_block and _needs_blank(lines, text):
            lines.append("")
        if item:
            columns.append(len(item[0]))
        lines.append(shown)
        if is_fence:
            fence = "" if fence else is_fence[1]
    return "\n".join(lines) + "\n"


def _needs_blank(lines: list[str], text: str) -> bool:
    """Return whether a block that begins here would be read as part of the line before it."""
    if not lines or not lines[-1]:
        return False
    before = lines[-1].lstrip(" ")
    if text.startswith("|"):
        return not before.startswith("|")
    return not (ITEM.match(text) and ITEM.match(before))


def _without_lost_test(link: re.Match[str]) -> str:
    """Return a link to a test, or only its words if the file is gone."""
    return link[0] if (ROOT / link[2]).is_file() else link[1]


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Return the text with each line changed that stands in no fence."""
    lines = []
    is_code = False
    for line in markdown.splitlines():
        is_fence = FENCE.match(line) is not None
        lines.append(line if is_code or is_fence else change(line))
        is_code ^= is_fence
    return "\n".join(lines) + "\n"


def _linked_sources(files: Files) -> set[str]:
    """Return the files of the repository that a page links to and that are no pages."""
    sources = set()
    for file in files.documentation_pages():
        folder = posixpath.dirname(_repository_path(file.src_uri))
        for link in LINK.finditer(file.content_string):
            path = posixpath.normpath(posixpath.join(folder, link[1]))
            is_source = ":" not in link[1] and _site_uri(path).startswith("source/")
            if is_source and (ROOT / path).is_file():
                sources.add(path)
    return sources


def _repository_path(uri: str) -> str:
    """Return the path in the repository of a page of the site."""
    return uri.removeprefix("project/") if uri.startswith("project/") else f"docs/{uri}"


def _site_uri(path: str) -> str:
    """Return the path on the site of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in PROJECT_PAGES:
        return f"project/{path}"
    # MkDocs leaves out a file that begins with a dot.
    return f"source/{path.removeprefix('.')}.md"


def _source_page(path: str) -> str:
    """Return a page that shows a file; the search does not offer it."""
    language = LANGUAGES.get(Path(path).suffix, "text")
    content = (ROOT / path).read_text(encoding="utf-8").rstrip()
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# `{path}`\n"
    # A fence longer than any in the file.
    return f"{head}\n``````{language}\n{content}\n``````\n"
