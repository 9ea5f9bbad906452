"""Clients of one key share what botocore reads of S3; without a key each looks for credentials."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import boto3
import pytest
from pydantic import SecretStr

from nightshift.lake.s3_requests import open_client
from nightshift.settings import Settings


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the sessions that were made."""
    made: list[Any] = []
    new_session = boto3.session.Session

    def record(**given: Any) -> Any:
        made.append(new_session(**given))
        return made[-1]

    monkeypatch.setattr(boto3.session, "Session", record)
    return made


def settings_of(key_id: str, endpoint: str) -> Settings:
    given = {"s3_access_key_id": key_id, "s3_secret_access_key": SecretStr("s")}
    return Settings(_env_file=None, warehouse_host="h", s3_endpoint_url=endpoint, **given)


def test_one_session_makes_the_clients_of_a_key_also_in_threads(sessions):
    key_id = uuid4().hex
    places = [f"http://127.0.0.1:{port}" for port in (1, 2, 1, 2)]
    with ThreadPoolExecutor(4) as pool:
        clients = list(pool.map(lambda place: open_client(settings_of(key_id, place)), places))
    assert [client.meta.endpoint_url for client in clients] == places
    assert len(sessions) == 1
    open_client(settings_of(uuid4().hex, places[0]))
    assert len(sessions) == 2


def test_credentials_are_looked_for_again_when_no_key_is_given(sessions):
    for _ in range(2):
        open_client(settings_of("", "http://127.0.0.1:1"))
    assert len(sessions) == 2
