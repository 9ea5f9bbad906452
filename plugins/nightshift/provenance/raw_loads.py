"""The raw versions that a feature load was built from, and those that its partition saw."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightshift.transformation.feature_manifest import FeatureLoad
    from nightshift.warehouse.connection import Connection


@dataclass(frozen=True)
class RawLoad:
    """One version of one raw partition.

    Attributes:
        dataset: Name in the ledger.
        day: The partition.
        known_at: When it was delivered, UTC.
        load_id: The load that holds its rows.
    """

    dataset: str
    day: dt.date
    known_at: dt.datetime
    load_id: int


def read_raw_loads(conn: Connection, load_ids: Collection[int]) -> list[RawLoad]:
    """Return every version that some loads of raw data hold."""
    # What readers see now does not matter: a build read the versions that its manifest names.
    rows = conn.execute(
        """
        select dataset, partition_date, known_at, load_id from ops.loads
        where dataset like 'raw/%%' and load_id = any(%s) and state in ('published', 'duplicate')
        """,
        [sorted(load_ids)],
    )
    return [RawLoad(*row) for row in rows]


def visible_loads(
    raw_loads: Iterable[RawLoad], among: Collection[int], load: FeatureLoad
) -> list[RawLoad]:
    """Return the version of each drop that a partition sees: the last one known at its as-of.

    Args:
        raw_loads: All versions.
        among: Ids of the loads that the build may read.
        load: The feature load of the partition.

    Returns:
        By dataset and day.
    """
    visible: dict[tuple[str, dt.date], RawLoad] = {}
    for raw in raw_loads:
        if raw.load_id not in among or raw.day > load.day or raw.known_at > load.as_of:
            continue
        drop = (raw.dataset, raw.day)
        newest = visible.setdefault(drop, raw)
        # Two versions may have come at the same instant: the later load counts.
        if (raw.known_at, raw.load_id) > (newest.known_at, newest.load_id):
            visible[drop] = raw
    return [visible[drop] for drop in sorted(visible)]
