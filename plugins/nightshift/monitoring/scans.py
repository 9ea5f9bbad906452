"""Scan the published rows of a partition once: for drift, and for the profiles that people read."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.metrics import Task
from nightshift.quality.column_order import OrderCounter
from nightshift.quality.column_summary import ColumnSummary, summarize
from nightshift.quality.profiles import LoadTable, keep_profile, profile_load, scan_load
from nightshift.quality.stored_summaries import keep_order
from nightshift.scoring.level.level_records import published_shift

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.quality.column_order import ColumnOrder
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)


class Scan(NamedTuple):
    """What one scan learnt of a load: a sketch per column, and how the columns compare."""

    profile: Mapping[str, Sketch]
    order: ColumnOrder

    def summaries(self, names: Collection[str]) -> dict[str, ColumnSummary]:
        """Return the summaries of some columns, in the table's order."""
        sketches = self.profile.items()
        return {name: summarize(sketch) for name, sketch in sketches if name in names}


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
    _scans: dict[LoadTable, Scan] = field(default_factory=dict)

    def scan(self, dataset: str, types: Mapping[str, str]) -> Scan:
        """Scan a dataset's published load; its profile is empty without rows.

        Args:
            dataset: Name in the ledger.
            types: PostgreSQL's type as which a column is read, where it is not its own.

        Raises:
            ProfileError: The partition is not published.
        """
        load = LoadTable.published(
            self.conn,
            dataset,
            self.day,
        )
        if load not in self._scans:
            self._scans[load] = scan_with_order(
                self.settings,
                self.conn,
                load,
                self.run,
                types,
            )
        return self._scans[load]

    def keep_profiles(self, datasets: Iterable[str]) -> None:
        """Store the profiles of the published loads."""
        for dataset in datasets:
            try:
                load = LoadTable.published(
                    self.conn,
                    dataset,
                    self.day,
                )
                scan = self._scans.get(load)
                if scan is None:
                    # Not scanned: there is no champion, or no score of one.
                    profile_load(
                        self.settings,
                        self.conn,
                        load,
                        self.run,
                    )
                else:
                    keep_scan(
                        self.conn,
                        load,
                        scan,
                        self.run,
                    )
            # A view for people must not fail the task.
            except Exception as error:  # noqa: BLE001
                logger.warning(
                    "%s of %s has no profile: %s",
                    dataset,
                    self.day,
                    error,
                )


def feature_types(spec: ModelSpec) -> dict[str, str]:
    """Return PostgreSQL's type of each feature as the model reads it."""
    categories = dict.fromkeys(
        [feature.name for feature in spec.features.categorical],
        "text",
    )
    return (
        dict.fromkeys(
            spec.features.numeric,
            "float8",
        )
        | categories
    )


def scan_with_order(
    settings: Settings,
    conn: Connection,
    load: LoadTable,
    run: RunContext,
    types: Mapping[str, str],
) -> Scan:
    """Scan one partition of a load."""
    counter = OrderCounter()
    profile = scan_load(
        settings,
        conn,
        load,
        run,
        counter,
        types,
    )
    return Scan(profile, counter.order())


def keep_scan(conn: Connection, load: LoadTable, scan: Scan, run: RunContext) -> None:
    """Store a scan; what is stored already stays."""
    keep_profile(
        conn,
        load,
        scan.profile,
        run,
    )
    if scan.profile and load.schema == "features":
        keep_order(
            conn,
            load.dataset,
            load.day,
            load.load_id,
            scan.order,
        )


def without_night_level(
    conn: Connection, spec: ModelSpec, partition: Partition, scores: Mapping[str, ColumnSummary]
) -> dict[str, ColumnSummary]:
    """Return the summaries of published scores as the version alone would have given them.

    The scores of the training rows have no level of a night, so its level is no drift.
    """
    # The score of a binary model is not moved.
    if spec.task is Task.BINARY:
        return dict(scores)
    shift = published_shift(conn, spec, partition)
    return {name: summary.moved(-shift) for name, summary in scores.items()}
