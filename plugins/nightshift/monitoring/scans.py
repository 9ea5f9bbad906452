"""Scan the published rows of a partition once: for drift, and for the profiles that people read."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightshift.quality.profiles import LoadTable, keep_profile, profile_load, scan_load

if TYPE_CHECKING:
    from nightshift.contracts.run import RunContext
    from nightshift.quality.sketches.bin_counts import BinCounter, BinnedColumn
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


@dataclass
class PartitionScans:
    """The scans of one partition; each published load is read at most once.

    Attributes:
        settings: Where the warehouse is.
        conn: A connection outside of a transaction.
        day: The partition.
        run: Names the queries, and is recorded with the profiles.
    """

    settings: Settings
    conn: Connection
    day: dt.date
    run: RunContext
    _profiles: dict[LoadTable, dict[str, Sketch]] = field(default_factory=dict)

    def count(self, dataset: str, counter: BinCounter) -> dict[str, BinnedColumn]:
        """Count the bins of a dataset's published load; empty without rows.

        Raises:
            ProfileError: The partition is not published.
        """
        load = LoadTable.published(self.conn, dataset, self.day)
        profile = scan_load(self.settings, self.conn, load, self.run, counter)
        # The profile for people comes from the same scan, so the rows are read once.
        self._profiles[load] = profile
        return counter.columns(profile) if profile else {}

    def keep_profiles(self, datasets: Iterable[str]) -> None:
        """Store the profiles of the published loads."""
        for dataset in datasets:
            try:
                load = LoadTable.published(self.conn, dataset, self.day)
                profile = self._profiles.get(load)
                if profile is None:
                    # Not scanned: there is no champion, or no score of one.
                    profile_load(self.settings, self.conn, load, self.run)
                else:
                    keep_profile(self.conn, load, profile, self.run)
            # A view for people must not fail the task.
            except Exception as error:  # noqa: BLE001
                logger.warning("%s of %s has no profile: %s", dataset, self.day, error)
