"""Load the drops of a call: a few in memory at a time, each file judged by itself.

Files are read and checked until their text fills a batch; a batch is loaded before the next one is
read, so that memory knows one batch, whatever the range. Rows of a batch are checked together,
which is what makes a year of small files fast; when that fails, or a load is refused, each file is
taken alone, and only those at fault stay out. Source: docs/adr/0040-hostile-drops.md.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.ingestion.deliveries import Deliveries, Identity, identity
from nightshift.ingestion.drop_guard import refusal_of
from nightshift.ingestion.large_drop import is_large, write_large
from nightshift.ingestion.raw_load import CheckedDrops, IngestCall, write_version
from nightshift.ingestion.row_check import check_rows
from nightshift.lake.landing import find_data
from nightshift.quality.contract_check import DeliveredFile, LargeFileError, check_file
from nightshift.quality.contract_errors import ContractError, over_limit
from nightshift.quality.files.decompression import OverLimitError
from nightshift.quality.gate_errors import GateError
from nightshift.quality.quarantine import keep_drop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nightshift.errors import NightshiftError
    from nightshift.lake.drops import DropManifest

logger = logging.getLogger(__name__)

BATCH_TEXT_BYTES = 16 * 1024**2
"""Text of the files that are checked together; their rows need about ten times as much until
they are staged.
"""
_READ_BYTES = 8 * 1024**2
"""Files that are read in parallel, as they lie in the lake."""
_READ_FILES = 256

Checked = tuple["DropManifest", DeliveredFile]


@dataclass
class Refusals:
    """Files of a call that are refused: recorded at once, told at the end.

    Attributes:
        call: What all loads of the call share.
        deliveries: The range.
        is_late: Nothing is told: tonight does not need a late drop, so its refusal reddens nothing.
        codes: Code of the refusal by drop.
    """

    call: IngestCall
    deliveries: Deliveries
    is_late: bool
    codes: dict[Identity, str] = field(default_factory=dict)
    _standing: list[NightshiftError] = field(default_factory=list)

    def add(self, drop: DropManifest, error: NightshiftError) -> None:
        """Record a refused file; it counts when no later drop of its partition stands for it."""
        keep_drop(self.call.conn, drop, self.call.store.uri(drop.data_key), error, self.call.run)
        self.codes[identity(drop)] = error.code
        if self.deliveries.newest.get(drop.partition) == drop:
            self._standing.append(error)

    def stand(self, error: NightshiftError) -> None:
        """Add an error for which no drop stands."""
        self._standing.append(error)

    def raise_first(self) -> None:
        """Raise what stopped a partition, after all others are in.

        Raises:
            NightshiftError: The first of them.
        """
        if self._standing and not self.is_late:
            raise self._standing[0]


def load_drops(drops: Sequence[DropManifest], refusals: Refusals) -> set[dt.date]:
    """Load drops and return the days that got a new version; refused ones are recorded.

    Args:
        drops: Drops that are not in yet, in their order.
        refusals: The call, and what becomes of those that are not loaded.

    Raises:
        GateError: The suite refused the rows of a call that is not late.
        NightshiftError: Store, warehouse or machine failed; nothing is recorded against a file.
    """
    call, sizes = refusals.call, refusals.deliveries.n_bytes
    published: set[dt.date] = set()
    large = [drop for drop in drops if is_large(drop, sizes[drop.data_key])]
    small = [drop for drop in drops if not is_large(drop, sizes[drop.data_key])]
    for batch in _batches(small, refusals, large):
        for checked in _check_together(batch, refusals):
            good = [
                place for place in range(len(checked.drops)) if place not in checked.rows.errors
            ]
            for places in _loads(checked.drops, good):
                published |= _write(call, checked, places, refusals)
    for drop in sorted(large, key=identity):
        published |= _write_large(call, drop, refusals)
    return published


def _batches(
    drops: Sequence[DropManifest], refusals: Refusals, large: list[DropManifest]
) -> Iterator[list[Checked]]:
    """Yield good files until their text fills a batch; those that turn out large go to ``large``."""
    batch: list[Checked] = []
    n_bytes = 0
    for drop, data in _read(drops, refusals):
        file = _check(drop, data, refusals, large)
        if file is None:
            continue
        batch.append((drop, file))
        n_bytes += file.texts.nbytes
        if n_bytes >= BATCH_TEXT_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def _read(
    drops: Sequence[DropManifest], refusals: Refusals
) -> Iterator[tuple[DropManifest, bytes]]:
    """Yield drops with their bytes, some read ahead; what is too large for its contract is not read."""
    sizes, limits = refusals.deliveries.n_bytes, refusals.call.contract.limits
    together: list[DropManifest] = []
    n_bytes = 0
    for drop in drops:
        size = sizes[drop.data_key]
        if size > limits.bytes:
            refusals.add(
                drop, over_limit(drop, OverLimitError("bytes", limits.bytes, f"{size} bytes"))
            )
            continue
        if together and (n_bytes + size > _READ_BYTES or len(together) == _READ_FILES):
            yield from _read_together(together, refusals)
            together, n_bytes = [], 0
        together.append(drop)
        n_bytes += size
    yield from _read_together(together, refusals)


def _read_together(
    drops: Sequence[DropManifest], refusals: Refusals
) -> Iterator[tuple[DropManifest, bytes]]:
    for drop, data in zip(drops, find_data(refusals.call.store, drops), strict=True):
        if data is None:  # it was there when the folder was listed; the next run will not see it
            logger.warning("%s was taken away while it was to be read", drop.data_key)
        else:
            yield drop, data


def _check(
    drop: DropManifest, data: bytes, refusals: Refusals, large: list[DropManifest]
) -> DeliveredFile | None:
    contract = refusals.call.contract
    try:
        return check_file(contract, drop, data)
    except LargeFileError:
        large.append(drop)
    except Exception as error:  # noqa: BLE001  (whose fault it is, is decided there)
        _refuse(drop, error, refusals)
    return None


def _refuse(drop: DropManifest, error: Exception, refusals: Refusals) -> None:
    """Record the refusal that an exception amounts to.

    Raises:
        Exception: The same, if the file is not at fault.
    """
    refusal = refusal_of(refusals.call.contract, drop, error)
    if refusal is None:
        raise error
    refusals.add(drop, refusal)


def _check_together(batch: Sequence[Checked], refusals: Refusals) -> Iterator[CheckedDrops]:
    """Yield checked files: all of them at once, or each alone if one makes the check fail."""
    drops, files = [drop for drop, _ in batch], [file for _, file in batch]
    try:
        rows = check_rows(refusals.call.contract, drops, files)
    except Exception as error:  # noqa: BLE001  (one file of them, or something else)
        if len(batch) == 1:
            _refuse(drops[0], error, refusals)
            return
        for one in batch:
            yield from _check_together([one], refusals)
        return
    for place, refusal in rows.errors.items():
        refusals.add(drops[place], refusal)
    yield CheckedDrops(drops, files, rows)


def _write(
    call: IngestCall, checked: CheckedDrops, places: Sequence[int], refusals: Refusals
) -> set[dt.date]:
    """Load drops together, and one by one when gate or warehouse refuse them together."""
    try:
        return write_version(call, checked, places)
    except (ContractError, GateError) as error:
        if isinstance(error, GateError) and not refusals.is_late:
            raise
        if len(places) > 1:
            return {day for place in places for day in _write(call, checked, [place], refusals)}
        _record_refused_load(checked.drops[places[0]], error, refusals)
        return set()


def _write_large(call: IngestCall, drop: DropManifest, refusals: Refusals) -> set[dt.date]:
    size, most = refusals.deliveries.n_bytes[drop.data_key], call.contract.limits.bytes
    if size > most:
        refusals.add(drop, over_limit(drop, OverLimitError("bytes", most, f"{size} bytes")))
        return set()
    try:
        return write_large(call, drop)
    except (ContractError, GateError) as error:
        if isinstance(error, GateError) and not refusals.is_late:
            raise
        _record_refused_load(drop, error, refusals)
        return set()


def _record_refused_load(
    drop: DropManifest, error: ContractError | GateError, refusals: Refusals
) -> None:
    if isinstance(error, GateError):  # the load itself is recorded as refused
        refusals.codes[identity(drop)] = error.code
    else:
        refusals.add(drop, error)


def _loads(drops: Sequence[DropManifest], places: Sequence[int]) -> Iterator[list[int]]:
    """Yield the places of drops that become one load: consecutive days, one drop each, versions of a day in the order of delivery."""
    waves: list[dict[dt.date, int]] = []
    for place in places:
        day = drops[place].partition
        wave = next((wave for wave in waves if day not in wave), None)
        if wave is None:
            wave = {}
            waves.append(wave)
        wave[day] = place
    for wave in waves:
        days = sorted(wave)
        breaks = [
            i for i, day in enumerate(days) if i == 0 or day != days[i - 1] + dt.timedelta(days=1)
        ]
        for start, end in zip(breaks, [*breaks[1:], len(days)], strict=True):
            yield [wave[day] for day in days[start:end]]
