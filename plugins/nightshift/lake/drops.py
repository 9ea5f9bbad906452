"""The landing protocol: a drop is a data file, and a manifest written after it that says what the file is.

``landing/<dataset>/dt=YYYY-MM-DD/<anything>.csv`` and ``<anything>.manifest.json``; the file may also be ``.csv.gz``, ``.csv.zst``,
``.csv.bz2`` or ``.parquet``. Files without a manifest are not delivered yet.
"""

from __future__ import annotations

import codecs
import datetime as dt
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectCorruptError

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.lake.object_store import ObjectStore

PARALLEL_REQUESTS = 16
LONGEST_AHEAD = dt.timedelta(hours=36)
"""A partition's cut-off, from which a history may be dated, lies ahead by a day and a night at most. A later time would let the nights of
its look-back see what comes until then."""
_MANIFEST = ".manifest.json"


class ManifestError(NightshiftError):
    """A manifest in the landing prefix is wrong or contradicts the place where it lies."""

    code = "NS-LAKE-010"


class DropManifest(BaseModel):
    """What upstream says about a file.

    Attributes:
        dataset: Name of the dataset's contract.
        partition: Operating day.
        delivered_at: When it was delivered, UTC: the ``known_at`` of its rows.
        data_key: Key of the data file, in the manifest's folder.
        sha256: Digest of the data file, hex; PowerShell writes it in upper case.
        n_rows: Rows of the data file without its header.
        schema_version: Version of the contract that the file follows.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str
    partition: dt.date
    delivered_at: AwareDatetime
    data_key: str
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$", to_lower=True)]
    n_rows: int = Field(ge=0)
    schema_version: int = Field(ge=1)


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
        suffix: Format: ``.csv``, also compressed as ``.csv.gz``, ``.csv.zst`` or ``.csv.bz2``, or ``.parquet``.
        claimed_sha256: What the manifest says instead of the true digest; for the replay of faults.
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


def list_drops(
    store: ObjectStore, dataset: str, partitions: PartitionRange, pass_over: Callable[[ManifestError], None] | None = None
) -> list[DropManifest]:
    """Return the delivered drops by partition, then by the time of their delivery.

    The dataset's folder is listed from the first day on, a thousand keys per request; manifests are read in parallel.

    Args:
        store: The lake.
        dataset: Name of the contract.
        partitions: Both ends included.
        pass_over: Is told of each wrong manifest, whose drop is then left out; None: the first one is raised.

    Raises:
        ManifestError: A manifest is no JSON, misses a value, is dated in the future, or names another dataset, partition or folder than its
            own.
        ObjectStoreError: The store cannot be read.
    """
    keys = _manifest_keys(store, dataset, partitions)
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        read = list(pool.map(lambda key: _try_manifest(store, key), keys))
    for error in read:
        if isinstance(error, ManifestError):
            if pass_over is None:
                raise error
            pass_over(error)
    manifests = [manifest for manifest in read if isinstance(manifest, DropManifest)]
    return sorted(manifests, key=lambda m: (m.partition, m.delivered_at, m.data_key))


def list_undelivered(store: ObjectStore, dataset: str, partitions: PartitionRange) -> list[str]:
    """Return the keys of files in the range that have no manifest."""
    keys = _keys(store, dataset, partitions)
    delivered = {key.removesuffix(_MANIFEST) for key in keys if key.endswith(_MANIFEST)}
    return [key for key in keys if not key.endswith(_MANIFEST) and _stem(key) not in delivered]


def _stem(key: str) -> str:
    """Return a data file's key without its format: what its manifest's key begins with."""
    for compression in (".gz", ".zst", ".bz2"):
        key = key.removesuffix(compression)
    return key.rsplit(".", 1)[0]


def read_data(store: ObjectStore, drops: Iterable[DropManifest]) -> list[bytes]:
    """Read data files in parallel, in the order of the drops.

    A file with another digest than its manifest's is read as it is: the contract's check refuses it and keeps the evidence.

    Raises:
        ObjectMissingError: A manifest names a file that does not exist.
    """
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        return list(pool.map(lambda drop: _read_data(store, drop), drops))


def write_drop(store: ObjectStore, drop: NewDrop) -> DropManifest:
    """Deliver a file: the data first, then the manifest that makes it count. Delivering the same again changes nothing.

    Raises:
        ObjectConflictError: Another file was delivered under that name.
    """
    folder = partition_prefix(drop.dataset, drop.partition)
    manifest = DropManifest(
        dataset=drop.dataset,
        partition=drop.partition,
        delivered_at=drop.delivered_at,
        data_key=f"{folder}{drop.name}{drop.suffix}",
        sha256=drop.claimed_sha256 or sha256(drop.data).hexdigest(),
        n_rows=drop.n_rows,
        schema_version=drop.schema_version,
    )
    store.put(manifest.data_key, drop.data, "text/csv" if drop.suffix == ".csv" else "application/octet-stream")
    store.put(f"{folder}{drop.name}{_MANIFEST}", manifest.model_dump_json(indent=1).encode(), "application/json")
    return manifest


def _manifest_keys(store: ObjectStore, dataset: str, partitions: PartitionRange) -> list[str]:
    return [key for key in _keys(store, dataset, partitions) if key.endswith(_MANIFEST)]


def _keys(store: ObjectStore, dataset: str, partitions: PartitionRange) -> list[str]:
    first, last = partition_prefix(dataset, partitions.first.day), partition_prefix(dataset, partitions.last.day)
    keys: list[str] = []
    for key in store.list(f"landing/{dataset}/dt=", start_after=first):
        if key > last and not key.startswith(last):
            break
        keys.append(key)
    return keys


def _read_data(store: ObjectStore, drop: DropManifest) -> bytes:
    try:
        return store.get(drop.data_key, drop.sha256)
    except ObjectCorruptError:
        return store.get(drop.data_key)


def _try_manifest(store: ObjectStore, key: str) -> DropManifest | ManifestError:
    try:
        return _read_manifest(store, key)
    except ManifestError as error:
        return error


def _read_manifest(store: ObjectStore, key: str) -> DropManifest:
    try:
        # Windows PowerShell puts a mark before UTF-8.
        manifest = DropManifest.model_validate_json(store.get(key).removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors())
        raise ManifestError(f"{store.uri(key)} is not a manifest.", got=problems, todo=_TODO) from None
    folder = key.rsplit("/", 1)[0] + "/"
    said = partition_prefix(manifest.dataset, manifest.partition)
    if said != folder or manifest.data_key.rsplit("/", 1)[0] + "/" != folder:
        raise ManifestError(
            f"{store.uri(key)} belongs to another place.",
            expected=f"dataset, partition and data_key of {folder}",
            got=f"{manifest.dataset}, {manifest.partition}, {manifest.data_key}",
            todo=_TODO,
        )
    if manifest.delivered_at > dt.datetime.now(dt.UTC) + LONGEST_AHEAD:
        raise ManifestError(
            f"{store.uri(key)} is dated in the future.",
            expected="delivered_at at the time of its delivery",
            got=manifest.delivered_at.isoformat(),
            todo=_TODO,
        )
    return manifest


_TODO = "Ask upstream to deliver the file again under another name, and take this manifest out of the folder: its partition waits for both."
