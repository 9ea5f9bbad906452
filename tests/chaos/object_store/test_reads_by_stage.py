"""What the stages read through the fault proxy: wrong bytes never get further."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from tests.chaos.object_store.fault_proxy import Fault
from tests.drop_listing import list_drops

from nightshift.contracts.partitions import PartitionRange
from nightshift.errors import ObjectStoreError
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.landing import read_data
from nightshift.lake.object_errors import ObjectTooLargeError
from nightshift.lake.snapshots import read_snapshot, write_snapshot

pytestmark = [pytest.mark.promise("R13"), pytest.mark.integration]

DAY = dt.date(2013, 7, 1)
DELIVERED_AT = dt.datetime(2013, 7, 2, 4, 20, tzinfo=dt.UTC)
DATA = b"station,temperature_f\n" + b"JFK,77.5\n" * 500
PART_BYTES = 5 * 1024 * 1024


def drop(dataset):
    return NewDrop(dataset, DAY, DELIVERED_AT, DATA, 500, "weather")


@pytest.mark.parametrize(
    "kind", ["503", "lost_answer", "truncated", "truncated_head", "flipped", "drip"]
)
@pytest.mark.parametrize("broken", [("put", 2), ("list_next", 1), ("get", 1), ("get", 2)])
def test_drop_is_written_listed_and_read_right_when_one_request_breaks(lake, kind, broken):
    operation, first = broken
    fault = lake.proxy.play(Fault(kind, operation, first=first))
    dataset = lake.place[:-1]

    written = write_drop(lake.store, drop(dataset))
    delivered = list_drops(lake.store, dataset, PartitionRange.of("2013-07-01"))

    assert delivered == [written]
    assert read_data(lake.store, delivered) == [DATA]
    assert fault.n_played == 1


@pytest.mark.parametrize("kind", ["truncated", "truncated_head", "flipped"])
def test_drop_of_a_stranger_is_right_or_refused_when_every_read_is_damaged(lake, kind):
    """Upstream states no SHA-256 of a manifest, so its MD5 (the ETag) refuses a changed one."""
    dataset = lake.place[:-1]
    written = write_drop(lake.direct, drop(dataset))
    key = f"landing/{dataset}/dt=2013-07-01/stranger.manifest.json"
    manifest = lake.direct.get(f"landing/{dataset}/dt=2013-07-01/weather.manifest.json")
    lake.direct.client.put_object(Bucket=lake.direct.bucket, Key=key, Body=manifest)
    lake.proxy.play(Fault(kind, "get", times=None))

    with pytest.raises(ObjectStoreError) as caught:
        list_drops(lake.store, dataset, PartitionRange.of("2013-07-01"))

    assert caught.value.code in {"NS-LAKE-001", "NS-LAKE-005"}
    lake.proxy.heal()
    # Both manifests say the same, so they are one drop.
    assert list_drops(lake.store, dataset, PartitionRange.of("2013-07-01")) == [written]


def test_data_that_upstream_wrote_in_parts_is_read_and_verified_by_its_manifest(lake):
    """A multipart object has no digest of its own in the bucket: its manifest's counts."""
    body, key = DATA + b"x" * (PART_BYTES + 1_000), f"{lake.place}parts"
    client, where = lake.direct.client, {"Bucket": lake.direct.bucket, "Key": key}
    upload = client.create_multipart_upload(**where)["UploadId"]
    parts = [body[:PART_BYTES], body[PART_BYTES:]]
    tags = [
        client.upload_part(**where, UploadId=upload, PartNumber=n, Body=part)["ETag"]
        for n, part in enumerate(parts, 1)
    ]
    client.complete_multipart_upload(
        **where,
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, 1)]
        },
    )
    fault = lake.proxy.play(Fault("flipped", "get"))

    assert lake.store.get(key, sha256(body).hexdigest()) == body
    assert fault.n_played == 1


def test_content_larger_than_one_conditional_put_is_refused_before_it_is_sent(lake, tmp_path):
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(5 * 1024**3 + 1)

    with pytest.raises(ObjectTooLargeError, match="NS-LAKE-007"):
        lake.store.put(f"{lake.place}huge", huge)
    assert "put" not in lake.proxy.operations


@pytest.mark.parametrize("kind", ["flipped", "truncated"])
def test_snapshot_is_read_by_the_digest_of_the_caller_when_a_body_is_damaged(lake, kind):
    import pyarrow as pa

    rows = pa.table({"n": list(range(10_000))})
    snapshot = write_snapshot(lake.direct, rows, f"{lake.place}rows")
    fault = lake.proxy.play(Fault(kind, "get"))

    assert read_snapshot(lake.store, snapshot.key, snapshot.sha256) == rows
    assert fault.n_played == 1


@pytest.fixture(scope="module")
def many_keys(bucket):
    keys = [f"many/{n:05d}" for n in range(1_003)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: bucket.direct.put(key, b""), keys))
    return keys


@pytest.mark.parametrize(
    "kind", ["503", "reset_before", "hang_after", "truncated", "truncated_head", "flipped"]
)
def test_listing_is_whole_when_a_request_of_its_second_page_breaks(lake, many_keys, kind):
    fault = lake.proxy.play(Fault(kind, "list_next"))

    assert list(lake.store.list("many/")) == many_keys
    assert fault.n_played == 1


def test_listing_is_never_cut_short_when_the_page_before_is_damaged(lake, many_keys, monkeypatch):
    """A wrong `IsTruncated` would end the listing early: two answers have to agree."""
    page = lake.direct.client.list_objects_v2
    cut = iter([True])

    def cut_once(**request):
        answer = page(**request)
        return answer | {"IsTruncated": False} if next(cut, False) else answer

    monkeypatch.setattr(lake.store.client, "list_objects_v2", cut_once)

    assert list(lake.store.list("many/")) == many_keys
