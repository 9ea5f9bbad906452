"""Read the landing prefix: list a range of partitions, and check every manifest before it is used.

Manifests are written by others, so nothing in them is trusted: size, types, lengths and times are
bounded first. A folder that is no day, and objects deeper than a day's folder, are ignored. Source:
docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import codecs
import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from nightshift.contracts.partitions import EARLIEST_DAY, LATEST_DAY
from nightshift.errors import NightshiftError
from nightshift.lake.drops import (
    MANIFEST_SUFFIX,
    PARALLEL_REQUESTS,
    DropManifest,
    manifest_key,
    partition_prefix,
)
from nightshift.lake.object_errors import ObjectCorruptError, ObjectMissingError

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.lake.object_store import ObjectStore
    from nightshift.lake.s3_requests import ListedObject

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_MANIFEST_BYTES = 64 * 1024
"""A manifest has seven values; a larger object is not read."""
_MAX_AHEAD = dt.timedelta(hours=36)
"""A partition's cut-off, from which a history may be dated, lies at most a day and a night ahead. A
later time would let the runs of its look-back see what comes until then.
"""
_MAX_DAYS_AHEAD = 366
"""Prices and calendars are delivered up to a year before they hold. A partition beyond would be the
newest one for ever: whatever looks back from the newest would look at nothing.
"""
_EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""No delivery is older: times near the ends of the calendar leave the range of Python or
PostgreSQL as soon as a zone is applied.
"""
_SHOWN_CHARACTERS = 200
"""How much of a manifest's own text enters an error, escaped: it may have line ends, or be very
long.
"""


class ManifestError(NightshiftError):
    """A manifest in the landing prefix is wrong, or does not belong to its folder."""

    code = "NS-LAKE-010"


@dataclass(frozen=True)
class WrongManifest:
    """A manifest that describes no drop.

    Attributes:
        partition: Day of its folder.
        object: The manifest, as the store lists it.
        error: What is wrong with it.
    """

    partition: dt.date
    object: ListedObject
    error: ManifestError


@dataclass(frozen=True)
class Landing:
    """The contents of the folders of a range of partitions.

    Attributes:
        drops: Delivered drops, by partition and the time of their delivery.
        wrong: Manifests that describe no drop.
        absent: Manifests whose files are not there yet, in the same order.
        manifests: The manifest of each drop, delivered or absent, as the store lists it.
        files: Every object by its key, as the store lists it.
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
        """Return when the store took a drop's manifest, UTC; the manifest completes the drop."""
        return self.manifests[drop].received_at


def read_landing(store: ObjectStore, dataset: str, partitions: PartitionRange) -> Landing:
    """Return the contents of the folders of a range; a wrong manifest does not affect others.

    The dataset's folder is listed from the first day on, a thousand keys per request; manifests
    are read in parallel.

    Args:
        store: The lake.
        dataset: Name of the contract.
        partitions: Both ends included.

    Raises:
        ObjectStoreError: The store cannot be read.
    """
    files = {listed.key: listed for listed in _list_range(store, dataset, partitions)}
    listed_manifests = [listed for key, listed in files.items() if key.endswith(MANIFEST_SUFFIX)]
    wrong: list[WrongManifest] = []
    manifests: dict[DropManifest, ListedObject] = {}
    results = _in_parallel(lambda listed: _try_manifest(store, listed), listed_manifests)
    for listed, result in zip(listed_manifests, results, strict=True):
        if isinstance(result, ManifestError):
            wrong.append(WrongManifest(_day_of(listed.key), listed, result))
        elif result is not None:
            # Equal manifests are one drop, received with the first of them.
            manifests.setdefault(result, listed)
    # By key too, so that the order is the same in each run.
    ordered = sorted(manifests, key=lambda drop: (drop.partition, drop.delivered_at, drop.data_key))
    drops = tuple(drop for drop in ordered if drop.data_key in files)
    absent = tuple(drop for drop in ordered if drop.data_key not in files)
    return Landing(drops, tuple(wrong), absent, manifests, files)


def list_undelivered(store: ObjectStore, dataset: str, partitions: PartitionRange) -> list[str]:
    """Return the keys of files in the range that have no manifest."""
    keys = [listed.key for listed in _list_range(store, dataset, partitions)]
    manifests = {key for key in keys if key.endswith(MANIFEST_SUFFIX)}
    return [key for key in keys if not {key, manifest_key(key)} & manifests]


def read_data(store: ObjectStore, drops: Iterable[DropManifest]) -> list[bytes]:
    """Read data files in parallel, in the order of the drops.

    A file with another digest than its manifest's is returned as it is.

    Raises:
        ObjectMissingError: A manifest names a file that does not exist.
    """
    return _in_parallel(lambda drop: _read_file(store, drop), drops)


def find_data(store: ObjectStore, drops: Iterable[DropManifest]) -> list[bytes | None]:
    """Read data files as ``read_data`` does; None stands for a missing file."""

    def find(drop: DropManifest) -> bytes | None:
        try:
            return _read_file(store, drop)
        except ObjectMissingError:
            return None

    return _in_parallel(find, drops)


def _in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
        return list(pool.map(function, items))


def _read_file(store: ObjectStore, drop: DropManifest) -> bytes:
    try:
        return store.get(drop.data_key, drop.sha256)
    except ObjectCorruptError:
        # The contract's check refuses the file and keeps the evidence.
        return store.get(drop.data_key)


def _list_range(
    store: ObjectStore, dataset: str, partitions: PartitionRange
) -> Iterator[ListedObject]:
    """Yield the objects directly in the folders of a range, in the order of their keys."""
    first = partition_prefix(dataset, partitions.first.day)
    last = partition_prefix(dataset, partitions.last.day)
    # One listing for all days: a range may end in the year 2199.
    for listed in store.list_objects(f"landing/{dataset}/dt=", start_after=first):
        if listed.key > last and not listed.key.startswith(last):
            return
        try:
            folder = partition_prefix(dataset, _day_of(listed.key))
        except ValueError:
            continue
        if _folder(listed.key) == folder:
            yield listed


def _folder(key: str) -> str:
    return key.rpartition("/")[0] + "/"


def _day_of(key: str) -> dt.date:
    return dt.date.fromisoformat(_folder(key)[-11:-1])


def _try_manifest(store: ObjectStore, listed: ListedObject) -> DropManifest | ManifestError | None:
    """Return a drop, what is wrong with its manifest, or None if it was removed meanwhile."""
    try:
        return _read_manifest(store, listed)
    except ManifestError as error:
        return error
    except ObjectMissingError:
        return None


def _read_manifest(store: ObjectStore, listed: ListedObject) -> DropManifest:
    uri = store.uri(listed.key)
    if listed.n_bytes > MAX_MANIFEST_BYTES:
        size = f"{listed.n_bytes} bytes"
        problem = f"{uri} is too large for a manifest."
        raise _wrong(listed, problem, f"at most {MAX_MANIFEST_BYTES} bytes", size)
    try:
        # The size must be the listed one, which was checked; PowerShell writes a byte order mark.
        text = store.get(listed.key, n_bytes=listed.n_bytes).removeprefix(codecs.BOM_UTF8)
        manifest = DropManifest.model_validate_json(text, strict=True)
    except ObjectCorruptError:
        problem = f"{uri} changed while it was read."
        expected = "an object that is written once"
        raise _wrong(listed, problem, expected, "another size") from None
    except ValidationError as error:
        problem = f"{uri} is not a manifest."
        raise _wrong(listed, problem, None, _describe(error.errors())) from None
    _check_folder(uri, listed, manifest)
    _check_time(uri, listed, manifest)
    return manifest


def _describe(errors: Iterable[Any]) -> str:
    """Return what pydantic reports, without the values that it was given."""
    lines = [
        f"{'.'.join(map(str, error['loc'])) or 'document'}: {error['msg']}" for error in errors
    ]
    return "; ".join(lines)


def _check_folder(uri: str, listed: ListedObject, manifest: DropManifest) -> None:
    folder = _folder(listed.key)
    name = manifest.data_key.removeprefix(folder)
    is_own_folder = partition_prefix(manifest.dataset, manifest.partition) == folder
    is_in_folder = manifest.data_key == folder + name
    # A key with another name cannot be requested: the store's own paths swallow it.
    is_file_name = "/" not in name and name not in {"", ".", ".."} and name.isprintable()
    if is_own_folder and is_in_folder and is_file_name:
        return
    described = f"{manifest.dataset}, {manifest.partition}, {manifest.data_key}"
    got = ascii(described)[1:-1][:_SHOWN_CHARACTERS]
    problem = f"{uri} belongs to another place."
    raise _wrong(listed, problem, f"dataset, partition and data_key of {folder}", got)


def _check_time(uri: str, listed: ListedObject, manifest: DropManifest) -> None:
    delivered_at, now = manifest.delivered_at, dt.datetime.now(dt.UTC)
    latest_day = min(LATEST_DAY, now.date() + dt.timedelta(days=_MAX_DAYS_AHEAD))
    if not EARLIEST_DAY <= manifest.partition <= latest_day:
        problem = f"{uri} is of a day beyond the calendar."
        expected = f"a partition from {EARLIEST_DAY} to {latest_day}"
        raise _wrong(listed, problem, expected, str(manifest.partition))
    if delivered_at > now + _MAX_AHEAD:
        problem = f"{uri} is dated in the future."
        expected = "delivered_at at the time of its delivery"
        raise _wrong(listed, problem, expected, delivered_at.isoformat())
    if delivered_at < _EARLIEST:
        problem = f"{uri} is dated before any delivery."
        expected = f"delivered_at from {_EARLIEST.isoformat()} on"
        raise _wrong(listed, problem, expected, delivered_at.isoformat())


def _wrong(listed: ListedObject, problem: str, expected: str | None, got: str) -> ManifestError:
    return ManifestError(
        problem,
        expected=expected,
        got=got,
        todo="Ask upstream to deliver the file again under another name: a later good drop of the"
        " day replaces this manifest. If it is not needed at all:"
        f"\n      nightshift drop set-aside {listed.key} --reason <why>",
    )
