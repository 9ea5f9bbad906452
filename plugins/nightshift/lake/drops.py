"""Drops: a drop is a data file, and a manifest written after it that describes the file.

``landing/<dataset>/dt=YYYY-MM-DD/<anything>.csv`` and ``<anything>.manifest.json``; the file may
also be ``.csv.gz``, ``.csv.zst``, ``.csv.bz2`` or ``.parquet``. A file without a manifest is not
delivered yet, and neither is a manifest without its file.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

if TYPE_CHECKING:
    from nightshift.lake.object_store import ObjectStore

PARALLEL_REQUESTS = 16
MANIFEST_SUFFIX = ".manifest.json"
MAX_KEY_CHARACTERS = 1024
"""The longest key of S3."""
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:")


class DropManifest(BaseModel):
    """The manifest of a file, as upstream writes it.

    Attributes:
        dataset: Name of the dataset's contract.
        partition: Operating day.
        delivered_at: When it was delivered: the ``known_at`` of its rows. Kept in UTC, whatever its
            offset: PostgreSQL takes no offset beyond 15:59, which Python does.
        data_key: Key of the data file, in the manifest's folder.
        sha256: Digest of the data file, hex; PowerShell writes it in upper case.
        n_rows: Rows of the data file without its header.
        schema_version: Version of the contract that the file follows.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str = Field(max_length=63)
    partition: dt.date
    delivered_at: AwareDatetime
    data_key: str = Field(max_length=MAX_KEY_CHARACTERS)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    n_rows: int = Field(ge=0, le=10**12)
    schema_version: int = Field(ge=1, le=10**6)

    @field_validator("partition", "delivered_at", mode="before")
    @classmethod
    def _parse_text(cls, value: object, info: ValidationInfo) -> object:
        # Pydantic would take a number, and a text of digits, for seconds since 1970.
        if isinstance(value, dt.date):
            return value
        if info.field_name == "partition" and isinstance(value, str) and _DAY.fullmatch(value):
            return dt.date.fromisoformat(value)
        if info.field_name == "delivered_at" and isinstance(value, str) and _TIME.match(value):
            return dt.datetime.fromisoformat(value.upper())
        raise ValueError("a text as ISO 8601 has it")

    @field_validator("delivered_at")
    @classmethod
    def _in_utc(cls, delivered_at: dt.datetime) -> dt.datetime:
        try:
            return delivered_at.astimezone(dt.UTC)
        except OverflowError:
            raise ValueError("must lie within the years 1 to 9999 of UTC") from None

    @field_validator("sha256", mode="before")
    @classmethod
    def _is_lower_case(cls, digest: object) -> object:
        """Take hexadecimal digits in upper case too, as PowerShell writes them."""
        return digest.lower() if isinstance(digest, str) else digest


@dataclass(frozen=True)
class NewDrop:
    """A file to deliver.

    Attributes:
        dataset: Name of the dataset's contract.
        partition: Operating day.
        delivered_at: When it is delivered, UTC.
        data: The file.
        n_rows: Rows without the header.
        name: Stem of both files.
        schema_version: Version of the contract that the file follows.
        suffix: Format: ``.csv``, also compressed as ``.csv.gz``, ``.csv.zst`` or ``.csv.bz2``, or
            ``.parquet``.
        claimed_sha256: Digest for the manifest instead of the true one; for the replay of faults.
    """

    dataset: str
    partition: dt.date
    delivered_at: dt.datetime
    data: bytes
    n_rows: int
    name: str
    schema_version: int = 1
    suffix: str = ".csv"
    claimed_sha256: str | None = None


def partition_prefix(dataset: str, day: dt.date) -> str:
    """Return the folder of one partition's drops, with a slash at its end."""
    return f"landing/{dataset}/dt={day.isoformat()}/"


def manifest_key(data_key: str) -> str:
    """Return the key of a data file's manifest."""
    stem = data_key
    for compression in (".gz", ".zst", ".bz2"):
        stem = stem.removesuffix(compression)
    return stem.rsplit(".", 1)[0] + MANIFEST_SUFFIX


def manifest_of(drop: NewDrop) -> DropManifest:
    """Return the manifest that a file is delivered with."""
    return DropManifest(
        dataset=drop.dataset,
        partition=drop.partition,
        delivered_at=drop.delivered_at,
        data_key=f"{partition_prefix(drop.dataset, drop.partition)}{drop.name}{drop.suffix}",
        sha256=drop.claimed_sha256 or sha256(drop.data).hexdigest(),
        n_rows=drop.n_rows,
        schema_version=drop.schema_version,
    )


def write_drop(store: ObjectStore, drop: NewDrop) -> DropManifest:
    """Deliver a file: the data first, then the manifest that makes it count.

    Delivering the same file again changes nothing.

    Raises:
        ObjectConflictError: Another file was delivered under that name.
    """
    manifest = manifest_of(drop)
    content_type = "text/csv" if drop.suffix == ".csv" else "application/octet-stream"
    store.put(manifest.data_key, drop.data, content_type)
    key = f"{partition_prefix(drop.dataset, drop.partition)}{drop.name}{MANIFEST_SUFFIX}"
    # The manifest comes last: a reader that sees it finds the complete file.
    store.put(key, manifest.model_dump_json(indent=1).encode(), "application/json")
    return manifest
