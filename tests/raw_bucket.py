"""The bucket as anybody with its keys sees it: objects can be changed and deleted there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from nightshift.settings import Settings


def s3_client(settings: Settings) -> S3Client:
    """Return a client of the bucket's server."""
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value(),
    )


def overwrite(settings: Settings, key: str, body: bytes) -> None:
    """Put other content where an object is, which the store itself refuses."""
    s3_client(settings).put_object(Bucket=settings.s3_bucket, Key=key, Body=body)
