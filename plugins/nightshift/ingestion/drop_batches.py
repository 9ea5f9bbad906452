"""Load the drops of a call: a few in memory at a time, and each file judged by itself.

Files are read and checked until their text fills a batch; a batch is loaded before the next one is
read, so that memory holds one batch, whatever the range. Rows of a batch are checked together,
which is what makes a year of small files fast; when that fails, or a load is refused, each file is
loaded alone, and only those at fault stay out. Source: docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nightshift.ingestion.deliveries import Deliveries, Identity, find_backdated, identity
from nightshift.ingestion.file_faults import refusal_of
from nightshift.ingestion.large_drop import is_large, write_large
from nightshift.ingestion.raw_load import CheckedDrops, IngestCall, write_version
from nightshift.ingestion.rows.row_check import check_rows
from nightshift.lake.landing import find_data
from nightshift.quality.contract_check import DeliveredFile, LargeFileError, check_file
from nightshift.quality.contract_errors import ContractError, over_limit
from nightshift.quality.files.decompression import OverLimitError
from nightshift.quality.gate_errors import GateError
from nightshift.quality.quarantine import keep_drop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nightshift.errors import NightshiftError
    from nightshift.lake.drops import DropManifest

logger = logging.getLogger(__name__)

# Text of the files that are checked together; their rows need about ten times as much until they
# are staged.
BATCH_TEXT_BYTES = 16 * 1024**2
# Files that are read in parallel, as they are stored in the lake.
_READ_BYTES = 8 * 1024**2
_READ_FILES = 256

CheckedFile = tuple["DropManifest", DeliveredFile]


@dataclass
class Refusals:
    """Refused files of a call: recorded at once, raised at the end.

    Attributes:
        call: Connections, contract and run of the call.
        deliveries: The range.
        is_late: No run waits for these drops, so a refusal is recorded but never raised.
        codes: Code of the refusal by drop.
    """

    call: IngestCall
    deliveries: Deliveries
    is_late: bool
    codes: dict[Identity, str] = field(default_factory=dict)
    _blocking: list[NightshiftError] = field(default_factory=list)

    def add(self, drop: DropManifest, error: NightshiftError) -> None:
        """Record a refused file; it blocks unless a later drop of its partition replaces it."""
        keep_drop(self.call.conn, drop, self.call.store.uri(drop.data_key), error, self.call.run)
        self.codes[identity(drop)] = error.code
        if self.deliveries.newest.get(drop.partition) == drop:
            self.block(error)

    def block(self, error: NightshiftError) -> None:
        """Add an error that blocks a partition."""
        self._blocking.append(error)

    def raise_first(self) -> None:
        """Raise what blocks a partition, after all other drops are in.

        Raises:
            NightshiftError: The first of the errors.
        """
        if self._blocking and not self.is_late:
            raise self._blocking[0]


def load_drops(drops: Sequence[DropManifest], refusals: Refusals) -> set[dt.date]:
    """Load drops and return the days that got a new version; refused ones are recorded.

    Args:
        drops: Drops that are not in yet, in their order.
        refusals: The call, and the record of the drops that are not loaded.

    Raises:
        GateError: The suite refused the rows of a call that is not late.
        NightshiftError: Store, warehouse or machine failed; nothing is recorded against a file.
    """
    published: set[dt.date] = set()
    small: list[DropManifest] = []
    large: list[DropManifest] = []
    for drop in _refuse_backdated(drops, refusals):
        n_bytes = refusals.deliveries.n_bytes[drop.data_key]
        (large if is_large(drop, n_bytes) else small).append(drop)
    for batch in _read_batches(small, refusals, large):
        for checked in _check_together(batch, refusals):
            good = [i for i in range(len(checked.drops)) if i not in checked.rows.errors]
            for indices in _split_into_loads(checked.drops, good):
                published |= _write_together(checked, indices, refusals)
    # Large ones last: unpacking finds further large drops among the small ones.
    for drop in sorted(large, key=identity):
        if _is_oversized(drop, refusals):
            continue
        published |= _write(drop, partial(write_large, refusals.call, drop), refusals)
    return published


def _refuse_backdated(drops: Sequence[DropManifest], refusals: Refusals) -> list[DropManifest]:
    """Refuse the backdated drops and return the rest."""
    backdated = find_backdated(refusals.call.contract, refusals.deliveries, drops)
    for drop, error in backdated.items():
        refusals.add(drop, error)
    return [drop for drop in drops if drop not in backdated]


def _read_batches(
    drops: Sequence[DropManifest], refusals: Refusals, large: list[DropManifest]
) -> Iterator[list[CheckedFile]]:
    """Yield good files until their text fills a batch; ``large`` gets those that turn out large."""
    batch: list[CheckedFile] = []
    n_bytes = 0
    for drop, data in _read(drops, refusals):
        try:
            file = check_file(refusals.call.contract, drop, data)
        except LargeFileError:
            large.append(drop)
            continue
        except Exception as error:  # noqa: BLE001  (_refuse decides whose fault it is)
            _refuse(drop, error, refusals)
            continue
        batch.append((drop, file))
        n_bytes += file.strings.nbytes
        if n_bytes >= BATCH_TEXT_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _read(
    drops: Sequence[DropManifest], refusals: Refusals
) -> Iterator[tuple[DropManifest, bytes]]:
    """Yield drops with their bytes, some read in parallel; oversized ones are not read."""
    group: list[DropManifest] = []
    n_bytes = 0
    for drop in drops:
        if _is_oversized(drop, refusals):
            continue
        size = refusals.deliveries.n_bytes[drop.data_key]
        if group and (n_bytes + size > _READ_BYTES or len(group) == _READ_FILES):
            yield from _read_group(group, refusals)
            group, n_bytes = [], 0
        group.append(drop)
        n_bytes += size
    yield from _read_group(group, refusals)


def _is_oversized(drop: DropManifest, refusals: Refusals) -> bool:
    """Return whether a drop is larger than its contract allows, and refuse it if so."""
    n_bytes = refusals.deliveries.n_bytes[drop.data_key]
    limit = refusals.call.contract.limits.bytes
    if n_bytes <= limit:
        return False
    refusals.add(drop, over_limit(drop, OverLimitError("bytes", limit, f"{n_bytes} bytes")))
    return True


def _read_group(
    drops: Sequence[DropManifest], refusals: Refusals
) -> Iterator[tuple[DropManifest, bytes]]:
    for drop, data in zip(drops, find_data(refusals.call.store, drops), strict=True):
        if data is None:
            # It was there when the folder was listed; the next run will not see it.
            logger.warning("%s was deleted before it was read", drop.data_key)
        else:
            yield drop, data


def _refuse(drop: DropManifest, error: Exception, refusals: Refusals) -> None:
    """Record the refusal that an exception amounts to.

    Raises:
        Exception: The same exception, if the file is not at fault.
    """
    refusal = refusal_of(refusals.call.contract, drop, error)
    if refusal is None:
        raise error
    refusals.add(drop, refusal)


def _check_together(batch: Sequence[CheckedFile], refusals: Refusals) -> Iterator[CheckedDrops]:
    """Yield checked files: all of them at once, or each alone if one makes the check fail."""
    drops, files = [drop for drop, _ in batch], [file for _, file in batch]
    try:
        rows = check_rows(refusals.call.contract, drops, files)
    except Exception as error:  # noqa: BLE001  (_refuse decides whose fault it is)
        if len(batch) == 1:
            _refuse(drops[0], error, refusals)
            return
        for member in batch:
            yield from _check_together([member], refusals)
        return
    for index, refusal in rows.errors.items():
        refusals.add(drops[index], refusal)
    yield CheckedDrops(drops, files, rows)


def _write_together(
    checked: CheckedDrops, indices: Sequence[int], refusals: Refusals
) -> set[dt.date]:
    """Load drops together, and one by one when gate or warehouse refuse them together."""
    if len(indices) == 1:
        drop = checked.drops[indices[0]]
        return _write(drop, partial(write_version, refusals.call, checked, indices), refusals)
    try:
        return write_version(refusals.call, checked, indices)
    except (ContractError, GateError) as error:
        if isinstance(error, GateError) and not refusals.is_late:
            raise
    published: set[dt.date] = set()
    for index in indices:
        published |= _write_together(checked, [index], refusals)
    return published


def _write(
    drop: DropManifest, write: Callable[[], set[dt.date]], refusals: Refusals
) -> set[dt.date]:
    """Load one drop; a refusal is recorded.

    Raises:
        GateError: The suite refused a drop that is not late.
    """
    try:
        return write()
    except ContractError as error:
        refusals.add(drop, error)
    except GateError as error:
        if not refusals.is_late:
            raise
        # The load itself is recorded as refused.
        refusals.codes[identity(drop)] = error.code
    return set()


def _split_into_loads(drops: Sequence[DropManifest], indices: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of drops that become one load: consecutive days, one drop each.

    Several versions of a day become several loads, in the order of delivery.
    """
    waves: list[dict[dt.date, int]] = []
    for index in indices:
        day = drops[index].partition
        wave = next((wave for wave in waves if day not in wave), None)
        if wave is None:
            wave = {}
            waves.append(wave)
        wave[day] = index
    for wave in waves:
        load: list[int] = []
        for day in sorted(wave):
            if load and day != drops[load[-1]].partition + dt.timedelta(days=1):
                yield load
                load = []
            load.append(wave[day])
        yield load
