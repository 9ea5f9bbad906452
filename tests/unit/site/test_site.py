"""The site shows what the pages of the repository say, asks no other host, and can be searched.

It is built once for all tests, in about ten seconds on two cores.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from nightshift.settings import PROJECT_ROOT

DOCS = PROJECT_ROOT / "docs"
COUNTED = {"h1", "h2", "h3", "li", "pre", "table", "tr"}
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src",
           "video": "src", "object": "data", "embed": "src", "use": "href"}  # fmt: skip
FOREIGN = re.compile(r"^(https?:)?//", re.IGNORECASE)
CHROMIUM = Path("/usr/bin/chromium")


def build(*options: str) -> subprocess.CompletedProcess[str]:
    """Run MkDocs without the addresses of any proxy or index."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *options]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(
        command,
        cwd=PROJECT_ROOT,
        env=environment | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make site` does; a broken link or anchor fails here."""
    folder = tmp_path_factory.mktemp("site")
    done = build("--site-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


class Elements(HTMLParser):
    """Count elements, nesting of lists, and collect what a browser would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.loaded: list[str] = []
        self.classes: set[str] = set()
        self._depth = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes |= set((values.get("class") or "").split())
        self.loaded += [values[LOADING[tag]] or "" for _ in "x" if LOADING.get(tag) in values]
        if tag in COUNTED:
            self.counts[tag] += 1
        if tag in {"ul", "ol"}:
            self._depth += 1
            self.counts[f"list at depth {self._depth}"] += 1

    def handle_endtag(self, tag: str) -> None:
        self._depth -= tag in {"ul", "ol"}


def source_of(page: Path, site: Path) -> Path:
    """Return the file of the repository that a page of the site shows."""
    name = str(page.relative_to(site).with_suffix(".md"))
    folder = PROJECT_ROOT if name.startswith("project/") else DOCS
    path = folder / name.removeprefix("project/")
    return path if path.is_file() else path.with_name("README.md")


def pages_of(site: Path) -> list[Path]:
    """Return the pages of the site that show Markdown."""
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    return [page for page in pages if not page.is_relative_to(site / "source")]


def test_every_page_has_the_lists_tables_and_code_that_commonmark_reads_in_it(site: Path) -> None:
    """markdown-it reads the pages as a code host does; the site is made by another parser."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    pages = pages_of(site)
    assert len(pages) > 240
    differing = {}
    for page in pages:
        html = page.read_text(encoding="utf-8")
        article = html.partition("<article")[2].partition("</article>")[0]
        source = source_of(page, site).read_text(encoding="utf-8")
        expected = Elements(reader.render(source)).counts
        if Elements(article).counts != expected:
            differing[str(page.relative_to(site))] = (Elements(article).counts, expected)
    assert differing == {}


def test_every_page_of_the_documentation_is_on_the_site(site: Path) -> None:
    shown = {source_of(page, site) for page in pages_of(site)}
    assert set(DOCS.rglob("*.md")) <= shown
    assert PROJECT_ROOT / "README.md" in shown


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    foreign = set()
    for page in pages:
        elements = Elements(page.read_text(encoding="utf-8"))
        foreign |= {(page.name, url) for url in elements.loaded if FOREIGN.match(url)}
        # Material fetches a drawing program for these from another host.
        assert "mermaid" not in elements.classes, page
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s]+)", sheet.read_text("utf-8"))
        foreign |= {(sheet.name, url) for url in urls if FOREIGN.match(url)}
    assert foreign == set()
    assert len(pages) > 300


def test_the_search_knows_runbooks_commands_and_decisions_but_no_source_file(site: Path) -> None:
    documents = json.loads((site / "search" / "search_index.json").read_text("utf-8"))["docs"]
    places = {document["location"].partition("#")[0] for document in documents}
    assert {"runbooks/NS-FRESH-001.html", "cli.html", "adr/0052-site.html"} <= places
    assert not [place for place in places if place.startswith("source/")]


def test_a_broken_link_or_anchor_fails_the_build(tmp_path: Path) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    text = "# Page\n\n[gone](gone.md), [nowhere](#nowhere)\n\n[good](#page)\n"
    (pages / "README.md").write_text(text)
    config = f"INHERIT: {PROJECT_ROOT}/mkdocs.yml\ndocs_dir: {pages}\nnav: [README.md]\nhooks: []\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    done = build("--config-file", str(tmp_path / "mkdocs.yml"), "--site-dir", str(tmp_path / "out"))
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "#nowhere" in done.stderr
    assert "#page" not in done.stderr


def test_what_production_installs_is_without_the_tools_of_the_site() -> None:
    names = ("mkdocs", "mkdocs-material", "pymdown-extensions")
    runtime = (PROJECT_ROOT / "requirements.txt").read_text(encoding="utf-8")
    tools = (PROJECT_ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    assert [name for name in names if re.search(rf"^{name}==", runtime, re.MULTILINE)] == []
    assert [name for name in names if not re.search(rf"^{name}==", tools, re.MULTILINE)] == []


@pytest.mark.skipif(not CHROMIUM.is_file(), reason="no /usr/bin/chromium: apt-get install chromium")
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_browser_opens_it_from_disk_asks_nobody_and_finds_a_code(
    site: Path, width: int, scheme: str
) -> None:
    from playwright.sync_api import sync_playwright

    complaints: list[str] = []
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: complaints.append(message.text)
                if message.type == "error" else None)  # fmt: skip
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        for name in ("index", "runbooks/NS-FRESH-001", "cli", "architecture", "start/on-call"):
            page.goto(f"{site.as_uri()}/{name}.html")
            overflow = page.evaluate("document.documentElement.scrollWidth") - width
            assert overflow <= 0, (name, overflow)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3
        assert (brightness > 128) == (scheme == "light")

        if width < 1000:
            page.locator("label.md-header__button[for=__search]").click()
        page.locator("input.md-search__input").click()
        page.keyboard.type("NS-WRITE-007", delay=30)
        first = page.locator("a.md-search-result__link").first
        first.wait_for(timeout=20_000)
        # The page of the code, not one of the many pages that name it.
        assert "runbooks/NS-WRITE-007.html" in (first.get_attribute("href") or "")
        browser.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
