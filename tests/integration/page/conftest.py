"""A year in small, and the page over it."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient
from tests.databases import copied, own_database
from tests.integration.page.year import fill_year

from nightshift.cli.services.migrate import as_admin
from nightshift.page.application import create_app
from nightshift.page.gates import PasswordGate
from nightshift.warehouse.analysts.grants import apply_grants
from nightshift.warehouse.connection import connect

PASSWORD = "a-password-of-this-test"
HOST = "testserver"
N_MODELS, N_DAYS, N_FEATURES = 3, 210, 12


@pytest.fixture(scope="session")
def year_state(session_settings, template_database):
    """Return a database of 210 nights of three models and its last day; to be copied."""
    with own_database(session_settings, template_database) as settings:
        with connect(settings, "test") as conn:
            last = fill_year(conn, N_MODELS, N_DAYS, N_FEATURES)
        with connect(as_admin(settings), "test") as conn:
            apply_grants(conn)
        yield settings, last


@pytest.fixture(scope="module")
def small_year(year_state):
    """Return settings of a warehouse that nobody writes to."""
    with copied(year_state[0]) as settings:
        yield settings, year_state[1]


@pytest.fixture(scope="module")
def settings_of_year(small_year):
    return small_year[0]


@pytest.fixture(scope="module")
def last(small_year):
    return small_year[1]


@pytest.fixture
def changed_year(year_state):
    """Return settings of a copy that a test may write to."""
    with copied(year_state[0]) as settings:
        yield settings


def open_page(settings, *, is_logged_in=True):
    """Return a client of the page."""
    app = create_app(settings, PasswordGate(PASSWORD, frozenset({HOST})))
    client = TestClient(app)
    if is_logged_in:
        login = client.post("/login", data={"password": PASSWORD}, follow_redirects=False)
        assert login.status_code == 303
    return client


@pytest.fixture(scope="module")
def client(settings_of_year):
    with open_page(settings_of_year) as client:
        yield client


def pages_of(last):
    """Return every address of the page, in its forms."""
    return [
        "/",
        "/models",
        "/models/model_00",
        "/models/model_01?metric=roc_auc",
        "/drift",
        "/drift?model=model_01&days=366",
        f"/drift/model_00/feature_00/{last}",
        "/partitions",
        "/partitions?model=model_01",
        f"/partitions/{last}",
        f"/partitions/{last}?model=model_02",
        "/data",
        "/data?layer=features/",
        "/data?layer=predictions/",
        "/data/raw/weather",
        "/data/predictions/model_00",
        "/acts",
    ]
