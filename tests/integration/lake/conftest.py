"""A bucket of its own for each test of the lake."""

import uuid

import pytest

from nightshift.lake.object_store import ObjectStore


@pytest.fixture
def settings(session_settings):
    return session_settings.model_copy(update={"s3_bucket": f"test-{uuid.uuid4().hex[:12]}"})


@pytest.fixture
def store(settings) -> ObjectStore:
    opened = ObjectStore.open(settings)
    opened.ensure_bucket()
    return opened
