"""Scan the published rows of a partition once: for drift, and for the profiles that people read."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from nightshift.contracts.metrics import Task
from nightshift.errors import WarehouseError
from nightshift.quality.column_order import OrderCounter
from nightshift.quality.column_summary import ColumnSummary, summarize
from nightshift.quality.profiles import (
    LoadTable,
    keep_profile,
    own_stream,
    profile_load,
    scan_load,
    shared_stream,
)
from nightshift.quality.stored_summaries import keep_order, ordered_days
from nightshift.scoring.level.level_records import published_shift
from nightshift.warehouse.schema_lock import try_session_lock

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.contracts.run import RunContext
    from nightshift.quality.column_order import ColumnOrder
    from nightshift.quality.profiles import Stream
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""First pause before it is looked again whether another process has profiled a load."""
WAIT_SECONDS = 600.0
"""How long another process may take for them: a task of Airflow has thirty minutes."""


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

    def scan(self, dataset: str, types: Mapping[str, str], left_out: str = "") -> Scan:
        """Scan a dataset's published load; its profile is empty without rows.

        Args:
            dataset: Name in the ledger.
            types: PostgreSQL's type as which a column is read, where it is not its own.
            left_out: Value of ``score_source`` whose rows are not read.

        Raises:
            ProfileError: The partition is not published.
        """
        published = LoadTable.published(self.conn, dataset, self.day)
        # The kept profile is that of all rows: it is another scan.
        load = replace(published, left_out=left_out)
        if load not in self._scans:
            stream = own_stream(self.settings, self.run)
            self._scans[load] = scan_with_order(
                self.conn,
                load,
                stream,
                types,
            )
        return self._scans[load]

    def keep_profiles(self, datasets: Iterable[str]) -> None:
        """Store the profiles of the published loads."""
        for dataset in datasets:
            try:
                load = LoadTable.published(self.conn, dataset, self.day)
                scan = self._scans.get(load)
                if scan is None:
                    # Not scanned: there is no champion, or no score of one.
                    profile_load(self.settings, self.conn, load, self.run)
                else:
                    keep_profile(self.conn, load, scan.profile, self.run)
            # A view for people must not fail the task.
            except Exception as error:  # noqa: BLE001
                logger.warning("%s of %s has no profile: %s", dataset, self.day, error)


def feature_types(spec: ModelSpec) -> dict[str, str]:
    """Return PostgreSQL's type of each feature as the model reads it."""
    categories = dict.fromkeys(
        [feature.name for feature in spec.features.categorical],
        "text",
    )
    return dict.fromkeys(spec.features.numeric, "float8") | categories


def scan_with_order(
    conn: Connection,
    load: LoadTable,
    stream: Stream,
    types: Mapping[str, str],
) -> Scan:
    """Scan one partition of a load."""
    counter = OrderCounter()
    profile = scan_load(
        conn,
        load,
        stream,
        counter,
        types,
    )
    return Scan(profile, counter.order())


def keep_features(conn: Connection, load: LoadTable, scan: Scan, run: RunContext) -> None:
    """Store the scan of a feature load, instead of a profile that has no order."""
    # One transaction: whoever sees the order finds the summaries of the same scan.
    with conn.transaction():
        # Its columns were read as they are stored, not as a model reads them.
        conn.execute(
            """
            delete from monitoring.profiles p
            where (dataset, partition_date, load_id) = (%s, %s, %s) and not exists (
                select from monitoring.column_orders o
                where (o.dataset, o.partition_date, o.load_id)
                    = (p.dataset, p.partition_date, p.load_id))
            """,
            [load.dataset, load.day, load.load_id],
        )
        keep_profile(conn, load, scan.profile, run)
        keep_order(conn, load.dataset, load.day, load.load_id, scan.order)


def profile_missing(
    settings: Settings,
    conn: Connection,
    spec: ModelSpec,
    run: RunContext,
    loads: Mapping[dt.date, int],
) -> None:
    """Scan the feature loads that no model of the view has monitored, each in one process only.

    Args:
        settings: Where the warehouse is.
        conn: A connection outside of a transaction.
        spec: The model.
        run: Recorded with the profiles.
        loads: Load id by day; most of them were profiled when they were monitored.
    """
    dataset = spec.features_dataset
    deadline = time.monotonic() + WAIT_SECONDS
    pause = POLL_SECONDS
    # Also a load without rows, of which nothing is kept.
    done: set[dt.date] = set()
    while waiting := set(loads) - done - ordered_days(conn, dataset, loads):
        is_idle = True
        # One connection for all: the first verdict of a model scans the nights of its training.
        with shared_stream(settings, run) as stream:
            for day in sorted(waiting):
                load = LoadTable(dataset, "features", spec.feature_table, loads[day], day)
                name = f"profile {dataset} {day} {load.load_id}"
                with try_session_lock(conn, name) as is_ours:
                    # Two models of a view share the work: each takes what the other has not.
                    if is_ours:
                        _profile_once(conn, spec, run, load, stream)
                        done.add(day)
                        is_idle = False
        if is_idle:
            if time.monotonic() > deadline:
                raise WarehouseError(
                    f"Another session holds the profiles of {len(waiting)} night(s).",
                    expected=f"their end within {WAIT_SECONDS:.0f} s",
                    got=f"{min(waiting)} is still held",
                    todo="Clear the task later; look for the session in pg_stat_activity.",
                )
            time.sleep(pause)
            pause = min(2 * pause, 10 * POLL_SECONDS)


def _profile_once(
    conn: Connection,
    spec: ModelSpec,
    run: RunContext,
    load: LoadTable,
    stream: Stream,
) -> None:
    if ordered_days(conn, load.dataset, {load.day: load.load_id}):
        return
    scan = scan_with_order(conn, load, stream, feature_types(spec))
    if scan.profile:
        keep_features(conn, load, scan, run)


def without_night_level(
    conn: Connection,
    spec: ModelSpec,
    partition: Partition,
    version: int,
    scores: Mapping[str, ColumnSummary],
) -> dict[str, ColumnSummary]:
    """Return the summaries of published scores as the version alone would have given them.

    The scores of the training rows have no level of a night, so its level is no drift.
    """
    # Only the score of a regression is moved.
    if spec.task is not Task.REGRESSION:
        return dict(scores)
    shift = published_shift(conn, spec, partition, version)
    return {name: summary.moved(-shift) for name, summary in scores.items()}
