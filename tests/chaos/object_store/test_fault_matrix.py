"""Every operation of the store under every fault: the right bytes or a named error, in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256

import pytest
from tests.chaos.object_store.fault_proxy import KINDS, Fault

from nightshift.errors import ObjectStoreError
from nightshift.lake.object_errors import ObjectConflictError, ObjectDamagedError
from nightshift.lake.object_store import ObjectStore
from nightshift.lake.object_stream import ObjectStream

pytestmark = [pytest.mark.promise("R13"), pytest.mark.integration]

CONTENT = b"".join(b"%08d the right bytes\n" % i for i in range(2_000))
DIGEST = sha256(CONTENT).hexdigest()
THERE, STRANGER = "matrix/there", "matrix/stranger"
LIMIT_SECONDS = 20.0
"""Of a cell: four transfers of three requests of 0.4 s, or two that trickle of up to 8 s, and
what two busy cores add.
"""


def get(lake, tmp_path):
    return lake.store.get(THERE, DIGEST)


def get_without_digest(lake, tmp_path):
    return lake.store.get(THERE)


def get_of_a_stranger(lake, tmp_path):
    """Read what was written without a SHA-256, as upstream may do."""
    return lake.store.get(STRANGER)


def download(lake, tmp_path):
    lake.store.download(THERE, tmp_path / "file", DIGEST)
    return (tmp_path / "file").read_bytes()


def while_it_comes(lake, tmp_path):
    with ObjectStream(lake.store, THERE, DIGEST) as stream:
        return b"".join(iter(stream.read, b""))


def put(lake, tmp_path):
    return lake.store.put(lake.place + "new", CONTENT)


def put_file(lake, tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    return lake.store.put(lake.place + "new", tmp_path / "source")


def put_again(lake, tmp_path):
    return lake.store.put(THERE, CONTENT)


def put_other(lake, tmp_path):
    with pytest.raises(ObjectConflictError):
        lake.store.put(THERE, b"other content")


def exists(lake, tmp_path):
    return (lake.store.exists(THERE), lake.store.exists("matrix/not there"))


def list_keys(lake, tmp_path):
    return list(lake.store.list("matrix/some/"))


def ensure_bucket(lake, tmp_path):
    lake.store.ensure_bucket()


def create_bucket(lake, tmp_path):
    fresh = ObjectStore(lake.store.client, f"new-{lake.place[:-1]}", answer_seconds=5.4)
    fresh.ensure_bucket()
    return ObjectStore(lake.direct.client, fresh.bucket).exists("anything")


SOME = [f"matrix/some/{n}" for n in (1, 2, 3)]
CALLS: dict[Callable[..., object], tuple[str, object]] = {
    get: ("get", CONTENT),
    get_without_digest: ("get", CONTENT),
    get_of_a_stranger: ("get", CONTENT),
    download: ("get", CONTENT),
    while_it_comes: ("get", CONTENT),
    put: ("put", DIGEST),
    put_file: ("put", DIGEST),
    put_again: ("put", DIGEST),
    put_other: ("put", None),
    exists: ("head", (True, False)),
    list_keys: ("list", SOME),
    ensure_bucket: ("head_bucket", None),
    create_bucket: ("create_bucket", False),
}
"""Each call, the request of it that breaks, and what it returns when all is well."""
WITH_REQUEST_BODY = {put, put_file, put_again, put_other}
ONLY_NAMED = {(while_it_comes, "flipped"): ObjectDamagedError}
"""Bytes that were used while they came cannot be asked for again: a rerun does."""
SLOW = {(create_bucket, kind) for kind in KINDS if kind not in ("503", "lost_answer")} | {
    (call, "trickle") for call in CALLS if call is not list_keys
}
"""A bucket's creation takes the real server seconds; an answer that trickles takes its whole
limit.
"""
CELLS = [
    pytest.param(
        call,
        kind,
        id=f"{call.__name__}-{kind}",
        marks=[pytest.mark.long] if (call, kind) in SLOW else [],
    )
    for call in CALLS
    for kind in KINDS
    if call in WITH_REQUEST_BODY or kind not in ("reset_during", "flipped_request")
]


@pytest.fixture(scope="module")
def content(bucket):
    bucket.direct.put(THERE, CONTENT)
    bucket.direct.client.put_object(
        Bucket=bucket.direct.bucket, Key=STRANGER, Body=CONTENT, ChecksumAlgorithm="CRC32"
    )
    for key in SOME:
        bucket.direct.put(key, b"x")


@pytest.fixture
def filled(content, lake):
    return lake


def written_is_right(lake):
    """What stands in the bucket is absent or right, whatever the answer was."""
    new = f"{lake.place}new"
    return (
        not lake.direct.exists(new) or lake.direct.get(new, DIGEST) == CONTENT
    ) and lake.direct.get(THERE, DIGEST) == CONTENT


def outcome(lake, call, tmp_path) -> tuple[object, ObjectStoreError | None]:
    began = time.monotonic()
    try:
        return call(lake, tmp_path), None
    except ObjectStoreError as error:
        return None, error
    finally:
        assert time.monotonic() - began < LIMIT_SECONDS


@pytest.mark.parametrize(("call", "kind"), CELLS)
def test_call_gives_the_right_result_when_one_request_breaks(
    filled, tmp_path, call, kind, record_figure
):
    operation, right = CALLS[call]
    fault = filled.proxy.play(Fault(kind, operation))

    result, error = outcome(filled, call, tmp_path)

    assert fault.n_played == 1
    assert type(error) is ONLY_NAMED.get((call, kind), type(None))
    assert error or result == right
    assert written_is_right(filled)
    record_figure("S3 faults survived", 1)


@pytest.mark.long
@pytest.mark.parametrize(("call", "kind"), CELLS)
def test_call_gives_a_named_error_or_the_right_result_when_every_request_breaks(
    filled, tmp_path, call, kind, record_figure
):
    operation, right = CALLS[call]
    fault = filled.proxy.play(Fault(kind, operation, times=None))

    result, error = outcome(filled, call, tmp_path)

    assert fault.n_played >= 1
    assert error is not None or result == right
    assert not isinstance(error, ObjectConflictError)
    filled.proxy.heal()
    assert written_is_right(filled)
    assert [path.name for path in tmp_path.glob(".*partial")] == []
    assert call(filled, tmp_path) == right
    record_figure("S3 faults survived", 1)
