"""The conflict table of docs/adr/0011-faults-and-storms.md, a test for each cell."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from itertools import count, product

import pytest
from tests.chaos.write_path.storm import COLUMNS, INSERT, TARGET
from tests.databases import own_database

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext, code_version
from nightshift.errors import StaleTokenError
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect
from nightshift.warehouse.partition_write import (
    LoadManifest,
    PartitionWrite,
    PublishedLoad,
    audit,
    begin,
    publish,
)

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("conflicts")]


def by_airflow(dag_run: str, attempt: int) -> Callable[[str], RunContext]:
    """Return the identity of one try, as ``orchestration.task_scope.task_identity`` writes it."""
    return lambda key: RunContext(
        f"transform/{key}/build_features@{sha256(dag_run.encode()).hexdigest()[:6]}",
        attempt,
        "airflow",
    )


WHO = {
    "schedule": by_airflow("asset_triggered__2013-07-01T04:31:00", 1),
    "backfill": by_airflow("backfill__2013-07-01T09:00:00", 1),
    "rerun": by_airflow("asset_triggered__2013-07-01T04:31:00", 2),
    "by hand": lambda key: RunContext(f"backfill/{key}", 1, "cli:anna"),
}
WHERE = {
    "same partition": ((0, 0), (0, 0)),
    "other partition": ((0, 0), (1, 1)),
    "partition in range": ((1, 1), (0, 2)),
    "range over partition": ((0, 2), (1, 1)),
    "overlapping ranges": ((0, 2), (1, 3)),
}
_MONTHS = count()


@pytest.fixture(scope="module")
def conflicts(session_settings: Settings, template_database: str) -> Iterator[Settings]:
    """Return settings of a database with one dataset; each cell has days of its own."""
    os.environ["NIGHTSHIFT_CODE_VERSION"] = "test"
    code_version.cache_clear()
    with own_database(session_settings, template_database) as settings:
        with connect(settings) as conn:
            conn.execute(
                (
                    f"create table features.feat_thing ({COLUMNS},"
                    " primary key (partition_date, load_id, thing_id))"
                ).encode()
            )
        yield settings
    del os.environ["NIGHTSHIFT_CODE_VERSION"]
    code_version.cache_clear()


@dataclass
class Attempt:
    """One writer, in a thread of its own from staging on."""

    settings: Settings
    run: RunContext
    days: PartitionRange
    published: list[PublishedLoad] = field(default_factory=list)
    error: Exception | None = None

    def begin(self) -> PartitionWrite:
        with connect(self.settings, self.run.application_name) as conn:
            return begin(
                conn, [TARGET], self.days, LoadManifest(self.run, {"by": self.run.application_name})
            )

    def finish(self, write: PartitionWrite, both_audited: threading.Barrier) -> None:
        try:
            with connect(self.settings, self.run.application_name) as conn:
                for day in self.days.days:
                    conn.execute(
                        INSERT.format("feat_thing").encode(),
                        [day, write.load_id, float(write.load_id), 1, 20],
                    )
                audit(conn, write)
                both_audited.wait(20)
                self.published = publish(conn, write)
        except Exception as error:  # noqa: BLE001  (the test says which one it must be)
            self.error = error


def race(older: Attempt, newer: Attempt) -> float:
    """Let both begin in this order, then do the rest at the same time; return the seconds."""
    writes, barrier, began = [older.begin(), newer.begin()], threading.Barrier(2), time.monotonic()
    pairs = zip((older, newer), writes, strict=True)
    threads = [threading.Thread(target=one.finish, args=[write, barrier]) for one, write in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def visible(settings: Settings, days: PartitionRange) -> dict[str, tuple[int, int]]:
    """Return load and row count by day, as readers of the pointer see them."""
    with connect(settings) as conn:
        rows = conn.execute(
            """
            select partition_date::text, min(load_id), count(*) from features.feat_thing t
            join ops.published p using (partition_date, load_id)
            where partition_date between %s and %s group by 1
            """,
            [days.first.day, days.last.day],
        )
        return {day: (load_id, n_rows) for day, load_id, n_rows in rows}


@pytest.mark.promise("R11")
@pytest.mark.promise("R2")
@pytest.mark.parametrize(("first", "second", "where"), list(product(WHO, WHO, WHERE)))
def test_one_wins_and_the_other_is_told_when_two_write_at_once(
    conflicts, first, second, where, record_figure
):
    start = Partition.parse("2013-01-01").day + timedelta(days=10 * next(_MONTHS))
    ranges = [
        PartitionRange(Partition(start + timedelta(days=a)), Partition(start + timedelta(days=b)))
        for a, b in WHERE[where]
    ]
    older, newer = (
        Attempt(conflicts, WHO[who](days.first), days)
        for who, days in zip((first, second), ranges, strict=True)
    )

    seconds = race(older, newer)

    seen = visible(
        conflicts, PartitionRange(Partition(start), Partition(start + timedelta(days=9)))
    )
    assert newer.error is None
    assert [load.partition_date for load in newer.published] == newer.days.days
    if where == "other partition":
        assert older.error is None
        assert [load.partition_date for load in older.published] == older.days.days
        assert len(seen) == 2
    else:
        assert isinstance(older.error, StaleTokenError)
        assert older.error.code == "NS-WRITE-001"
        assert seen == {str(day): (newer.published[0].load_id, 20) for day in newer.days.days}
    assert seconds < conflicts.lock_timeout_seconds
    record_figure("conflict_cells", 1)
