"""An object as a stream: bytes in order, no end before the digest, no thread left waiting."""

import io
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from nightshift.errors import ObjectStoreError
from nightshift.lake import object_stream, transfer
from nightshift.lake.object_errors import ObjectCorruptError, ObjectDamagedError, ObjectMissingError
from nightshift.lake.object_stream import ObjectStream
from nightshift.quality.files import csv_blocks
from nightshift.quality.files.file_blocks import read_blocks

pytestmark = pytest.mark.integration

LINES = b"a,b\n" + b"".join(b"%07d,some text\n" % i for i in range(200_000))
"""3.6 MB: more than whatever reads in advance holds of blocks of 50 KB."""
DIGEST = sha256(LINES).hexdigest()
KEY = "drop.csv"


@pytest.fixture
def lake(store, monkeypatch):
    monkeypatch.setattr(transfer, "LARGEST_CHUNK", 50_000)
    monkeypatch.setattr(object_stream, "FIRST_BYTES", 100_000)
    store.put(KEY, LINES)
    return store


def read_all(stream: ObjectStream) -> bytes:
    return b"".join(iter(lambda: stream.read(70_000), b""))


class Stalling:
    """Lets the transfer stop at a chunk until it is told to go on; counts what came before."""

    def __init__(self, store, monkeypatch, n_chunks: int) -> None:
        self.go_on, self.is_stalled, self.n_bytes = threading.Event(), threading.Event(), 0
        self._real, self._n_chunks = store.chunks, n_chunks
        monkeypatch.setattr(store, "chunks", self._chunks)

    def _chunks(self, key, start=0) -> Iterator[bytes]:
        for place, chunk in enumerate(self._real(key, start)):
            if place == self._n_chunks and not start:
                self.is_stalled.set()
                self.go_on.wait(20)
            self.n_bytes += len(chunk)
            yield chunk


def test_it_gives_all_bytes_in_order(lake):
    with ObjectStream(lake, KEY, DIGEST) as stream:
        assert LINES.startswith(stream.first)
        assert 100_000 <= len(stream.first) < 200_000
        assert read_all(stream) == LINES


@pytest.mark.parametrize("content", [b"", b"x"])
def test_it_gives_small_objects(store, content):
    digest = store.put("small", content)

    with ObjectStream(store, "small", digest) as stream:
        assert stream.first == content
        assert read_all(stream) == content


def test_it_names_the_object_when_it_is_missing(store):
    with (
        pytest.raises(ObjectMissingError, match="nothing/here"),
        ObjectStream(store, "nothing/here", DIGEST),
    ):
        pass


def test_bytes_can_be_read_before_the_object_has_come(lake, monkeypatch):
    stalling = Stalling(lake, monkeypatch, 30)

    with ObjectStream(lake, KEY, DIGEST) as stream:
        seen = b"".join(bytes(stream.read(250_000)) for _ in range(8))
        assert LINES.startswith(seen)
        assert len(seen) > 400_000
        stalling.go_on.set()
        assert seen + read_all(stream) == LINES


def test_another_digest_is_an_error_at_the_end(lake):
    with (
        pytest.raises(ObjectCorruptError, match="expected: sha256 0000"),
        ObjectStream(lake, KEY, "0" * 64) as stream,
    ):
        assert read_all(stream) == LINES


def test_another_digest_takes_the_place_of_what_it_may_have_led_to(lake):
    with pytest.raises(ObjectCorruptError), ObjectStream(lake, KEY, "0" * 64) as stream:
        _ = len(stream.first) / 0


def test_an_error_in_the_block_stays_when_the_digest_is_right(lake):
    with pytest.raises(ZeroDivisionError), ObjectStream(lake, KEY, DIGEST) as stream:
        _ = len(stream.read(1_000)) / 0


def test_a_reader_that_comes_too_late_gets_nothing_and_spoils_no_digest(lake):
    """Arrow's thread may still read when the block has ended already."""
    with ObjectStream(lake, KEY, DIGEST) as stream:
        stream.read(1_000)
        stream.close()
        with pytest.raises(InterruptedError):
            stream.read(1_000)


def test_bytes_that_were_damaged_on_their_way_are_another_error(lake, monkeypatch):
    real, asked = lake.client.get_object, []

    def damage(**arguments):
        answer = real(**arguments)
        asked.append(1)
        # The object itself is sound, as the second reading shows.
        if len(asked) > 1:
            return answer
        content = answer["Body"].read()
        damaged = content.replace(b"0150000", b"0150001")
        assert damaged != content
        return answer | {"Body": io.BytesIO(damaged)}

    monkeypatch.setattr(lake.client, "get_object", damage)

    with (
        pytest.raises(ObjectDamagedError, match=f"expected: sha256 {DIGEST}") as caught,
        ObjectStream(lake, KEY, DIGEST) as stream,
    ):
        assert read_all(stream) != LINES
    assert caught.value.is_retryable


class _BreakingBody(io.BytesIO):
    """Breaks off after some bytes, with an error of the network or with a plain end."""

    def __init__(self, body, n_bytes: int, *, is_silent: bool = False) -> None:
        super().__init__(body.read(n_bytes))
        body.close()
        self._is_silent = is_silent

    def read(self, *given):
        from botocore.exceptions import ResponseStreamingError

        if not (chunk := super().read(*given)) and not self._is_silent:
            raise ResponseStreamingError(error="connection reset")
        return chunk


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_transfer_that_breaks_off_is_continued(lake, monkeypatch, is_silent):
    real, asked = lake.client.get_object, []

    def break_off(**arguments):
        asked.append(arguments["Range"])
        answer = real(**arguments)
        return answer | {"Body": _BreakingBody(answer["Body"], 1_000_000, is_silent=is_silent)}

    monkeypatch.setattr(lake.client, "get_object", break_off)

    with ObjectStream(lake, KEY, DIGEST) as stream:
        assert read_all(stream) == LINES
    assert asked == [f"bytes={start}-" for start in range(0, len(LINES), 1_000_000)]


def test_a_transfer_that_cannot_go_on_is_an_error_and_no_end(lake, monkeypatch):
    real, asked = lake.client.get_object, []

    def vanish(**arguments):
        asked.append(arguments["Range"])
        answer = real(**arguments)
        return answer | {"Body": _BreakingBody(answer["Body"], 900_000 if len(asked) == 1 else 0)}

    monkeypatch.setattr(lake.client, "get_object", vanish)

    with (
        pytest.raises(ObjectStoreError, match="NS-LAKE-005"),
        ObjectStream(lake, KEY, DIGEST) as stream,
    ):
        read_all(stream)
    assert set(asked) == {"bytes=0-", "bytes=900000-"}


def read_some(lake) -> Iterator[int]:
    with ObjectStream(lake, KEY, DIGEST) as stream:
        for block in read_blocks(stream, KEY, ["a", "b"], ["a"], pytest.fail):
            yield len(block.row_numbers)


def test_nobody_waits_for_a_transfer_that_is_given_up(lake, monkeypatch):
    """Arrow reads in advance and would wait for its thread, which waits for bytes."""
    stalling = Stalling(lake, monkeypatch, 30)
    lengths, real = [], ObjectStream.read

    def read(stream, n_bytes=-1):
        chunk = real(stream, n_bytes)
        lengths.append(len(chunk))
        return chunk

    monkeypatch.setattr(ObjectStream, "read", read)
    monkeypatch.setattr(csv_blocks, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(csv_blocks, "BLOCK_ROWS", 1)
    some = read_some(lake)
    assert sum(next(some) for _ in range(3)) > 0
    assert stalling.is_stalled.wait(20)
    assert eventually(lambda: sum(lengths) == stalling.n_bytes)  # Arrow asks for more

    began = time.monotonic()
    some.close()

    # The answer would come after 20 s.
    assert time.monotonic() - began < 10
    stalling.go_on.set()


def test_nobody_waits_for_a_reader_that_never_came(lake, monkeypatch):
    stalling = Stalling(lake, monkeypatch, 10_000)
    with ObjectStream(lake, KEY, DIGEST) as stream:
        # Nine chunks at least were received in advance: the queue is full, and its thread waits.
        least = len(stream.first) + object_stream.N_AHEAD * 50_000
        assert eventually(lambda: stalling.n_bytes > least)
        began = time.monotonic()

    assert time.monotonic() - began < 10


def test_it_leaves_no_thread_and_no_descriptor(lake):
    def n_open() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    def n_threads() -> int:
        return sum(thread.name.startswith("prefetch for") for thread in threading.enumerate())

    def read_twice() -> None:
        for _ in range(2):
            with ObjectStream(lake, KEY, DIGEST) as stream:
                read_all(stream)

    assert eventually(lambda: n_threads() == 0)  # those of the tests before
    read_twice()  # opens connections that stay
    before = n_open()
    read_twice()

    assert eventually(lambda: n_threads() == 0)
    assert eventually(lambda: n_open() <= before)


def eventually(is_so, seconds: float = 25) -> bool:
    """Return whether something comes true; a thread that was told to end needs a moment."""
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(is_so())
