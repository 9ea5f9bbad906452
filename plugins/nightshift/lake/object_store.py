"""The object store, written once and read verified: the only module that knows boto3.

botocore retries a refused or lost request, but neither a body that breaks off nor one whose checksum is wrong; and a
conditional put whose answer was lost is refused on its second try because of our own object. Both are handled here.
Source: docs/adr/0005-raw-versions.md.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nightshift.errors import ObjectStoreError

if TYPE_CHECKING:
    from tenacity import Retrying

    from nightshift.settings import Settings

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30
REQUEST_ATTEMPTS = 5
BODY_ATTEMPTS = 4
POOL_CONNECTIONS = 32
"""Requests that several threads may have open at once through one store."""
_CHUNK_BYTES = 1 << 20


class ObjectMissingError(ObjectStoreError):
    """There is no such object."""

    code = "NS-LAKE-002"


class ObjectConflictError(ObjectStoreError):
    """The key holds other content already; objects are written once."""

    code = "NS-LAKE-003"
    is_retryable = False


class ObjectCorruptError(ObjectStoreError):
    """The bytes that came are not those that the digest names."""

    code = "NS-LAKE-004"
    is_retryable = False


class ObjectStore:
    """One bucket. Safe to share between threads.

    Args:
        client: A boto3 S3 client.
        bucket: The bucket's name.
    """

    def __init__(self, client: Any, bucket: str) -> None:  # noqa: ANN401 - boto3 makes its client's class at run time
        self._client = client
        self.bucket = bucket

    @classmethod
    def open(cls, settings: Settings) -> ObjectStore:
        """Return the store that the settings name; nothing is sent yet."""
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            read_timeout=READ_TIMEOUT_SECONDS,
            max_pool_connections=POOL_CONNECTIONS,
            s3={"addressing_style": "path"} if settings.s3_endpoint_url else {},
        )
        session = boto3.session.Session(
            aws_access_key_id=settings.s3_access_key_id or None,
            aws_secret_access_key=settings.s3_secret_access_key.get_secret_value() or None,
            region_name=settings.s3_region,
        )
        return cls(session.client("s3", endpoint_url=settings.s3_endpoint_url or None, config=config), settings.s3_bucket)

    def uri(self, key: str) -> str:
        """Return ``s3://<bucket>/<key>``."""
        return f"s3://{self.bucket}/{key}"

    def ensure_bucket(self) -> None:
        """Create the bucket if it is absent; safe from several places at once.

        Raises:
            ObjectStoreError: The server refuses, or the name belongs to someone else.
        """
        region = self._client.meta.region_name
        location = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with self._reported("create the bucket", ""):
            if self._answer_code(self._client.head_bucket, Bucket=self.bucket) in _ABSENT:
                code = self._answer_code(self._client.create_bucket, Bucket=self.bucket, **location)
                if code not in {"", "BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                    raise ObjectStoreError(f"Cannot create the bucket {self.bucket}.", got=code, todo="Run `nightshift doctor`.")
                self._client.head_bucket(Bucket=self.bucket)

    def put(self, key: str, data: bytes | Path, content_type: str = "application/octet-stream") -> str:
        """Write an object once.

        Args:
            key: Where; a key is never written twice with different content.
            data: The content, or a file that holds it.
            content_type: MIME type.

        Returns:
            The content's SHA-256, hex. The same content already there is a success.

        Raises:
            ObjectConflictError: The key holds other content.
            ObjectStoreError: The server cannot be reached or refuses.
        """
        digest = _digest(data)
        with self._reported("write", key):
            code = self._put_if_absent(key, data, digest, content_type)
            if code and not self._holds(key, digest):
                raise ObjectConflictError(
                    f"{self.uri(key)} holds other content already.",
                    expected=f"sha256 {digest.hex()}",
                    got="an object with another digest",
                    todo="Write the new content under a new key; what was written once is never replaced.",
                )
        return digest.hex()

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """Read an object.

        Args:
            key: Which one.
            sha256: What its digest must be, hex.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectCorruptError: Its content has another digest.
            ObjectStoreError: The server cannot be reached, or the body broke off again and again.
        """
        with self._reported("read", key):
            data: bytes = _retrying()(lambda: self._body(key).read())
        self._verify(key, _digest(data).hex(), sha256)
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Read an object into a file, which appears only when it is complete and verified.

        Raises:
            ObjectMissingError: It does not exist.
            ObjectCorruptError: Its content has another digest.
            ObjectStoreError: The server cannot be reached, or the body broke off again and again.
        """
        partial = path.with_name(f".{path.name}.partial")
        try:
            with self._reported("read", key):
                _retrying()(self._read_into, key, partial)
            self._verify(key, _digest(partial).hex(), sha256)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        """Yield the keys under a prefix in order, a thousand per request.

        Args:
            prefix: What the keys begin with.
            start_after: Only keys that sort behind this one.
        """
        with self._reported("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, StartAfter=start_after)
            for page in pages:
                yield from (entry["Key"] for entry in page.get("Contents", ()))

    def exists(self, key: str) -> bool:
        """Return whether there is such an object."""
        with self._reported("look up", key):
            return self._answer_code(self._client.head_object, Bucket=self.bucket, Key=key) == ""

    def _put_if_absent(self, key: str, data: bytes | Path, digest: bytes, content_type: str) -> str:
        request: dict[str, Any] = {
            "Bucket": self.bucket,
            "Key": key,
            "IfNoneMatch": "*",
            "ContentType": content_type,
            "ChecksumSHA256": base64.b64encode(digest).decode(),
        }
        if isinstance(data, bytes):
            return self._answer_code(self._client.put_object, Body=data, **request)
        with data.open("rb") as body:
            return self._answer_code(self._client.put_object, Body=body, **request)

    def _holds(self, key: str, digest: bytes) -> bool:
        """Return whether the object that is there has our digest: by the server's checksum, or by reading it."""
        head = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        if stated := head.get("ChecksumSHA256"):
            return bool(base64.b64decode(stated) == digest)
        return _digest(self.get(key)) == digest

    def _body(self, key: str) -> BinaryIO:
        body: BinaryIO = self._client.get_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")["Body"]
        return body

    def _read_into(self, key: str, path: Path) -> None:
        body = self._body(key)
        with path.open("wb") as file:
            while chunk := body.read(_CHUNK_BYTES):
                file.write(chunk)

    def _verify(self, key: str, got: str, expected: str | None) -> None:
        if expected is not None and got != expected:
            raise ObjectCorruptError(
                f"{self.uri(key)} is not what was written.",
                expected=f"sha256 {expected}",
                got=f"sha256 {got}",
                todo="Restore the object from a version or backup; do not overwrite it.",
            )

    @staticmethod
    def _answer_code(request: Callable[..., Any], **arguments: object) -> str:
        """Return '' when the request succeeds, else the code of an answer that the caller decides on.

        Raises:
            ClientError: Any other refusal.
        """
        from botocore.exceptions import ClientError

        try:
            request(**arguments)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _ABSENT | _TAKEN:
                return code
            raise
        return ""

    @contextmanager
    def _reported(self, verb: str, key: str) -> Iterator[None]:
        """Turn the vendor's errors into ours; no message holds a credential."""
        from botocore.exceptions import BotoCoreError, ClientError

        failures: tuple[type[Exception], ...] = (BotoCoreError, *_broken_bodies())
        try:
            yield
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in _ABSENT:
                raise ObjectMissingError(
                    f"{self.uri(key)} does not exist.",
                    todo="Check the bucket and the key; an object that a manifest names is never deleted.",
                ) from None
            raise self._failed(verb, key, error) from error
        except failures as error:
            raise self._failed(verb, key, error) from error

    def _failed(self, verb: str, key: str, error: Exception) -> ObjectStoreError:
        return ObjectStoreError(
            f"Cannot {verb} {self.uri(key)}.",
            got=str(error),
            todo="Run `nightshift status`; check NIGHTSHIFT_S3_ENDPOINT_URL and the key's rights. Retrying is safe.",
        )


_ABSENT = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict", "BucketAlreadyOwnedByYou", "BucketAlreadyExists"}


def _broken_bodies() -> tuple[type[Exception], ...]:
    """Return what a body raises that broke off or has a wrong checksum; botocore does not retry these."""
    from botocore.exceptions import (
        FlexibleChecksumError,
        IncompleteReadError,
        ReadTimeoutError,
        ResponseStreamingError,
    )
    from urllib3.exceptions import HTTPError

    return (FlexibleChecksumError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError, HTTPError)


def _retrying() -> Retrying:
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    return Retrying(
        stop=stop_after_attempt(BODY_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        retry=retry_if_exception_type(_broken_bodies()),
        reraise=True,
    )


def _digest(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return sha256(data).digest()
    with data.open("rb") as file:
        return file_digest(file, "sha256").digest()
