"""Single requests to one S3 bucket, each within a time limit: the only module that knows boto3.

botocore retries a refused or lost request. It retries neither a body that breaks off nor one whose
checksum is wrong, and a listing has no checksum at all. Whatever botocore raises becomes one of our
errors here, or a ``TransitError`` if the same request may succeed. Source:
docs/adr/0013-faults-of-the-store-and-of-the-machine.md.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from nightshift.errors import ObjectStoreError
from nightshift.lake.object_errors import (
    BucketMissingError,
    ObjectDamagedError,
    ObjectMissingError,
    StoreCertificateError,
    StoreClockError,
    StoreFullError,
)
from nightshift.lake.transfer import MIN_BYTES_PER_SECOND, TransitError, call_within, size_of

if TYPE_CHECKING:
    import boto3
    from botocore.exceptions import ClientError

    from nightshift.settings import Settings

POOL_CONNECTIONS = 32
"""Requests that several threads may have open at once through one store."""
ABSENT = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
RACING = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
DAMAGED = {
    "BadDigest", "InvalidDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}  # fmt: skip
_OWNED = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
_EXPECTED = ABSENT | RACING | _OWNED | DAMAGED
"""Refusals that the caller decides on."""
_FULL = {"507", "InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull", "QuotaExceeded"}
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired"}
_FULL_DISK_HINT = (
    " A store whose own disk is full may answer so: look at it and at the store's log"
    " (`nightshift doctor`)."
)
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED\] certificate verify failed: ([^(\n]+)")
_PLAIN_ETAG = re.compile('"?([0-9a-f]{32})"?')
_SESSION_LOCK = Lock()
"""Threads may share a client, but not the session while it makes one."""


@dataclass(frozen=True)
class ListedObject:
    """An object as a listing names it.

    Attributes:
        key: Its key.
        n_bytes: Its size.
        received_at: When the store took it, UTC, by the store's clock.
    """

    key: str
    n_bytes: int
    received_at: dt.datetime


def open_client(settings: Settings) -> Any:  # noqa: ANN401  (boto3 makes its class at run time)
    """Return a boto3 S3 client of the settings; nothing is sent yet."""
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": settings.s3_request_attempts},
        connect_timeout=settings.s3_connect_timeout_seconds,
        read_timeout=settings.s3_read_timeout_seconds,
        max_pool_connections=POOL_CONNECTIONS,
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if settings.s3_endpoint_url else {},
    )
    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key.get_secret_value()
    login = (key_id, secret, settings.s3_region)
    with _SESSION_LOCK:
        # Without a key, botocore looks for credentials, which may change while a process lives.
        session = _shared_session(*login) if key_id else _new_session(*login)
        return session.client("s3", endpoint_url=settings.s3_endpoint_url or None, config=config)


def _new_session(key_id: str, secret: str, region: str) -> boto3.session.Session:
    import boto3

    return boto3.session.Session(
        aws_access_key_id=key_id or None,
        aws_secret_access_key=secret or None,
        region_name=region,
    )


_shared_session = lru_cache(maxsize=4)(_new_session)
"""The process's session for a key: its description of S3 is parsed once, which takes 0.12 s of
processor time; a further client takes 0.005 s.
"""


def max_answer_seconds(settings: Settings) -> float:
    """Return how long an answer without its body may take, with botocore's attempts and pauses."""
    attempts = settings.s3_request_attempts
    seconds = settings.s3_connect_timeout_seconds + settings.s3_read_timeout_seconds
    pauses = 2.0 ** (attempts - 1) - 1
    return attempts * seconds + pauses


class BucketRequests:
    """Requests to one bucket.

    Args:
        client: A boto3 S3 client.
        bucket: The bucket's name.
        answer_seconds: How long an answer without its body may take; sent bytes add their own time.
    """

    def __init__(self, client: Any, bucket: str, answer_seconds: float) -> None:  # noqa: ANN401
        self._client, self._bucket, self._answer_seconds = client, bucket, answer_seconds

    def uri(self, key: str) -> str:
        """Return ``s3://<bucket>/<key>``."""
        return f"s3://{self._bucket}/{key}"

    def create_bucket_if_absent(self) -> None:
        """Create the bucket unless it exists; several callers may do so at once.

        Raises:
            ObjectStoreError: The server refuses.
        """
        if not self._is_bucket_absent():
            return
        region = self._client.meta.region_name
        location = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        # The default region must not be named.
        arguments = {} if region == "us-east-1" else location
        code = self._request_code(self._client.create_bucket, **arguments)
        if code and code not in _OWNED:
            raise ObjectStoreError(
                f"Cannot create the bucket {self._bucket}.",
                got=code,
                todo="Run `nightshift doctor`.",
            )
        # It may exist and belong to somebody else.
        self._request(self._client.head_bucket)

    def put(
        self,
        key: str,
        data: bytes | Path,
        digest: bytes,
        content_type: str,
        *,
        replaces: bool = False,
    ) -> str:
        """Write an object; return an empty string, or why not as a code.

        An object that is there is a refusal, unless the call ``replaces`` it.
        """
        condition = {} if replaces else {"IfNoneMatch": "*"}
        request: dict[str, Any] = {
            "Key": key,
            **condition,
            "ContentType": content_type,
            "ContentLength": size_of(data),
            "ChecksumSHA256": base64.b64encode(digest).decode(),
        }
        if isinstance(data, bytes):
            return self._request_code(self._client.put_object, Body=data, **request)
        with data.open("rb") as body:
            return self._request_code(self._client.put_object, Body=body, **request)

    def has_stated_digest(self, key: str, digest: bytes) -> bool:
        """Return whether the server states this SHA-256; many servers state none."""
        head = self._request(self._client.head_object, Key=key, ChecksumMode="ENABLED")
        return bool(head.get("ChecksumSHA256") == base64.b64encode(digest).decode())

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        return not self._request_code(self._client.head_object, Key=key)

    def size(self, key: str) -> int:
        """Return the bytes of an object."""
        return content_length(self._request(self._client.head_object, Key=key))

    def get(self, key: str, **arguments: str) -> dict[str, Any]:
        """Return the answer for an object; its body is still to come."""
        answer: dict[str, Any] = self._request(self._client.get_object, Key=key, **arguments)
        return answer

    def list_page(self, prefix: str, start_after: str) -> tuple[tuple[ListedObject, ...], bool]:
        """Return the objects of one answer, and whether more follow.

        Raises:
            TransitError: The answer is no listing, or contradicts itself.
        """
        from botocore.parsers import ResponseParserError

        try:
            page = self._request(
                self._client.list_objects_v2, Prefix=prefix, StartAfter=start_after
            )
        except (ResponseParserError, ValueError) as error:
            raise TransitError("the listing cannot be read") from error
        entries = page.get("Contents", ())
        keys = [entry.get("Key", "") for entry in entries]
        is_complete = "IsTruncated" in page and page.get("KeyCount", len(keys)) == len(keys)
        # A listing has no checksum, so what it says about itself is compared.
        has_prefix = all(key.startswith(prefix) for key in keys)
        is_after = not keys or keys[-1] > start_after
        if not (is_complete and has_prefix and is_after):
            raise TransitError("the listing contradicts itself")
        if not all("Size" in entry and "LastModified" in entry for entry in entries):
            raise TransitError("the listing misses sizes or times")
        listed = tuple(
            ListedObject(entry["Key"], int(entry["Size"]), entry["LastModified"])
            for entry in entries
        )
        return listed, bool(page["IsTruncated"] and keys)

    @contextmanager
    def translate_errors(self, verb: str, key: str) -> Iterator[None]:
        """Turn the vendor's errors into ours; no message holds a credential."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        failures: tuple[type[Exception], ...] = (BotoCoreError, ResponseParserError, RecursionError)
        failures += broken_body_errors()
        try:
            yield
        except ClientError as error:
            raise self._refusal(verb, key, error) from error
        except TransitError as error:
            raise ObjectDamagedError(
                f"Cannot {verb} {self.uri(key)}: every transfer was damaged, broken off or too"
                " slow.",
                got=str(error),
                todo="Look at the network between here and the store. Retrying is safe.",
            ) from error
        except failures as error:
            raise self._failure(verb, key, error) from error

    def _refusal(self, verb: str, key: str, error: ClientError) -> ObjectStoreError:
        from botocore.exceptions import BotoCoreError, ClientError

        codes = _codes(error)
        if codes & ABSENT:
            is_bucket_absent = "NoSuchBucket" in codes
            # The answer to a request without a body does not tell what is absent.
            with suppress(BotoCoreError, ClientError):
                is_bucket_absent = is_bucket_absent or self._is_bucket_absent()
            if is_bucket_absent:
                return BucketMissingError(
                    f"The bucket {self._bucket} does not exist.",
                    expected="the bucket that NIGHTSHIFT_S3_BUCKET names, at"
                    " NIGHTSHIFT_S3_ENDPOINT_URL",
                    got="no such bucket",
                    todo="Correct NIGHTSHIFT_S3_BUCKET; only for a new lake: `nightshift migrate`"
                    " creates the bucket.",
                )
            return ObjectMissingError(
                f"{self.uri(key)} does not exist.",
                todo="Check the bucket and the key; an object that a manifest names is never"
                " deleted.",
            )
        if codes & _SKEWED:
            return StoreClockError(
                f"The clock of the object store or of {socket.gethostname()} is wrong.",
                expected="clocks that differ by less than 15 minutes",
                got=_clocks(error),
                todo="Set the clock that is wrong (`timedatectl status`), then rerun the task.",
            )
        if codes & _FULL:
            return StoreFullError(
                f"Cannot {verb} {self.uri(key)}: the store has no space.",
                got=str(error),
                todo="Make space there, then rerun the task.",
            )
        return self._failure(verb, key, error)

    def _failure(self, verb: str, key: str, error: Exception) -> ObjectStoreError:
        # The words of OpenSSL are all that the client passes on.
        certificate_problem = _CERTIFICATE.search(str(error))
        if certificate_problem:
            return StoreCertificateError(
                "The certificate of the object store is not accepted:"
                f" {certificate_problem[1].strip()}.",
                got=str(error),
                todo="Renew it there; one of your own authority needs AWS_CA_BUNDLE here.",
            )
        # botocore asks again after each redirection, until Python stops it.
        is_redirected = isinstance(error, RecursionError)
        may_be_full = verb == "write" and "(InternalError)" in str(error)
        return ObjectStoreError(
            f"Cannot {verb} {self.uri(key)}.",
            got="every request is redirected" if is_redirected else str(error),
            todo="Run `nightshift status`; check NIGHTSHIFT_S3_ENDPOINT_URL and the key's rights."
            f"{_FULL_DISK_HINT if may_be_full else ''} Retrying is safe.",
        )

    def _is_bucket_absent(self) -> bool:
        return self._request_code(self._client.head_bucket) in ABSENT

    def _request(self, method: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401
        """Send one request, with botocore's own attempts, and return its answer.

        Raises:
            UnansweredError: The answer was not complete in time.
        """
        n_bytes = int(str(arguments.get("ContentLength", 0)))
        seconds = self._answer_seconds + n_bytes / MIN_BYTES_PER_SECOND
        # A socket's timeout restarts with every byte: an answer that trickles needs this limit.
        return call_within(seconds, partial(method, Bucket=self._bucket, **arguments))

    def _request_code(self, method: Callable[..., Any], **arguments: object) -> str:
        """Return '' when the request succeeds, else the code of a refusal to decide on.

        Raises:
            ClientError: Any other refusal.
        """
        from botocore.exceptions import ClientError

        try:
            self._request(method, **arguments)
        except ClientError as error:
            expected = _codes(error) & _EXPECTED
            if not expected:
                raise
            return min(expected, key=str.isdigit)  # the name rather than the status
        return ""


def content_length(answer: dict[str, Any]) -> int:
    """Return the size that an answer states.

    Raises:
        TransitError: It states none.
    """
    if "ContentLength" not in answer:
        raise TransitError("the answer broke off in its head")
    return int(answer["ContentLength"])


def compare_etag(answer: dict[str, Any], md5: str) -> None:
    """Compare a body without a checksum with its ETag, the MD5 of one unencrypted request.

    Raises:
        TransitError: They differ.
    """
    etag = _PLAIN_ETAG.fullmatch(answer.get("ETag", ""))
    is_encrypted = answer.get("ServerSideEncryption", "").startswith("aws:kms")
    is_encrypted = is_encrypted or "SSECustomerAlgorithm" in answer
    # botocore has compared a checksum if there is one.
    has_checksum = any(name.startswith("Checksum") for name in answer)
    if etag and not is_encrypted and not has_checksum and etag[1] != md5:
        raise TransitError(f"its MD5 is {md5}, the server says {etag[1]}")


@cache
def broken_body_errors() -> tuple[type[Exception], ...]:
    """Return what a body raises that broke off or has a wrong checksum; botocore retries none."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    return (
        exceptions.FlexibleChecksumError,
        exceptions.IncompleteReadError,
        exceptions.ReadTimeoutError,
        exceptions.ResponseStreamingError,
        HTTPError,
    )


def _clocks(error: ClientError) -> str:
    """Return both clocks at the refusal."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    local = dt.datetime.now(dt.UTC)
    return f"{local:%Y-%m-%d %H:%M:%S} UTC here, {headers.get('date', 'unknown')} there"


def _codes(error: ClientError) -> set[str]:
    """Return the code and the HTTP status of a refusal."""
    answer = error.response
    code = answer.get("Error", {}).get("Code", "")
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", "")
    return {str(code), str(status)}
