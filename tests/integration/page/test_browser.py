"""`nightshift page` as a person sees it: in Chromium, in both themes and at both widths."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.ends_with_us import ENDS_WITH_US
from tests.integration.page.conftest import pages_of

from nightshift.settings import PROJECT_ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Served:
    """A running `nightshift page`."""

    url: str
    password: str
    password_file: Path
    printed: str


@pytest.fixture(scope="module")
def served(settings_of_year, tmp_path_factory):
    """Run the command as a person would."""
    home = tmp_path_factory.mktemp("home")
    settings = settings_of_year
    env = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    env |= {
        "NIGHTSHIFT_HOME": str(home),
        "NIGHTSHIFT_WAREHOUSE_HOST": settings.warehouse_host,
        "NIGHTSHIFT_WAREHOUSE_PORT": str(settings.warehouse_port),
        "NIGHTSHIFT_WAREHOUSE_DATABASE": settings.warehouse_database,
        "NIGHTSHIFT_WAREHOUSE_USER": settings.warehouse_user,
        "NIGHTSHIFT_WAREHOUSE_PASSWORD": settings.warehouse_password.get_secret_value(),
        "PYTHONPATH": str(PROJECT_ROOT / "plugins"),
    }
    argv = [sys.executable, "-m", "nightshift.cli", "page"]
    with subprocess.Popen(
        [*ENDS_WITH_US, *argv],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        line = server.stdout.readline()
        url, path = re.fullmatch(
            r"(http://127\.0\.0\.1:\d+)  password: cat '(.*)'\n", line
        ).groups()
        try:
            yield Served(url, Path(path).read_text(), Path(path), line)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


def log_in(page, served):
    for _ in range(50):
        try:
            page.goto(served.url)
            break
        # The line is printed before the server listens.
        except Exception:  # noqa: BLE001
            page.wait_for_timeout(200)
    page.fill("#password", served.password)
    page.press("#password", "Enter")
    page.wait_for_selector("main h1")


def test_the_password_is_in_a_file_of_its_owner_and_not_on_the_terminal(served):
    assert stat.S_IMODE(served.password_file.stat().st_mode) == 0o600
    assert len(served.password) >= 32
    assert served.password not in served.printed


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_fits_and_reports_no_error(served, browser, last, theme, width):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = context.new_page()
    problems = []
    log_in(page, served)
    page.on(
        "console",
        lambda message: (
            problems.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    for address in pages_of(last):
        answer = page.goto(served.url + address)
        assert answer.status == 200
        assert page.locator("h1").count() == 1
        assert page.locator('nav [aria-current="page"]').count() == 1
        too_wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not too_wide, (address, width)
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}[theme]
    assert problems == []
    assert hosts == {served.url.removeprefix("http://")}
    context.close()


@needs_chromium
def test_the_page_works_by_keyboard_and_without_scripts(served, browser, last):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    log_in(page, served)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Drift"
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Drift: model_00")
    # From the map to the two distributions of one cell.
    page.locator(f'a[href="/drift/model_00/feature_00/{last}"]').first.click()
    page.wait_for_selector("h1:has-text('feature_00')")
    context.close()
