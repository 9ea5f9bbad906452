"""What readers see, before and after a reprocessing: the partitions whose content changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

    Hashes = Mapping[tuple[str, dt.date], str]


@dataclass(frozen=True)
class Change:
    """One partition whose published content has changed.

    Attributes:
        dataset: Name in the ledger.
        day: The partition.
        before: Content hash that readers saw, None if there was nothing.
        after: Content hash that they see now.
    """

    dataset: str
    day: dt.date
    before: str | None
    after: str


def published_hashes(conn: Connection) -> Hashes:
    """Return the content hash that readers see of every partition, by dataset and day."""
    # The pointers of all datasets, not the rows of one: join_published does not serve here.
    rows = conn.execute(
        """
        select p.dataset, p.partition_date, l.content_hash
        from ops.published p join ops.loads l using (dataset, partition_date, load_id)
        """
    )
    return {(dataset, day): content_hash for dataset, day, content_hash in rows}


def find_changes(before: Hashes, after: Hashes) -> tuple[Change, ...]:
    """Return the partitions whose content differs, by dataset and day."""
    changes = []
    for partition in sorted(after):
        earlier_hash = before.get(partition)
        if earlier_hash != after[partition]:
            changes.append(Change(*partition, earlier_hash, after[partition]))
    return tuple(changes)
