"""Parquet snapshots: named by content, deterministic, verified."""

import datetime as dt

import pyarrow as pa
import pytest

from nightshift.lake.object_errors import ObjectCorruptError
from nightshift.lake.snapshots import read_snapshot, write_snapshot

pytestmark = pytest.mark.integration


def table(n: int = 3) -> pa.Table:
    at = dt.datetime(2013, 3, 10, 7, tzinfo=dt.UTC)
    return pa.table(
        {
            "id": [f"a{i}" for i in range(n)],
            "x": [0.1 * i for i in range(n)],
            "at": pa.array([at] * n, pa.timestamp("us", "UTC")),
        }
    )


def test_a_snapshot_is_read_back_when_its_digest_is_given(store):
    snapshot = write_snapshot(store, table(), "training_sets/m")

    assert snapshot.key == f"training_sets/m/{snapshot.sha256}.parquet"
    assert snapshot.n_rows == 3
    assert read_snapshot(store, snapshot.key, snapshot.sha256).equals(table())


def test_a_snapshot_has_the_same_key_when_the_rows_come_in_other_chunks(store):
    whole = table(100_000)
    chunked = pa.concat_tables([whole.slice(0, 7), whole.slice(7, 70_000), whole.slice(70_007)])

    assert write_snapshot(store, whole, "p") == write_snapshot(store, chunked, "p")
    assert write_snapshot(store, whole.slice(1), "p").key != write_snapshot(store, whole, "p").key


def test_a_snapshot_is_refused_when_its_digest_is_wrong(store):
    snapshot = write_snapshot(store, table(), "p")

    with pytest.raises(ObjectCorruptError):
        read_snapshot(store, snapshot.key, "0" * 64)
