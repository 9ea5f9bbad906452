"""What a load is made from, and when upstream delivered it."""

from __future__ import annotations

import datetime as dt

import pytest

from nightshift.contracts.run import RunContext
from nightshift.warehouse.partition_write import LoadManifest

RUN = RunContext("test/run", 1, "test")
DAY = dt.date(2013, 7, 1)
DELIVERED = dt.datetime(2013, 7, 2, 4, tzinfo=dt.UTC)


def test_digest_depends_on_inputs_and_not_on_who_runs():
    again = RunContext("another/run", 2, "cli:me")

    assert (
        LoadManifest(RUN, {"a": "1", "b": "2"}).digest
        == LoadManifest(again, {"b": "2", "a": "1"}).digest
    )
    assert LoadManifest(RUN, {"a": "1"}).digest != LoadManifest(RUN, {"a": "2"}).digest


def test_digest_depends_on_the_code(monkeypatch):
    before = LoadManifest(RUN, {"a": "1"}).digest
    monkeypatch.setattr("nightshift.warehouse.write_types.code_version", lambda: "other")

    assert LoadManifest(RUN, {"a": "1"}).digest != before


@pytest.mark.parametrize(
    ("known_at", "expected"), [(None, None), (DELIVERED, DELIVERED), ({DAY: DELIVERED}, DELIVERED)]
)
def test_delivery_time_is_one_for_all_or_one_a_day(known_at, expected):
    assert LoadManifest(RUN, {}, known_at).known_at_of(DAY) == expected
