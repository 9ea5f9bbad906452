"""A fault proxy in front of the real S3 server, and stores that use it or bypass it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from tests.chaos.object_store.fault_proxy import FaultProxy

from nightshift.lake.object_store import ObjectStore
from nightshift.settings import Settings

READ_TIMEOUT_SECONDS = 0.4
REQUEST_ATTEMPTS = 3


@dataclass(frozen=True)
class Lake:
    """One bucket, seen twice: through the proxy and directly.

    Attributes:
        proxy: Plays the faults.
        store: The store under test, with short timeouts, behind the proxy.
        direct: The same bucket without the proxy.
        settings: Those of ``store``.
        place: What the keys of this test begin with, with a slash at its end.
    """

    proxy: FaultProxy
    store: ObjectStore
    direct: ObjectStore
    settings: Settings
    place: str = ""


@pytest.fixture(scope="session")
def proxy(session_settings) -> Iterator[FaultProxy]:
    with FaultProxy(session_settings.s3_endpoint_url) as running:
        yield running


@pytest.fixture(scope="session")
def bucket(session_settings, proxy) -> Lake:
    """Return a bucket for all tests: creating one takes seconds."""
    mine = session_settings.model_copy(update={"s3_bucket": f"faults-{uuid.uuid4().hex[:12]}"})
    behind = mine.model_copy(
        update={
            "s3_endpoint_url": proxy.url,
            "s3_connect_timeout_seconds": READ_TIMEOUT_SECONDS,
            "s3_read_timeout_seconds": READ_TIMEOUT_SECONDS,
            "s3_request_attempts": REQUEST_ATTEMPTS,
        }
    )
    direct = ObjectStore.open(mine)
    direct.ensure_bucket()
    return Lake(proxy, ObjectStore.open(behind), direct, behind)


@pytest.fixture
def quick_backoff(monkeypatch) -> None:
    """Let botocore retry quickly, and not count the retries of other tests."""
    from botocore.retries import quota, standard

    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda *_: 0.01)
    monkeypatch.setattr(quota.RetryQuota, "acquire", lambda *_: True)


@pytest.fixture
def lake(bucket, quick_backoff) -> Iterator[Lake]:
    """Return the bucket with a place of its own for one test."""
    bucket.proxy.heal()
    yield replace(bucket, place=f"{uuid.uuid4().hex[:12]}/")
    bucket.proxy.heal()
