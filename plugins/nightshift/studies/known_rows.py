"""Labelled feature rows as the newest published partition knows them; nothing is written."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.errors import NightshiftError
from nightshift.training.feature_query import features_target
from nightshift.training.training_query import TrainingQuery, feature_as_of
from nightshift.training.training_set import mature_window
from nightshift.warehouse.damage import published_records, refuse_damaged
from nightshift.warehouse.published import newest_published_day

if TYPE_CHECKING:
    import pyarrow as pa

    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection


class NoKnownRowsError(NightshiftError):
    """There are no mature, labelled rows on the requested days."""

    code = "NS-STUDY-001"


@dataclass(frozen=True)
class KnownRows:
    """Labelled rows of some feature partitions.

    Attributes:
        rows: Every column of the feature view and the label, by partition and entity key.
        window: Their partitions; the predicted day is the day after each.
        as_of: Cut-off of the labels, UTC, included.
    """

    rows: pa.Table
    window: PartitionRange
    as_of: dt.datetime


def newest_partition(conn: Connection, spec: ModelSpec) -> Partition:
    """Return the newest partition whose features are published.

    Raises:
        NoKnownRowsError: There is none.
    """
    day = newest_published_day(conn, spec.features_dataset)
    if day is None:
        raise NoKnownRowsError(
            f"No partition of {spec.features_dataset} is published.",
            todo="Build features: `nightshift backfill <first> <last>`.",
        )
    return Partition(day)


def read_known_rows(
    settings: Settings,
    conn: Connection,
    spec: ModelSpec,
    window: PartitionRange,
    name: str,
) -> KnownRows:
    """Return the labelled rows of the published days of a window.

    Args:
        settings: The warehouse.
        conn: A connection to it.
        spec: The model.
        window: Feature partitions; days after the last mature one are left out.
        name: Shown by the warehouse.

    Raises:
        NoKnownRowsError: No row of the window has a mature label.
        DamagedInputError: Published feature rows vanished or changed.
    """
    known_on = newest_partition(conn, spec)
    last_mature = mature_window(spec, known_on).last
    last = min(window.last, last_mature)
    loads = []
    if window.first <= last:
        window = PartitionRange(window.first, last)
        loads = published_records(conn, spec.features_dataset, window.days)
    # Rows that changed since their publication would be measured silently.
    refuse_damaged(conn, features_target(spec), loads)
    as_of = feature_as_of(conn, spec, known_on)
    query = TrainingQuery(conn, spec, window, known_on, as_of)
    rows = query.read(settings, query.rows(sampled_share=1.0), name)
    if not loads or not rows.num_rows:
        raise NoKnownRowsError(
            f"{spec.name} has no labelled rows on {window}.",
            expected=f"published features until {last_mature}, with mature labels",
            todo="Choose other days, or wait until their labels are mature.",
        )
    return KnownRows(rows, window, as_of)
