"""The object store, written once and read verified: the only module that knows boto3.

botocore retries a refused or lost request, but neither a body that breaks off nor one whose
checksum is wrong; a conditional put whose answer was lost is refused on its second try because of
our own object; a listing has no checksum at all. All are handled here: whatever happens on the way,
a caller gets the right bytes or one of our errors. Source:
docs/adr/0013-faults-of-the-store-and-of-the-machine.md.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nightshift.errors import ObjectStoreError
from nightshift.failpoints import Failpoint, hit
from nightshift.lake.transfer import (
    MIN_BYTES_PER_SECOND,
    TransitError,
    UnansweredError,
    answered_within,
    chunks_of,
    digest_of,
    receive,
    size_of,
    whole_file,
)
from nightshift.resource_errors import translate_resource_errors

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from tenacity import RetryCallState, Retrying

    from nightshift.settings import Settings

TRANSFER_ATTEMPTS = 4
"""How often a body, an upload or a listing that was damaged on its way is asked for; botocore's
own attempts lie below.
"""
UNANSWERED_ATTEMPTS = 2
"""The same of one whose answer only trickles: each costs the whole limit of an answer."""
POOL_CONNECTIONS = 32
"""Requests that several threads may have open at once through one store."""
MAX_OBJECT_BYTES = 5 * 1024**3
"""What one conditional put with a SHA-256 over the whole object can hold; a multipart upload has
neither.
"""


class ObjectMissingError(ObjectStoreError):
    """There is no such object."""

    code = "NS-LAKE-002"


class BucketMissingError(ObjectStoreError):
    """There is no such bucket."""

    code = "NS-LAKE-019"


class ObjectConflictError(ObjectStoreError):
    """The key holds other content already; objects are written once."""

    code = "NS-LAKE-003"
    is_retryable = False


class ObjectCorruptError(ObjectStoreError):
    """The bytes that came are not those that the digest names."""

    code = "NS-LAKE-004"
    is_retryable = False


class ObjectDamagedError(ObjectStoreError):
    """What came or went was damaged, broken off or too slow on its way, again and again."""

    code = "NS-LAKE-005"


class StoreFullError(ObjectStoreError):
    """The object store has no space left."""

    code = "NS-LAKE-006"


class ObjectTooLargeError(ObjectStoreError):
    """The content is larger than what one conditional put can hold."""

    code = "NS-LAKE-007"
    is_retryable = False


@dataclass(frozen=True)
class ListedObject:
    """An object as a listing names it.

    Attributes:
        key: Its key.
        n_bytes: Its size.
        received_at: When the store took it, UTC: the store's clock, not that of whoever wrote it.
    """

    key: str
    n_bytes: int
    received_at: dt.datetime


class ObjectStore:
    """One bucket. Safe to share between threads.

    Args:
        client: A boto3 S3 client.
        bucket: The bucket's name.
        patience_seconds: How long a body may be slower than ``MIN_BYTES_PER_SECOND``.
        answer_seconds: How long a whole answer without its body may take, with botocore's attempts;
            what is sent adds its own time.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401 - boto3 makes its class at run time
        bucket: str,
        patience_seconds: float = 30,
        answer_seconds: float = 200,
    ) -> None:
        self._client = client
        self._patience_seconds = patience_seconds
        self._answer_seconds = answer_seconds
        self.bucket = bucket

    @classmethod
    def open(cls, settings: Settings) -> ObjectStore:
        """Return the store that the settings name; nothing is sent yet."""
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": settings.s3_request_attempts},
            connect_timeout=settings.s3_connect_timeout_seconds,
            read_timeout=settings.s3_read_timeout_seconds,
            max_pool_connections=POOL_CONNECTIONS,
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if settings.s3_endpoint_url else {},
        )
        session = boto3.session.Session(
            aws_access_key_id=settings.s3_access_key_id or None,
            aws_secret_access_key=settings.s3_secret_access_key.get_secret_value() or None,
            region_name=settings.s3_region,
        )
        client = session.client("s3", endpoint_url=settings.s3_endpoint_url or None, config=config)
        attempts = settings.s3_request_attempts
        pauses = 2.0 ** (attempts - 1) - 1
        answer_seconds = (
            attempts * (settings.s3_connect_timeout_seconds + settings.s3_read_timeout_seconds)
            + pauses
        )
        return cls(client, settings.s3_bucket, settings.s3_read_timeout_seconds, answer_seconds)

    def uri(self, key: str) -> str:
        """Return ``s3://<bucket>/<key>``."""
        return f"s3://{self.bucket}/{key}"

    def ensure_bucket(self) -> None:
        """Create the bucket if it is absent; safe from several places at once.

        Raises:
            ObjectStoreError: The server refuses, or the name belongs to someone else.
        """
        with self._reported("create the bucket", ""):
            _retrying()(self._create_bucket_if_absent)

    def put(
        self, key: str, data: bytes | Path, content_type: str = "application/octet-stream"
    ) -> str:
        """Write an object once.

        Args:
            key: Where; a key is never written twice with different content.
            data: The content, or a file that holds it.
            content_type: MIME type.

        Returns:
            The content's SHA-256, hex. The same content already there is a success.

        Raises:
            ObjectConflictError: The key holds other content.
            ObjectTooLargeError: More than ``MAX_OBJECT_BYTES``.
            ObjectStoreError: The server cannot be reached or refuses.
        """
        self._refuse_too_large(key, size_of(data))
        digest = digest_of(data)
        hit(Failpoint.PUT_BEFORE)
        with self._reported("write", key):
            if not _retrying()(self._put_and_compare, key, data, digest, content_type):
                raise ObjectConflictError(
                    f"{self.uri(key)} holds other content already.",
                    expected=f"sha256 {digest.hex()}",
                    got="an object with another digest",
                    todo="Write the new content under a new key; what was written once is never replaced.",
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
            ObjectCorruptError: Its content has another digest.
            ObjectDamagedError: The body was damaged or broke off again and again.
            ObjectStoreError: The server cannot be reached.
        """
        with self._reported("read", key):
            return _retrying()(self._read, key, sha256, n_bytes)

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Read an object into a file, which appears only when it is complete and verified.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectCorruptError: Its content has another digest.
            ObjectDamagedError: The body was damaged or broke off again and again.
            ObjectStoreError: The server cannot be reached.
            LocalSpaceError: The folder's disk is full.
        """
        with self._reported("read", key), translate_resource_errors(), whole_file(path) as partial:
            _retrying()(self._read_into, key, partial, sha256)

    def chunks(self, key: str, start: int = 0) -> Iterator[bytes]:
        """Yield an object's content in order while it comes; a transfer that breaks off is continued, whatever was used before.

        Nothing says whether the bytes are the right ones until their digest is taken, which is left
        to the caller (``ObjectStream``).

        Args:
            key: The object's key.
            start: The first byte.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectDamagedError: The body broke off again and again at one place.
            ObjectStoreError: The server cannot be reached.
        """
        with self._reported("read", key):
            n_bytes = _retrying()(self._n_bytes, key)
        rest: Iterator[bytes] = iter(())
        while start < n_bytes:
            with self._reported("read", key):
                chunk, rest = _retrying()(self._next_chunk, key, start, rest)
            start += len(chunk)
            yield chunk

    def verify(self, key: str, sha256: str) -> None:
        """Read an object and keep nothing of it.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectCorruptError: Its content has another digest.
            ObjectDamagedError: The body was damaged or broke off again and again.
            ObjectStoreError: The server cannot be reached.
        """
        with self._reported("read", key):
            _retrying()(self._receive, key, lambda _: None, sha256)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        """Yield the keys under a prefix in order, a thousand per request; as ``list_objects``."""
        return (listed.key for listed in self.list_objects(prefix, start_after))

    def list_objects(self, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        """Yield the objects under a prefix in the order of their keys, a thousand per request.

        A listing has no checksum, so each page counts only when two answers agree.

        Args:
            prefix: What the keys begin with.
            start_after: Only keys that sort behind this one.

        Raises:
            ObjectDamagedError: No two answers agree.
            ObjectStoreError: The server cannot be reached.
        """
        goes_on = True
        while goes_on:
            with self._reported("list", prefix):
                listed, goes_on = _retrying()(self._agreed_page, prefix, start_after)
            yield from listed
            start_after = listed[-1].key if listed else start_after

    def size(self, key: str) -> int:
        """Return the bytes of an object.

        Raises:
            ObjectMissingError: It does not exist.
        """
        with self._reported("look up", key):
            return int(_retrying()(self._n_bytes, key))

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        with self._reported("look up", key):
            return bool(_retrying()(self._is_there, key))

    def _create_bucket_if_absent(self) -> None:
        region = self._client.meta.region_name
        location = (
            {}
            if region == "us-east-1"
            else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        )
        if self._answer_code(self._client.head_bucket, Bucket=self.bucket) in _ABSENT:
            code = self._answer_code(self._client.create_bucket, Bucket=self.bucket, **location)
            if code not in {"", "BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise ObjectStoreError(
                    f"Cannot create the bucket {self.bucket}.",
                    got=code,
                    todo="Run `nightshift doctor`.",
                )
            self._ask(self._client.head_bucket, Bucket=self.bucket)

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
        code = self._put_if_absent(key, data, digest, content_type)
        hit(Failpoint.PUT_AFTER, _lose_answer)
        if code in _DAMAGED:
            raise TransitError(f"the server received other bytes ({code})")
        if code in _RACING and not self._is_there(key):
            raise TransitError(f"another write was under way ({code})")
        return not code or self._holds(key, digest)

    def _put_if_absent(self, key: str, data: bytes | Path, digest: bytes, content_type: str) -> str:
        request: dict[str, Any] = {
            "Bucket": self.bucket,
            "Key": key,
            "IfNoneMatch": "*",
            "ContentType": content_type,
            "ContentLength": size_of(data),
            "ChecksumSHA256": base64.b64encode(digest).decode(),
        }
        if isinstance(data, bytes):
            return self._answer_code(self._client.put_object, Body=data, **request)
        with data.open("rb") as body:
            return self._answer_code(self._client.put_object, Body=body, **request)

    def _holds(self, key: str, digest: bytes) -> bool:
        """Return whether the object that is there has our digest: by the server's checksum, or by reading it."""
        head = self._ask(
            self._client.head_object, Bucket=self.bucket, Key=key, ChecksumMode="ENABLED"
        )
        stated = head.get("ChecksumSHA256")
        return stated == base64.b64encode(digest).decode() or digest_of(self.get(key)) == digest

    def _is_there(self, key: str) -> bool:
        return self._answer_code(self._client.head_object, Bucket=self.bucket, Key=key) == ""

    def _read(self, key: str, sha256: str | None, n_bytes: int | None) -> bytes:
        data = bytearray()
        self._receive(key, data.extend, sha256, n_bytes)
        return bytes(data)

    def _read_into(self, key: str, path: Path, sha256: str | None) -> None:
        with path.open("wb") as file:
            self._receive(key, file.write, sha256)

    def _n_bytes(self, key: str) -> int:
        answer = self._ask(self._client.head_object, Bucket=self.bucket, Key=key)
        if "ContentLength" not in answer:
            raise TransitError("the answer broke off in its head")
        return int(answer["ContentLength"])

    def _get(self, key: str, **how: str) -> dict[str, Any]:
        """Ask for an object, and return the answer with its body still to come."""
        hit(Failpoint.GET_BEFORE)
        answer: dict[str, Any] = self._ask(
            self._client.get_object, Bucket=self.bucket, Key=key, **how
        )
        return answer

    def _next_chunk(
        self, key: str, start: int, rest: Iterator[bytes]
    ) -> tuple[bytes, Iterator[bytes]]:
        """Return the next bytes of a body and what follows; if it has broken off, those of another request for what is left."""
        try:
            if chunk := next(rest, b""):
                return chunk, rest
            answer = self._get(key, Range=f"bytes={start}-")
            rest = chunks_of(answer["Body"], self._patience_seconds)
            chunk = next(rest, b"")
        except _broken_bodies() as error:
            raise TransitError(str(error)) from error
        if not chunk:
            raise TransitError(f"nothing came behind byte {start}")
        return chunk, rest

    def _receive(
        self,
        key: str,
        write: Callable[[bytes], object],
        sha256: str | None,
        n_bytes: int | None = None,
    ) -> None:
        """Read a body once and verify what the server says of it, then what the caller expects.

        Raises:
            TransitError: It is not what the server sent.
            ObjectCorruptError: The server sent it like this, or says nothing of it; asked once more
                it may be another.
        """
        # Botocore's digest is taken between two reads, ours beside them; where we know what to
        # expect, ours says all.
        stated = {"ChecksumMode": "ENABLED"} if sha256 is None else {}
        answer = self._get(key, **stated)
        if "ContentLength" not in answer:
            raise TransitError("the answer broke off in its head")
        if n_bytes not in {None, answer["ContentLength"]}:
            answer["Body"].close()
            raise ObjectCorruptError(
                f"{self.uri(key)} is not what was written.",
                expected=f"{n_bytes} bytes",
                got=f"{answer['ContentLength']} bytes",
                todo="Restore the object from a version or backup; do not overwrite it.",
            )
        digest = hashlib.md5(usedforsecurity=False) if sha256 is None else hashlib.sha256()
        try:
            receive(answer["Body"], write, self._patience_seconds, digest)
        except _broken_bodies() as error:
            raise TransitError(str(error)) from error
        if sha256 is None:
            _compare_etag(answer, digest.hexdigest())
        elif not digest.hexdigest().startswith(sha256):
            raise ObjectCorruptError(
                f"{self.uri(key)} is not what was written.",
                expected=f"sha256 {sha256}",
                got=f"sha256 {digest.hexdigest()}",
                todo="Restore the object from a version or backup; do not overwrite it.",
            )

    def _agreed_page(self, prefix: str, start_after: str) -> tuple[tuple[ListedObject, ...], bool]:
        first, second = self._page(prefix, start_after), self._page(prefix, start_after)
        if first != second:
            raise TransitError("two listings in a row do not agree")
        return first

    def _page(self, prefix: str, start_after: str) -> tuple[tuple[ListedObject, ...], bool]:
        """Return the objects of one answer, and whether more follow.

        Raises:
            TransitError: The answer is no listing, or contradicts itself.
        """
        from botocore.parsers import ResponseParserError

        try:
            page = self._ask(
                self._client.list_objects_v2,
                Bucket=self.bucket,
                Prefix=prefix,
                StartAfter=start_after,
            )
        except (ResponseParserError, ValueError) as error:
            raise TransitError("the listing cannot be read") from error
        entries = page.get("Contents", ())
        keys = tuple(entry.get("Key", "") for entry in entries)
        is_whole = "IsTruncated" in page and page.get("KeyCount", len(keys)) == len(keys)
        if (
            not is_whole
            or not all(key.startswith(prefix) for key in keys)
            or (keys and keys[-1] <= start_after)
        ):
            raise TransitError("the listing contradicts itself")
        if not all("Size" in entry and "LastModified" in entry for entry in entries):
            raise TransitError("the listing misses sizes or times")
        listed = tuple(
            ListedObject(entry["Key"], int(entry["Size"]), entry["LastModified"])
            for entry in entries
        )
        return listed, bool(page["IsTruncated"] and keys)

    def _ask(self, request: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401 - botocore makes its answers at run time
        """Send one request, with botocore's own attempts, and return its answer.

        Raises:
            UnansweredError: Whatever came, it was not whole in time.
        """
        sent = int(str(arguments.get("ContentLength", 0)))
        return answered_within(
            self._answer_seconds + sent / MIN_BYTES_PER_SECOND, partial(request, **arguments)
        )

    def _answer_code(self, request: Callable[..., Any], **arguments: object) -> str:
        """Return '' when the request succeeds, else the code of an answer that the caller decides on.

        Raises:
            ClientError: Any other refusal.
        """
        from botocore.exceptions import ClientError

        try:
            self._ask(request, **arguments)
        except ClientError as error:
            code, status = _code_and_status(error)
            if code in _DECIDED:
                return code
            if status in _DECIDED:
                return status
            raise
        return ""

    @contextmanager
    def _reported(self, verb: str, key: str) -> Iterator[None]:
        """Turn the vendor's errors into ours; no message holds a credential."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        failures: tuple[type[Exception], ...] = (
            BotoCoreError,
            ResponseParserError,
            *_broken_bodies(),
        )
        try:
            yield
        except ClientError as error:
            code, status = _code_and_status(error)
            if code in _ABSENT or status == "404":
                self._require_bucket(code)
                raise ObjectMissingError(
                    f"{self.uri(key)} does not exist.",
                    todo="Check the bucket and the key; an object that a manifest names is never deleted.",
                ) from None
            if code in _FULL or status in _FULL:
                raise StoreFullError(
                    f"Cannot {verb} {self.uri(key)}: the store has no space.",
                    got=str(error),
                    todo="Make space there, then rerun the task.",
                ) from error
            raise self._failed(verb, key, error) from error
        except TransitError as error:
            raise ObjectDamagedError(
                f"Cannot {verb} {self.uri(key)}: every transfer was damaged, broken off or too slow.",
                got=str(error),
                todo="Look at the network between here and the store. Retrying is safe.",
            ) from error
        except failures as error:
            raise self._failed(verb, key, error) from error

    def _require_bucket(self, code: str) -> None:
        """Say so if the bucket itself is absent; the answer to a request without a body does not tell."""
        from botocore.exceptions import BotoCoreError, ClientError

        is_absent = code == "NoSuchBucket"
        with suppress(BotoCoreError, ClientError):
            is_absent = (
                is_absent
                or self._answer_code(self._client.head_bucket, Bucket=self.bucket) in _ABSENT
            )
        if is_absent:
            raise BucketMissingError(
                f"The bucket {self.bucket} does not exist.",
                expected="the bucket that NIGHTSHIFT_S3_BUCKET names, at NIGHTSHIFT_S3_ENDPOINT_URL",
                got="no such bucket",
                todo="Correct the setting; only for a new lake: `nightshift migrate` creates the bucket.",
            ) from None

    def _failed(self, verb: str, key: str, error: Exception) -> ObjectStoreError:
        return ObjectStoreError(
            f"Cannot {verb} {self.uri(key)}.",
            got=str(error),
            todo="Run `nightshift status`; check NIGHTSHIFT_S3_ENDPOINT_URL and the key's rights."
            f"{_FULL_DISK_HINT if verb == 'write' and _is_internal(error) else ''} Retrying is safe.",
        )


_ABSENT = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_RACING = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_OWNED = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
_DAMAGED = {
    "BadDigest",
    "InvalidDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}
_DECIDED = _ABSENT | _RACING | _OWNED | _DAMAGED
_FULL = {"507", "InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull", "QuotaExceeded"}
_FULL_DISK_HINT = " A store whose own disk is full may answer so: look at it and at the store's log (`nightshift doctor`)."
_PLAIN_ETAG = re.compile('"?([0-9a-f]{32})"?')


def _code_and_status(error: ClientError) -> tuple[str, str]:
    answer = error.response
    return str(answer.get("Error", {}).get("Code", "")), str(
        answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    )


def _is_internal(error: Exception) -> bool:
    return "(InternalError)" in str(error)


def _compare_etag(answer: dict[str, Any], md5: str) -> None:
    """Compare a body of which the server states no checksum with its ETag, the MD5 of what was written in one unencrypted request.

    Raises:
        TransitError: They differ.
    """
    etag = _PLAIN_ETAG.fullmatch(answer.get("ETag", ""))
    is_keyed = (
        answer.get("ServerSideEncryption", "").startswith("aws:kms")
        or "SSECustomerAlgorithm" in answer
    )
    if (
        etag
        and not is_keyed
        and not any(name.startswith("Checksum") for name in answer)
        and etag[1] != md5
    ):
        raise TransitError(f"its MD5 is {md5}, the server says {etag[1]}")


def _lose_answer() -> NoReturn:
    raise TransitError("the answer is lost")


def _broken_bodies() -> tuple[type[Exception], ...]:
    """Return what a body raises that broke off or has a wrong checksum; botocore does not retry these."""
    from botocore.exceptions import (
        FlexibleChecksumError,
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
    )
    from urllib3.exceptions import HTTPError

    return (
        FlexibleChecksumError,
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
        HTTPError,
    )


def _retrying() -> Retrying:
    """Return what repeats a transfer that was damaged on its way; a wrong digest is asked for again too, since many stores state none."""
    from tenacity import Retrying, retry_if_exception_type, wait_random_exponential

    return Retrying(
        stop=_is_enough,
        wait=wait_random_exponential(multiplier=0.1, max=5),
        retry=retry_if_exception_type((TransitError, ObjectCorruptError)),
        reraise=True,
    )


def _is_enough(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return state.attempt_number >= (
        UNANSWERED_ATTEMPTS if isinstance(error, UnansweredError) else TRANSFER_ATTEMPTS
    )
