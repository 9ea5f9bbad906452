"""The object store: objects are written once and read verified.

A body that was damaged or broke off is requested again. A conditional put whose answer was lost is
refused on its second try because of our own object, which is compared then. So a caller gets the
right bytes or one of our errors. Source: docs/adr/0013-faults-of-the-store-and-of-the-machine.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

from nightshift.atomic_file import replacing
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.object_errors import (
    ObjectConflictError,
    ObjectCorruptError,
    ObjectTooLargeError,
)
from nightshift.lake.s3_requests import (
    DAMAGED,
    RACING,
    BucketRequests,
    ListedObject,
    broken_body_errors,
    compare_etag,
    content_length,
    max_answer_seconds,
    open_client,
)
from nightshift.lake.transfer import (
    TransitError,
    UnansweredError,
    chunks_of,
    digest_of,
    receive,
    size_of,
)
from nightshift.resource_errors import translate_resource_errors
from nightshift.stage_times import stage

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from nightshift.settings import Settings

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

TRANSFER_ATTEMPTS = 4
"""How often a damaged body, upload or listing is requested; botocore's own attempts lie below."""
UNANSWERED_ATTEMPTS = 2
"""The same for an answer that only trickles: each attempt costs the complete time limit."""
MAX_OBJECT_BYTES = 5 * 1024**3
"""What one conditional put with a SHA-256 over the complete object can hold; a multipart upload has
neither.
"""


class ObjectStore:
    """One bucket; safe to share between threads.

    Each method also raises ``ObjectStoreError`` if the server cannot be reached or refuses, and
    ``ObjectDamagedError`` if every transfer was damaged, broken off or too slow.

    Args:
        client: A boto3 S3 client.
        bucket: The bucket's name.
        patience_seconds: How long a body may be slower than ``transfer.MIN_BYTES_PER_SECOND``.
        answer_seconds: How long an answer without its body may take, with botocore's attempts; sent
            bytes add their own time.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401  (boto3 makes its class at run time)
        bucket: str,
        patience_seconds: float = 30,
        answer_seconds: float = 200,
    ) -> None:
        self.client = client
        self._requests = BucketRequests(client, bucket, answer_seconds)
        self._patience_seconds = patience_seconds
        self.bucket = bucket

    @classmethod
    def open(cls, settings: Settings) -> ObjectStore:
        """Return the store of the settings; nothing is sent yet."""
        patience_seconds = settings.s3_read_timeout_seconds
        answer_seconds = max_answer_seconds(settings)
        return cls(open_client(settings), settings.s3_bucket, patience_seconds, answer_seconds)

    def uri(self, key: str) -> str:
        """Return ``s3://<bucket>/<key>``."""
        return self._requests.uri(key)

    def ensure_bucket(self) -> None:
        """Create the bucket if it is absent; several callers may do so at once.

        Raises:
            ObjectStoreError: The server refuses, or the name belongs to someone else.
        """
        self._retry("create the bucket", "", self._requests.create_bucket_if_absent)

    def put(
        self,
        key: str,
        data: bytes | Path,
        content_type: str = "application/octet-stream",
        *,
        names_content: bool = False,
    ) -> str:
        """Write an object once.

        Args:
            key: Where; a key is never written twice with different content.
            data: The content, or a file that holds it.
            content_type: MIME type.
            names_content: Whether the key has the digest of the content: then other content there
                is damage, and is replaced.

        Returns:
            The content's SHA-256, hex. The same content already there is a success.

        Raises:
            ObjectConflictError: The key holds other content.
            ObjectTooLargeError: More than ``MAX_OBJECT_BYTES``.
        """
        # Before the digest, which takes seconds for a large file.
        self._refuse_too_large(key, size_of(data))
        digest = digest_of(data)
        hit(Failpoint.PUT_BEFORE)
        with stage("transfer", bytes=size_of(data)):
            is_ours = self._retry(
                "write", key, self._put_and_compare, key, data, digest, content_type
            )
            if not is_ours and names_content:
                is_ours = self._retry(
                    "write", key, self._replace_damaged, key, data, digest, content_type
                )
        if not is_ours:
            raise ObjectConflictError(
                f"{self.uri(key)} holds other content already.",
                expected=f"sha256 {digest.hex()}",
                got="an object with another digest",
                todo="Write the new content under a new key; what was written once is never"
                " replaced.",
            )
        return digest.hex()

    def get(self, key: str, sha256: str | None = None, n_bytes: int | None = None) -> bytes:
        """Read an object.

        Args:
            key: Which one.
            sha256: What its digest must be, hex, or how it must begin.
            n_bytes: What its size must be; of an object of another size nothing is read.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectCorruptError: Its content has another digest or size.
        """
        with stage("transfer") as known:
            data = self._retry("read", key, self._read, key, sha256, n_bytes)
            known["bytes"] = len(data)
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Read an object into a file, which appears only when it is complete and verified.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectCorruptError: Its content has another digest.
            LocalSpaceError: The folder's disk is full.
        """
        with (
            translate_resource_errors(),
            replacing(path) as partial,
            stage("transfer") as known,
        ):
            self._retry("read", key, self._read_into, key, partial, sha256)
            known["bytes"] = size_of(partial)

    def chunks(self, key: str, start: int = 0) -> Iterator[bytes]:
        """Yield an object's content in order while it is received.

        A transfer that breaks off is continued. The bytes are unverified: the caller takes their
        digest (``ObjectStream``).

        Args:
            key: The object's key.
            start: The first byte.

        Raises:
            ObjectMissingError: It does not exist.
        """
        n_bytes = self._retry("read", key, self._requests.size, key)
        rest: Iterator[bytes] = iter(())
        while start < n_bytes:
            chunk, rest = self._retry("read", key, self._next_chunk, key, start, rest)
            start += len(chunk)
            yield chunk

    def verify(self, key: str, sha256: str) -> None:
        """Read an object and keep nothing of it.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectCorruptError: Its content has another digest.
        """
        self._retry("read", key, self._receive, key, lambda _: None, sha256)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        """Yield the keys under a prefix in order, as ``list_objects``."""
        return (listed.key for listed in self.list_objects(prefix, start_after))

    def list_objects(self, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        """Yield the objects under a prefix in the order of their keys, a thousand per request.

        Args:
            prefix: What the keys begin with.
            start_after: Only keys that sort after this one.
        """
        has_more = True
        while has_more:
            listed, has_more = self._retry("list", prefix, self._agreed_page, prefix, start_after)
            yield from listed
            start_after = listed[-1].key if listed else start_after

    def size(self, key: str) -> int:
        """Return the bytes of an object.

        Raises:
            ObjectMissingError: It does not exist.
        """
        return self._retry("look up", key, self._requests.size, key)

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return self._retry("look up", key, self._requests.exists, key)

    def _retry(
        self,
        verb: str,
        key: str,
        action: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Repeat what was damaged on its way, and translate the last error."""
        from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

        retrying = Retrying(
            stop=_is_last_attempt,
            wait=wait_random_exponential(multiplier=0.1, max=5),
            # A wrong digest is retried too, because many stores state no checksum of their own.
            retry=retry_if_exception_type((TransitError, ObjectCorruptError)),
            reraise=True,
        )
        with self._requests.translate_errors(verb, key):
            return retrying(action, *args, **kwargs)

    def _refuse_too_large(self, key: str, n_bytes: int) -> None:
        if n_bytes > MAX_OBJECT_BYTES:
            raise ObjectTooLargeError(
                f"{self.uri(key)} would have {n_bytes} bytes.",
                expected=f"at most {MAX_OBJECT_BYTES}, what one conditional put can hold",
                todo="Write it in parts of its own keys, for example one snapshot per month.",
            )

    def _put_and_compare(
        self, key: str, data: bytes | Path, digest: bytes, content_type: str
    ) -> bool:
        """Return whether the key holds our content now."""
        code = self._requests.put(key, data, digest, content_type)
        hit(Failpoint.PUT_AFTER, _lose_answer)
        if code in DAMAGED:
            raise TransitError(f"the server received other bytes ({code})")
        if code in RACING and not self._requests.exists(key):
            raise TransitError(f"another write was under way ({code})")
        # The key is taken, perhaps by our own first try whose answer was lost.
        if not code or self._requests.has_stated_digest(key, digest):
            return True
        return digest_of(self.get(key)) == digest

    def _replace_damaged(
        self, key: str, data: bytes | Path, digest: bytes, content_type: str
    ) -> bool:
        """Write the content that a key names over other content; return whether it reads back."""
        # Of two writers both write the content that the key names.
        code = self._requests.put(key, data, digest, content_type, replaces=True)
        if code in DAMAGED:
            raise TransitError(f"the server received other bytes ({code})")
        return digest_of(self.get(key)) == digest

    def _read(self, key: str, sha256: str | None, n_bytes: int | None) -> bytes:
        data = bytearray()
        self._receive(key, data.extend, sha256, n_bytes)
        return bytes(data)

    def _read_into(self, key: str, path: Path, sha256: str | None) -> None:
        # Opened anew by each attempt, which drops what the one before has written.
        with path.open("wb") as file:
            self._receive(key, file.write, sha256)

    def _next_chunk(
        self, key: str, start: int, rest: Iterator[bytes]
    ) -> tuple[bytes, Iterator[bytes]]:
        """Return the next bytes of a body and its rest, from a new request if it has broken off."""
        try:
            chunk = next(rest, b"")
            if chunk:
                return chunk, rest
            answer = self._get(key, Range=f"bytes={start}-")
            rest = chunks_of(answer["Body"], self._patience_seconds)
            chunk = next(rest, b"")
        except broken_body_errors() as error:
            raise TransitError(str(error)) from error
        if not chunk:
            raise TransitError(f"nothing came after byte {start}")
        return chunk, rest

    def _get(self, key: str, **arguments: str) -> dict[str, Any]:
        hit(Failpoint.GET_BEFORE)
        return self._requests.get(key, **arguments)

    def _receive(
        self,
        key: str,
        write: Callable[[bytes], object],
        sha256: str | None,
        n_bytes: int | None = None,
    ) -> None:
        """Read a body once and verify it.

        Raises:
            TransitError: It is not what the server sent.
            ObjectCorruptError: It is not what the caller expects; another try may give it.
        """
        # With a known digest, ours is enough: it is taken in another thread, while botocore takes
        # a checksum between two reads.
        checksum = {"ChecksumMode": "ENABLED"} if sha256 is None else {}
        answer = self._get(key, **checksum)
        length = content_length(answer)
        if n_bytes not in {None, length}:
            # The unread body would keep the connection.
            answer["Body"].close()
            raise self._corrupt(key, f"{n_bytes} bytes", f"{length} bytes")
        digest = hashlib.md5(usedforsecurity=False) if sha256 is None else hashlib.sha256()
        try:
            receive(answer["Body"], write, self._patience_seconds, digest)
        except broken_body_errors() as error:
            raise TransitError(str(error)) from error
        if sha256 is None:
            compare_etag(answer, digest.hexdigest())
        elif not digest.hexdigest().startswith(sha256):
            raise self._corrupt(key, f"sha256 {sha256}", f"sha256 {digest.hexdigest()}")

    def _corrupt(self, key: str, expected: str, got: str) -> ObjectCorruptError:
        return ObjectCorruptError(
            f"{self.uri(key)} is not what was written.",
            expected=expected,
            got=got,
            todo="Restore the object from a version or backup; do not overwrite it.",
        )

    def _agreed_page(self, prefix: str, start_after: str) -> tuple[tuple[ListedObject, ...], bool]:
        """Return one page of a listing on which two answers agree: a listing has no checksum."""
        first = self._requests.list_page(prefix, start_after)
        second = self._requests.list_page(prefix, start_after)
        if first != second:
            raise TransitError("two listings in a row do not agree")
        return first


def _lose_answer() -> NoReturn:
    raise TransitError("the answer is lost")


def _is_last_attempt(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    maximum = UNANSWERED_ATTEMPTS if isinstance(error, UnansweredError) else TRANSFER_ATTEMPTS
    return state.attempt_number >= maximum
