"""Refused files of a call: recorded at once, raised at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.ingestion.deliveries import Deliveries, Identity, find_backdated, identity
from nightshift.ingestion.file_faults import refusal_of
from nightshift.ingestion.ingest_call import IngestCall
from nightshift.quality.contract_errors import over_limit
from nightshift.quality.files.decompression import OverLimitError
from nightshift.quality.quarantine import keep_drop, keep_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nightshift.errors import NightshiftError
    from nightshift.lake.drops import DropManifest


@dataclass
class Refusals:
    """Refused files of a call.

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
        uri = self.call.store.uri(drop.data_key)
        keep_drop(self.call.conn, drop, uri, error, self.call.run)
        self.codes[identity(drop)] = error.code
        if self.deliveries.newest.get(drop.partition) == drop:
            self.block(error)

    def add_fault(self, drop: DropManifest, error: Exception) -> None:
        """Record the refusal that an exception amounts to.

        Raises:
            Exception: The same exception, if the file is not at fault.
        """
        refusal = refusal_of(self.call.contract, drop, error)
        if refusal is None:
            raise error
        self.add(drop, refusal)

    def add_wrong_manifests(self) -> None:
        """Record the manifests that describe no drop."""
        for wrong in self.deliveries.wrong:
            uri = self.call.store.uri(wrong.object.key)
            keep_manifest(self.call.conn, self.call.contract.name, wrong, uri, self.call.run)

    def without_backdated(self, drops: Sequence[DropManifest]) -> list[DropManifest]:
        """Refuse the backdated drops and return the rest."""
        backdated = find_backdated(self.call.contract, self.deliveries, drops)
        for drop, error in backdated.items():
            self.add(drop, error)
        return [drop for drop in drops if drop not in backdated]

    def has_refused_size(self, drop: DropManifest) -> bool:
        """Return whether a drop is larger than its contract allows, and refuse it if so."""
        n_bytes = self.deliveries.n_bytes[drop.data_key]
        limit = self.call.contract.limits.bytes
        if n_bytes <= limit:
            return False
        error = OverLimitError("bytes", limit, f"{n_bytes} bytes")
        self.add(drop, over_limit(drop, error))
        return True

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
