"""The drops of a range, listed for assertions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightshift.lake.landing import read_landing

if TYPE_CHECKING:
    from nightshift.contracts.partitions import PartitionRange
    from nightshift.lake.drops import DropManifest
    from nightshift.lake.object_store import ObjectStore


def list_drops(store: ObjectStore, dataset: str, partitions: PartitionRange) -> list[DropManifest]:
    """Return the delivered drops; raise the error of a wrong manifest."""
    landing = read_landing(store, dataset, partitions)
    for wrong in landing.wrong:
        raise wrong.error
    return list(landing.drops)
