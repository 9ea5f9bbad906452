"""Load the drops of a call: a few in memory at a time, and each file judged by itself.

Files are read and checked until their text fills a batch; a batch is loaded before the next one is
read, so that memory holds one batch, whatever the range. Rows of a batch are checked together,
which is what makes a year of small files fast; when that fails, or a load is refused, each file is
loaded alone, and only those at fault stay out. Source: docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from functools import partial
from typing import TYPE_CHECKING

from nightshift.ingestion.deliveries import identity
from nightshift.ingestion.large_drop import is_large, write_large
from nightshift.ingestion.raw_load import write_version
from nightshift.ingestion.rows.row_check import check_rows
from nightshift.ingestion.staging import CheckedDrops
from nightshift.lake.landing import find_data
from nightshift.quality.contract_check import DeliveredFile, LargeFileError, check_file
from nightshift.quality.contract_errors import ContractError
from nightshift.quality.gate_errors import GateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from nightshift.ingestion.refusals import Refusals
    from nightshift.lake.drops import DropManifest

logger = logging.getLogger(__name__)

# Text of the files that are checked together; their rows need about ten times as much until they
# are staged.
BATCH_TEXT_BYTES = 16 * 1024**2
# Files that are read in parallel, as they are stored in the lake.
_READ_BYTES = 8 * 1024**2
READ_FILES = 256

CheckedFile = tuple["DropManifest", DeliveredFile]


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
    for drop in refusals.without_backdated(drops):
        n_bytes = refusals.deliveries.n_bytes[drop.data_key]
        if is_large(drop, n_bytes):
            large.append(drop)
        else:
            small.append(drop)

    for batch in _read_batches(small, refusals, large):
        for checked in _check_together(batch, refusals):
            published |= _write_checked(checked, refusals)
    # Large ones last: unpacking finds further large drops among the small ones.
    for drop in sorted(large, key=identity):
        if refusals.has_refused_size(drop):
            continue
        write = partial(write_large, refusals.call, drop)
        published |= _write(drop, write, refusals)
    return published


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
        except Exception as error:  # noqa: BLE001  (add_fault decides whose fault it is)
            refusals.add_fault(drop, error)
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
        if refusals.has_refused_size(drop):
            continue
        size = refusals.deliveries.n_bytes[drop.data_key]
        if group and (n_bytes + size > _READ_BYTES or len(group) == READ_FILES):
            yield from _read_group(group, refusals)
            group, n_bytes = [], 0
        group.append(drop)
        n_bytes += size
    yield from _read_group(group, refusals)


def _read_group(
    drops: Sequence[DropManifest], refusals: Refusals
) -> Iterator[tuple[DropManifest, bytes]]:
    for drop, data in zip(drops, find_data(refusals.call.store, drops), strict=True):
        if data is None:
            # It was there when the folder was listed; the next run will not see it.
            logger.warning("%s was deleted before it was read", drop.data_key)
        else:
            yield drop, data


def _check_together(batch: Sequence[CheckedFile], refusals: Refusals) -> Iterator[CheckedDrops]:
    """Yield checked files: all of them at once, or each alone if one makes the check fail."""
    drops = [drop for drop, _ in batch]
    files = [file for _, file in batch]
    try:
        rows = check_rows(refusals.call.contract, drops, files)
    except Exception as error:  # noqa: BLE001  (add_fault decides whose fault it is)
        if len(batch) == 1:
            refusals.add_fault(drops[0], error)
            return
        # Alone, the file at fault is known.
        for member in batch:
            yield from _check_together([member], refusals)
        return
    for index, refusal in rows.errors.items():
        refusals.add(drops[index], refusal)
    yield CheckedDrops(drops, files, rows)


def _write_checked(checked: CheckedDrops, refusals: Refusals) -> set[dt.date]:
    """Load the drops that are not refused, as few loads as possible."""
    published: set[dt.date] = set()
    good = [i for i in range(len(checked.drops)) if i not in checked.rows.errors]
    for indices in _split_into_loads(checked.drops, good):
        published |= _write_together(checked, indices, refusals)
    return published


def _write_together(
    checked: CheckedDrops, indices: Sequence[int], refusals: Refusals
) -> set[dt.date]:
    """Load drops together, and one by one when gate or warehouse refuse them together."""
    write = partial(write_version, refusals.call, checked, indices)
    if len(indices) == 1:
        return _write(checked.drops[indices[0]], write, refusals)
    try:
        return write()
    except ContractError:
        # Which of them it is, each load of one drop tells below.
        logger.info("The warehouse refuses %s drops together; each is tried alone.", len(indices))
    except GateError:
        if not refusals.is_late:
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
        yield from _consecutive(wave)


def _consecutive(index_of_day: Mapping[dt.date, int]) -> Iterator[list[int]]:
    """Yield the indices of days in order, a new list after each gap."""
    load: list[int] = []
    previous: dt.date | None = None
    for day, index in sorted(index_of_day.items()):
        if previous and day - previous != dt.timedelta(days=1):
            yield load
            load = []
        load.append(index)
        previous = day
    yield load
