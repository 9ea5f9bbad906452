"""The page in Airflow's own interface: its login, its rights, its navigation, a real night."""

from __future__ import annotations

import httpx
import pytest
from tests.whole_night import NIGHT, Whole

from nightshift_local.credentials import Credentials

pytestmark = [pytest.mark.airflow, pytest.mark.integration, pytest.mark.timeout(900)]

PATHS = ("/", "/models", "/models/flight_delayed", "/drift", "/partitions", f"/partitions/{NIGHT}",
    "/data", "/data/raw/weather", "/acts")  # fmt: skip


@pytest.fixture
def client(whole: Whole):
    with httpx.Client(base_url=whole.api.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def token(whole: Whole, client: httpx.Client) -> str:
    password = Credentials(whole.settings.home).get("airflow-admin")
    answer = client.post("/auth/token", json={"username": "admin", "password": password})
    return str(answer.json()["access_token"])


def test_nobody_sees_the_page_without_airflows_login(client: httpx.Client) -> None:
    for path in (*PATHS, "/style.css", "/stored/evidence/1", "/nothing"):
        assert client.get(f"/nightshift{path}").status_code == 401, path
    wrong = client.get("/nightshift/", headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code in (401, 403)


def test_the_page_is_in_the_navigation_and_shows_the_night(
    client: httpx.Client, token: str
) -> None:
    client.headers["Authorization"] = f"Bearer {token}"
    plugins = client.get("/api/v2/plugins").json()["plugins"]
    views = [view for plugin in plugins for view in plugin["external_views"]]
    assert "/nightshift/" in [view["href"] for view in views]
    for path in PATHS:
        answer = client.get(f"/nightshift{path}")
        assert answer.status_code == 200, path
        assert 'href="/nightshift/models"' in answer.text
    night = client.get(f"/nightshift/partitions/{NIGHT}?model=flight_delayed&format=json").json()
    assert night["has_tasks"]
    assert night["path"][-1]["step"] == "score__flight_delayed.publish"
    published = {row["model"]: row for row in night["publications"]}
    assert published["flight_delayed"]["score_source"] == "champion"


def test_the_cookie_of_airflow_is_enough_and_nothing_can_be_written(
    client: httpx.Client, token: str
) -> None:
    client.cookies["_token"] = token
    assert client.get("/nightshift/models").status_code == 200
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/nightshift/models").status_code in (404, 405)


def test_evidence_and_checks_of_the_night_are_one_click_away(
    client: httpx.Client, token: str
) -> None:
    client.headers["Authorization"] = f"Bearer {token}"
    model = client.get("/nightshift/models/flight_delayed?format=json").json()
    decision = next(row for row in model["decisions"] if row["has_page"])
    for path in (
        f"/nightshift/stored/evidence/{decision['promotion_id']}",
        f"/nightshift/stored/gate/{NIGHT}/predictions/flight_delayed",
    ):
        assert "<iframe" in client.get(path).text
        raw = client.get(f"{path}?raw=1")
        assert raw.status_code == 200
        assert raw.headers["content-security-policy"].startswith("sandbox;")
        assert raw.text.lower().startswith("<!doctype html>")
