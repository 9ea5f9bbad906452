"""Decide whether a partition trains: by schedule, or because the monitor requests it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nightshift.contracts.training_spec import Weekday
from nightshift.training.training_set import mature_window
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables.retrain_requests import open_requests, requests_closed_by
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    from nightshift.contracts.model_spec import ModelSpec
    from nightshift.contracts.partitions import Partition
    from nightshift.settings import Settings
    from nightshift.warehouse.connection import Connection

logger = logging.getLogger(__name__)

_WEEKDAYS = list(Weekday)


def is_due(settings: Settings, spec: ModelSpec, partition: Partition) -> bool:
    """Return whether this partition trains.

    It does when its schedule says so, when a retrain request of the monitor is open, or when it
    has closed one (a rerun). A weekly training that was missed stays due until a partition has
    trained. A warehouse whose history is shorter than ``training.first_days`` is never due: the
    rule scores its partitions.
    """
    training = spec.training
    with connect(settings, f"nightshift is_due {spec.name}"[:63]) as conn:
        published = published_loads(conn, spec.features_dataset, mature_window(spec, partition))
        if len(published) < training.first_days:
            logger.info(
                "%s has fewer published days than a first training needs, %s.",
                spec.features_dataset,
                training.first_days,
            )
            return False
        # ``weekly`` has its day; ``never`` trains on request only.
        if training.schedule == "nightly":
            return True
        if training.schedule == "weekly" and _is_due_this_week(conn, spec, partition):
            return True
        # A request that this partition has closed counts too: a rerun must train again.
        return bool(
            open_requests(conn, spec.name, partition)
            or requests_closed_by(conn, spec.name, partition)
        )


def _is_due_this_week(conn: Connection, spec: ModelSpec, partition: Partition) -> bool:
    """Return whether it is the model's weekday, or no partition has trained since that day."""
    # Python and ``Weekday`` both count from Monday.
    days_late = (partition.day.weekday() - _WEEKDAYS.index(spec.training.weekday)) % 7
    if days_late == 0:
        return True
    row = conn.execute(
        """
        select count(*), count(*) filter (where partition_date = %s) from ml.model_versions
        where model = %s and partition_date >= %s
        """,
        [partition.day, spec.name, partition.shift(-days_late).day],
    ).fetchone()
    n_versions, n_own = row or (0, 0)
    # A rerun of the partition that made up for a missed training must be due again.
    return bool(n_versions == 0 or n_own > 0)
