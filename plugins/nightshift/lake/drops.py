"""The landing protocol: a drop is a data file, and a manifest written after it that says what the file is.

``landing/<dataset>/dt=YYYY-MM-DD/<anything>.csv`` and ``<anything>.manifest.json``; the file may
also be ``.csv.gz``, ``.csv.zst``, ``.csv.bz2`` or ``.parquet``. Files without a manifest are not
delivered yet, and neither is a manifest whose file is not there. What lies deeper, or in a folder
that is no day, belongs to nobody and is passed over.

Manifests are written by others, so nothing in one is believed: its size, types, lengths and times
are bounded before it is used. Source: docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import codecs
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from nightshift.errors import NightshiftError
from nightshift.lake.object_store import ObjectCorruptError, ObjectMissingError

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.lake.object_store import ListedObject, ObjectStore

PARALLEL_REQUESTS = 16
LONGEST_AHEAD = dt.timedelta(hours=36)
"""A partition's cut-off, from which a history may be dated, lies ahead by a day and a night at
most. A later time would let the nights of its look-back see what comes until then.
"""
EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""No delivery is older: times near the ends of the calendar leave the range of Python or
PostgreSQL as soon as a zone is applied.
"""
MAX_MANIFEST_BYTES = 64 * 1024
"""A manifest has seven values; a larger object is not read."""
MAX_KEY_CHARACTERS = 1024
"""The longest key of S3."""
_SHOWN_CHARACTERS = 200
"""How much of a manifest's own text enters an error, escaped: it may hold line ends, or be very
long.
"""
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

    dataset: str = Field(max_length=63)
    partition: dt.date
    delivered_at: AwareDatetime
    data_key: str = Field(max_length=MAX_KEY_CHARACTERS)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    n_rows: int = Field(ge=0, le=10**12)
    schema_version: int = Field(ge=1, le=10**6)

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


@dataclass(frozen=True)
class WrongManifest:
    """A manifest that describes no drop.

    Attributes:
        partition: Day of the folder that it lies in.
        object: The manifest, as the store lists it.
        error: What is wrong with it.
    """

    partition: dt.date
    object: ListedObject
    error: ManifestError


@dataclass(frozen=True)
class Landing:
    """What lies in the folders of a range of partitions.

    Attributes:
        drops: Delivered drops, by partition and the time of their delivery.
        wrong: Manifests that describe no drop.
        absent: What manifests promise whose files are not there yet, in the same order.
        manifests: The manifest of each drop and of each promise, as the store lists it.
        files: The data file of each drop, as the store lists it.
    """

    drops: tuple[DropManifest, ...]
    wrong: tuple[WrongManifest, ...]
    absent: tuple[DropManifest, ...]
    manifests: Mapping[DropManifest, ListedObject]
    files: Mapping[str, ListedObject]

    def n_bytes(self, drop: DropManifest) -> int:
        """Return the size of a drop's file, whatever its manifest says."""
        return self.files[drop.data_key].n_bytes

    def received_at(self, drop: DropManifest) -> dt.datetime:
        """Return when the store took a drop, UTC: its manifest, which comes last, makes it count."""
        return self.manifests[drop].received_at


def read_landing(store: ObjectStore, dataset: str, partitions: PartitionRange) -> Landing:
    """Return what lies in the folders of a range; a wrong manifest harms no other.

    The dataset's folder is listed from the first day on, a thousand keys per request; manifests
    are read in parallel.

    Args:
        store: The lake.
        dataset: Name of the contract.
        partitions: Both ends included.

    Raises:
        ObjectStoreError: The store cannot be read.
    """
    files = {listed.key: listed for listed in _objects(store, dataset, partitions)}
    listed_manifests = [listed for key, listed in files.items() if key.endswith(_MANIFEST)]
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        read = list(pool.map(lambda listed: _try_manifest(store, listed), listed_manifests))
    wrong: list[WrongManifest] = []
    manifests: dict[DropManifest, ListedObject] = {}
    for listed, manifest in zip(listed_manifests, read, strict=True):
        if isinstance(manifest, ManifestError):
            wrong.append(WrongManifest(_day_of(listed.key), listed, manifest))
        elif manifest is not None:
            manifests.setdefault(manifest, listed)
    in_order = sorted(manifests, key=lambda m: (m.partition, m.delivered_at, m.data_key))
    drops = tuple(drop for drop in in_order if drop.data_key in files)
    absent = tuple(drop for drop in in_order if drop.data_key not in files)
    return Landing(drops, tuple(wrong), absent, manifests, files)


def list_drops(
    store: ObjectStore,
    dataset: str,
    partitions: PartitionRange,
    pass_over: Callable[[ManifestError], None] | None = None,
) -> list[DropManifest]:
    """Return the delivered drops by partition, then by the time of their delivery; as ``read_landing``.

    Args:
        store: The lake.
        dataset: Name of the contract.
        partitions: Both ends included.
        pass_over: Is told of each wrong manifest, whose drop is then left out; None: the first one
            is raised.

    Raises:
        ManifestError: A manifest is no JSON, misses a value, is dated in the future, or names
            another dataset, partition or folder than its own.
        ObjectStoreError: The store cannot be read.
    """
    landing = read_landing(store, dataset, partitions)
    for one in landing.wrong:
        if pass_over is None:
            raise one.error
        pass_over(one.error)
    return list(landing.drops)


def list_undelivered(store: ObjectStore, dataset: str, partitions: PartitionRange) -> list[str]:
    """Return the keys of files in the range that have no manifest."""
    keys = [listed.key for listed in _objects(store, dataset, partitions)]
    delivered = {key for key in keys if key.endswith(_MANIFEST)}
    return [
        key for key in keys if not key.endswith(_MANIFEST) and manifest_key(key) not in delivered
    ]


def manifest_key(data_key: str) -> str:
    """Return the key of a data file's manifest."""
    return _stem(data_key) + _MANIFEST


def _stem(key: str) -> str:
    """Return a data file's key without its format: what its manifest's key begins with."""
    for compression in (".gz", ".zst", ".bz2"):
        key = key.removesuffix(compression)
    return key.rsplit(".", 1)[0]


def read_data(store: ObjectStore, drops: Iterable[DropManifest]) -> list[bytes]:
    """Read data files in parallel, in the order of the drops.

    A file with another digest than its manifest's is read as it is: the contract's check refuses it
    and keeps the evidence.

    Raises:
        ObjectMissingError: A manifest names a file that does not exist.
    """
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        return list(pool.map(lambda drop: _read_data(store, drop), drops))


def find_data(store: ObjectStore, drops: Iterable[DropManifest]) -> list[bytes | None]:
    """Read data files as ``read_data``; None stands for one that is not there."""

    def find(drop: DropManifest) -> bytes | None:
        try:
            return _read_data(store, drop)
        except ObjectMissingError:
            return None

    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        return list(pool.map(find, drops))


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
    """Deliver a file: the data first, then the manifest that makes it count. Delivering the same again changes nothing.

    Raises:
        ObjectConflictError: Another file was delivered under that name.
    """
    manifest = manifest_of(drop)
    store.put(
        manifest.data_key,
        drop.data,
        "text/csv" if drop.suffix == ".csv" else "application/octet-stream",
    )
    folder = partition_prefix(drop.dataset, drop.partition)
    store.put(
        f"{folder}{drop.name}{_MANIFEST}",
        manifest.model_dump_json(indent=1).encode(),
        "application/json",
    )
    return manifest


def _objects(
    store: ObjectStore, dataset: str, partitions: PartitionRange
) -> Iterator[ListedObject]:
    """Yield the objects that lie directly in the folders of a range, in the order of their keys."""
    first, last = (
        partition_prefix(dataset, partitions.first.day),
        partition_prefix(dataset, partitions.last.day),
    )
    for listed in store.list_objects(f"landing/{dataset}/dt=", start_after=first):
        if listed.key > last and not listed.key.startswith(last):
            return
        # Only what lies directly in a day's folder; a range may end in the year 2199, so days are
        # not listed.
        if _folder(listed.key) == _folder_of_its_day(dataset, listed.key):
            yield listed


def _folder(key: str) -> str:
    return key.rpartition("/")[0] + "/"


def _folder_of_its_day(dataset: str, key: str) -> str | None:
    """Return the folder of the day that a key names, None if it names no day."""
    try:
        return partition_prefix(dataset, _day_of(key))
    except ValueError:
        return None


def _day_of(key: str) -> dt.date:
    return dt.date.fromisoformat(_folder(key)[-11:-1])


def _read_data(store: ObjectStore, drop: DropManifest) -> bytes:
    try:
        return store.get(drop.data_key, drop.sha256)
    except ObjectCorruptError:
        return store.get(drop.data_key)


def _try_manifest(store: ObjectStore, listed: ListedObject) -> DropManifest | ManifestError | None:
    """Return a drop, what is wrong with its manifest, or None if it was taken away meanwhile."""
    try:
        return _read_manifest(store, listed)
    except ManifestError as error:
        return error
    except ObjectMissingError:
        return None


def _read_manifest(store: ObjectStore, listed: ListedObject) -> DropManifest:
    uri = store.uri(listed.key)
    if listed.n_bytes > MAX_MANIFEST_BYTES:
        raise _wrong(
            f"{uri} is too large for a manifest.",
            f"at most {MAX_MANIFEST_BYTES} bytes",
            f"{listed.n_bytes} bytes",
            listed,
        )
    try:
        text = store.get(listed.key, n_bytes=listed.n_bytes).removeprefix(codecs.BOM_UTF8)
        manifest = DropManifest.model_validate_json(text, strict=True)
    except ObjectCorruptError:
        raise _wrong(
            f"{uri} changed while it was read.",
            "an object that is written once",
            "another size",
            listed,
        ) from None
    except ValidationError as error:
        raise _wrong(f"{uri} is not a manifest.", None, _problems(error.errors()), listed) from None
    _check_place(uri, listed, manifest)
    _check_time(uri, listed, manifest)
    return manifest


def _problems(errors: Iterable[Any]) -> str:
    """Return what pydantic says, without the values that it was given."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in errors)


def _check_place(uri: str, listed: ListedObject, manifest: DropManifest) -> None:
    folder = _folder(listed.key)
    name = manifest.data_key.removeprefix(folder)
    is_here = (
        partition_prefix(manifest.dataset, manifest.partition) == folder
        and manifest.data_key == folder + name
    )
    # A key with such a name cannot be asked for: the store's own paths swallow it.
    is_name = "/" not in name and name not in {"", ".", ".."} and name.isprintable()
    if is_here and is_name:
        return
    said = f"{manifest.dataset}, {manifest.partition}, {manifest.data_key}"
    raise _wrong(
        f"{uri} belongs to another place.",
        f"dataset, partition and data_key of {folder}",
        _shown(said),
        listed,
    )


def _check_time(uri: str, listed: ListedObject, manifest: DropManifest) -> None:
    if manifest.delivered_at > dt.datetime.now(dt.UTC) + LONGEST_AHEAD:
        said = manifest.delivered_at.isoformat()
        raise _wrong(
            f"{uri} is dated in the future.",
            "delivered_at at the time of its delivery",
            said,
            listed,
        )
    if manifest.delivered_at < EARLIEST:
        said = manifest.delivered_at.isoformat()
        raise _wrong(
            f"{uri} is dated before any delivery.",
            f"delivered_at from {EARLIEST.isoformat()} on",
            said,
            listed,
        )


def _shown(text: str) -> str:
    return ascii(text)[1:-1][:_SHOWN_CHARACTERS]


def _wrong(what: str, expected: str | None, got: str, listed: ListedObject) -> ManifestError:
    return ManifestError(
        what,
        expected=expected,
        got=got,
        todo="Ask upstream to deliver the file again under another name: a later good drop of the day stands for this manifest. If it is"
        f"\n      just rubbish: nightshift drop set-aside {listed.key} --reason <why>",
    )
