"""Make the pictures of README and docs/page.md: the year of the tests, as Chromium shows it.

    PYTHONPATH=plugins .venv/bin/python -m tests.integration.page.pictures

``--all FOLDER`` writes every page in both themes and widths into a folder instead, to be looked at.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from tests.databases import own_database
from tests.integration.page.conftest import PASSWORD, pages_of
from tests.integration.page.test_browser import CHROMIUM, Served, log_in
from tests.integration.page.year import fill_year

from nightshift.cli.services.migrate import as_admin
from nightshift.contracts.datasets import load_contracts
from nightshift.page.application import create_app
from nightshift.page.gates import PasswordGate
from nightshift.settings import PROJECT_ROOT, Settings, load_settings
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.connection import connect
from nightshift.warehouse.migrate import migrate
from nightshift_local.local_env import LocalServers

FIGURES = PROJECT_ROOT / "docs" / "figures"
# Name, address, theme and height of each picture of the documentation.
PICTURES = (
    ("page-now", "/", "light", 860),
    ("page-nights", "/partitions?model=model_01", "light", 760),
    ("page-drift", "/drift?model=model_01", "dark", 850),
)
N_MODELS, N_DAYS, N_FEATURES = 3, 365, 40
WIDTHS = (1280, 390)
# As the rules say it; {last} and {before} are the newest days.
INCIDENTS = (
    """
    insert into ops.incident_rules (kind, aspect, evaluated_at, succeeded_at, seconds, n_found)
    values ('late predictions', 'publication', clock_timestamp(), clock_timestamp(), 0.01, 1)
    """,
    """
    insert into ops.incidents (kind, fact_key, code, severity, health, aspect, subject_type,
        subject, partitions, owner, what, consequence, command, runbook, touched_tables,
        touched_models, touched_consumers, worse_rank)
    values
    ('lost rows', 'predictions/model_01', 'NS-WRITE-007', 'critical', 'degraded', 'rows', 'table',
        'predictions/model_01', array[%(last)s::date], 'team-1',
        'Readers of predictions/model_01 do not see what was published of ' || %(last)s
        || ': 562 of 4808 rows are there.',
        'Readers see wrong totals now; stages that read it fail with NS-WRITE-007.',
        'nightshift score model_01 ' || %(last)s, 'docs/runbooks/NS-WRITE-007.md',
        array['predictions/model_01'], array['model_01'], array['analytics.model_01_current'], 3),
    ('fallback in use', 'model_02', 'NS-SCORE-007', 'warning', 'degraded', 'scores', 'model',
        'model_02', array[%(last)s::date], 'team-2',
        'model_02 of ' || %(last)s || ' is published by carried_over: the champion''s files cannot'
        ' be read',
        'catch_up tries the champion again until the deadline, then readers keep it.',
        'nightshift score model_02 ' || %(last)s, 'docs/runbooks/NS-SCORE-007.md',
        array['predictions/model_02'], array['model_02'], array['analytics.model_02_current'], 2),
    ('rows in quarantine', 'raw/weather', 'NS-INCIDENT-004', 'info', 'caution', 'inputs', 'table',
        'raw/weather', '{}', '',
        '123 refused row(s) of raw/weather wait for a person since ' || %(before)s || '.',
        'Readers do without these rows.', 'nightshift quarantine list weather',
        'docs/runbooks/NS-INCIDENT-004.md', array['raw/weather'],
        array['model_00', 'model_01', 'model_02'], array['analytics.model_01_current'], 1)
    """,
)


def main() -> None:
    """Fill a warehouse with a year, serve the page, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    folder = parser.parse_args().all
    with seeded_year() as (settings, last), served(settings) as url:
        shots = [
            (FIGURES / f"{name}.png", address, theme, WIDTHS[0], height)
            for name, address, theme, height in PICTURES
        ]
        if folder:
            shots = list(every_page(folder, last))
        take(url, shots)


@contextmanager
def seeded_year() -> Iterator[tuple[Settings, object]]:
    """Yield settings of a warehouse with a year of nights and some incidents, and its last day."""
    with tempfile.TemporaryDirectory() as home, LocalServers(Path(home)) as servers:
        os.environ |= servers.env
        with own_database(load_settings()) as settings:
            with connect(settings, "pictures") as conn:
                migrate(conn, load_contracts(PROJECT_ROOT / "dags" / "datasets"))
                last = fill_year(conn, N_MODELS, N_DAYS, N_FEATURES)
                for statement in INCIDENTS:
                    conn.execute(statement, {"last": str(last), "before": f"{last:%Y-%m-}02"})
            with connect(as_admin(settings), "pictures") as conn:
                apply_grants(conn)
            yield settings, last


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Serve the page on a port of loopback; yield its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    host = f"127.0.0.1:{listening.getsockname()[1]}"
    app = create_app(settings, PasswordGate(PASSWORD, frozenset({host})))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://{host}"
    finally:
        server.should_exit = True
        thread.join()


def every_page(folder: Path, last: object) -> Iterator[tuple[Path, str, str, int, int]]:
    """Yield a picture of each page, theme and width."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, address in enumerate(pages_of(last)):
        for theme in ("light", "dark"):
            for width in WIDTHS:
                yield folder / f"{number:02d}-{theme}-{width}.png", address, theme, width, 900


def take(url: str, shots: list[tuple[Path, str, str, int, int]]) -> None:
    """Write pictures: file, address, theme, width and height of each."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        for path, address, theme, width, height in shots:
            size = {"width": width, "height": height}
            page = browser.new_context(viewport=size, color_scheme=theme).new_page()
            log_in(page, Served(url, PASSWORD, path, ""))
            page.goto(url + address)
            page.screenshot(path=path)
            page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
