"""The object store: written once, read verified, retried where botocore does not."""

import io
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nightshift.errors import ObjectStoreError
from nightshift.lake.object_errors import (
    BucketMissingError,
    ObjectConflictError,
    ObjectCorruptError,
    ObjectMissingError,
)
from nightshift.lake.object_store import ObjectStore

pytestmark = pytest.mark.integration


def test_get_returns_the_bytes_when_the_digest_is_right(store):
    digest = store.put("a/one", b"hello")

    assert digest == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert store.get("a/one", digest) == b"hello"
    assert store.uri("a/one") == f"s3://{store.bucket}/a/one"


def test_put_succeeds_when_the_same_content_is_there(store):
    assert store.put("a/one", b"hello") == store.put("a/one", b"hello")


def test_put_is_refused_when_other_content_is_there(store):
    store.put("a/one", b"hello")

    with pytest.raises(ObjectConflictError, match="NS-LAKE-003") as caught:
        store.put("a/one", b"other")

    assert not caught.value.is_retryable
    assert store.get("a/one") == b"hello"


def test_damage_is_replaced_where_the_key_names_the_content(store):
    store.put("models/0f/model", b"damaged")

    digest = store.put("models/0f/model", b"right", names_content=True)

    assert store.get("models/0f/model", digest) == b"right"


def test_put_succeeds_when_the_answer_to_the_first_try_was_lost(store, monkeypatch):
    real, tries = store.client.put_object, []

    def lose_first_answer(**arguments):
        tries.append(real(**arguments))
        return real(**arguments)

    monkeypatch.setattr(store.client, "put_object", lose_first_answer)

    store.put("a/one", b"hello")

    assert len(tries) == 1
    assert store.get("a/one") == b"hello"


def test_put_compares_the_body_when_the_server_states_no_checksum(store, monkeypatch):
    store.put("a/one", b"hello")
    monkeypatch.setattr(store.client, "head_object", lambda **_: {})

    assert store.put("a/one", b"hello")
    with pytest.raises(ObjectConflictError):
        store.put("a/one", b"other")


def test_put_and_download_pass_files_through_when_data_is_a_path(store, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 3_000_000)

    digest = store.put("big", source)
    store.download("big", target, digest)

    assert digest == sha256(b"x" * 3_000_000).hexdigest()
    assert target.read_bytes() == source.read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["source", "target"]


def test_get_is_refused_when_the_digest_is_wrong(store, tmp_path):
    store.put("a/one", b"hello")

    with pytest.raises(ObjectCorruptError, match="expected: sha256 0000"):
        store.get("a/one", "0" * 64)
    with pytest.raises(ObjectCorruptError):
        store.download("a/one", tmp_path / "target", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_get_names_the_object_when_it_is_missing(store):
    with pytest.raises(ObjectMissingError, match="nothing/here"):
        store.get("nothing/here")
    assert not store.exists("nothing/here")


def test_list_is_in_order_and_starts_after_a_key_when_told(store):
    for name in ("b/2", "b/1", "b/3", "c/1"):
        store.put(name, b"x")

    assert list(store.list("b/")) == ["b/1", "b/2", "b/3"]
    assert list(store.list("b/", start_after="b/1")) == ["b/2", "b/3"]
    assert list(store.list("nothing/")) == []


class BrokenBody(io.BytesIO):
    def read(self, *_):
        from botocore.exceptions import ResponseStreamingError

        raise ResponseStreamingError(error="connection reset")


@pytest.mark.parametrize("n_broken", [1, 3])
def test_get_reads_again_when_the_body_breaks_off(store, monkeypatch, tmp_path, n_broken):
    digest = store.put("a/one", b"hello")
    real, bodies = store.client.get_object, [BrokenBody() for _ in range(n_broken)]
    monkeypatch.setattr(
        store.client, "get_object", lambda **a: {"Body": bodies.pop()} if bodies else real(**a)
    )

    assert store.get("a/one", digest) == b"hello"
    bodies += [BrokenBody()]
    store.download("a/one", tmp_path / "target", digest)
    assert (tmp_path / "target").read_bytes() == b"hello"


def test_get_gives_a_retryable_error_when_the_body_always_breaks_off(store, monkeypatch):
    store.put("a/one", b"hello")
    monkeypatch.setattr(store.client, "get_object", lambda **_: {"Body": BrokenBody()})

    with pytest.raises(ObjectStoreError, match="Cannot read") as caught:
        store.get("a/one")
    assert caught.value.is_retryable


def test_every_call_gives_our_error_when_the_server_is_away(settings):
    away = ObjectStore.open(settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"}))

    with pytest.raises(ObjectStoreError, match="NS-LAKE-001") as caught:
        away.exists("a")
    secret = settings.s3_secret_access_key.get_secret_value()
    assert secret
    assert secret not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307])
def test_every_call_gives_our_error_when_a_proxy_redirects_each_request(settings, status):
    """As one that leads from http to https does: the store itself never answers."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        store = ObjectStore.open(settings.model_copy(update={"s3_endpoint_url": address}))
        for ask in (lambda: store.get("a"), lambda: store.exists("a"), lambda: store.put("a", b"")):
            with pytest.raises(ObjectStoreError, match="NS-LAKE-001") as caught:
                ask()
            assert caught.value.got == "every request is redirected"
        server.shutdown()


def test_a_bucket_that_does_not_exist_is_named_and_not_the_object(store):
    other = ObjectStore(store.client, f"{store.bucket}-not-there")
    for ask in (lambda: other.get("nothing/here"), lambda: list(other.list("landing/"))):
        with pytest.raises(BucketMissingError, match="not-there does not exist") as raised:
            ask()
        assert raised.value.code == "NS-LAKE-019"
