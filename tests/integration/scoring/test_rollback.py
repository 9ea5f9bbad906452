"""An earlier champion is put back.

And what its successors published becomes what it would have published.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.databases import copied, own_database
from tests.integration.scoring.conftest import Registry, open_registry, publish_features

from nightshift.contracts.model_spec import ModelSpec
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.registry.champions import champion_for, promoted_versions
from nightshift.registry.rollback import RollbackRefusedError, history
from nightshift.scoring.pipeline import score
from nightshift.scoring.republish import RollbackResult, plan_rollback, roll_back
from nightshift.settings import Settings
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("quick_gate")]
DAYS = PartitionRange.of("2013-07-02", "2013-07-04")
OLD, NEW = "2013-07-02", "2013-07-03"
RUN = RunContext("rollback/test", 1, "on-call")


def rolled_back(
    settings: Settings, spec: ModelSpec, version: int, since: str | None = None
) -> RollbackResult:
    """Put a version back, as the command does."""
    plan = plan_rollback(settings, spec, version, Partition.parse(since) if since else None, RUN)
    return roll_back(settings, spec, plan, "the scores look wrong", RUN)


def published(conn: Connection) -> dict[str, tuple[str, int]]:
    """Return content hash and model version of what readers see, by day."""
    rows = conn.execute(
        "select p.partition_date::text, l.content_hash, min(t.model_version) from ops.published p"
        " join ops.loads l using (dataset, partition_date, load_id) join predictions.parcel_late"
        " t using (partition_date, load_id)"
        " where p.dataset = 'predictions/parcel_late' group by 1, 2 order by 1"
    )
    return {day: (content_hash, version) for day, content_hash, version in rows}


@pytest.fixture(scope="module")
def state(
    session_settings: Settings, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, dict[str, tuple[str, int]]]]:
    """Let version 1 score three nights, then version 2 the last two of them.

    Return a database to be copied, and what version 1 had published.
    """
    with own_database(session_settings, template_database) as own:
        with open_registry(own, tmp_path_factory.mktemp("suites")) as registry:
            publish_features(registry.conn, DAYS)
            registry.promote(OLD, seed=1)
            for night in DAYS:
                score(registry.settings, registry.spec, PartitionRange.single(night), RUN)
            before = published(registry.conn)
            registry.promote(NEW, seed=2)
            rolled_back(registry.settings, registry.spec, 2, NEW)
            assert {day: version for day, (_, version) in published(registry.conn).items()} == {
                day.key: 1 if day.key < NEW else 2 for day in DAYS
            }
        yield own, before


@pytest.fixture
def settings(state: tuple[Settings, dict[str, tuple[str, int]]]) -> Iterator[Settings]:
    """Return settings of a copy of what two versions have scored."""
    with copied(state[0]) as own:
        yield own


@pytest.fixture
def warehouse(conn: Connection) -> Connection:
    """Return the copy, which has all relations."""
    return conn


@pytest.fixture
def scored_by_two(
    state: tuple[Settings, dict[str, tuple[str, int]]],
) -> dict[str, tuple[str, int]]:
    """Return what version 1 had published before version 2 scored its nights."""
    return state[1]


@pytest.mark.promise("R19")
@pytest.mark.mlts("infra-7")
def test_tables_are_what_the_old_version_would_have_published(
    conn: Connection, registry: Registry, spec: ModelSpec, scored_by_two: dict[str, tuple[str, int]]
) -> None:
    repaired = rolled_back(registry.settings, spec, 1)
    assert published(conn) == scored_by_two
    assert [load.partition_date.isoformat() for load in repaired.published] == [
        "2013-07-03",
        "2013-07-04",
    ]

    last = history(conn, spec.name)[-1]
    assert (
        last.version,
        last.verdict,
        last.champion_version,
        last.effective_partition.isoformat(),
    ) == (1, "rolled_back", 2, NEW)
    assert (last.actor, list(last.reasons), last.stands) == (
        "on-call",
        ["the scores look wrong"],
        True,
    )
    assert [entry.stands for entry in history(conn, spec.name)] == [True, False, False, True]


def test_content_is_the_same_when_no_load_was_kept(
    conn: Connection, registry: Registry, spec: ModelSpec, scored_by_two: dict[str, tuple[str, int]]
) -> None:
    conn.execute(
        "update ops.loads set collected_at = clock_timestamp() where dataset ="
        " 'predictions/parcel_late'"
    )
    plan = plan_rollback(registry.settings, spec, 1, None, RUN)
    assert [run.reusable_loads for run in plan.partition_runs] == [()]
    roll_back(registry.settings, spec, plan, "again", RUN)
    assert published(conn) == scored_by_two


def test_nights_after_it_are_scored_by_the_old_version_and_a_rerun_changes_nothing(
    conn: Connection, registry: Registry, spec: ModelSpec, scored_by_two: dict[str, tuple[str, int]]
) -> None:
    rolled_back(registry.settings, spec, 1)
    record = history(conn, spec.name)
    rolled_back(registry.settings, spec, 1)
    score(registry.settings, spec, DAYS, RUN)
    assert published(conn) == scored_by_two
    assert history(conn, spec.name) == record
    assert (champion := champion_for(conn, spec.name, Partition.parse("2013-07-09"))) is not None
    assert champion.version == 1
    assert promoted_versions(conn, spec.name, Partition.parse("2013-07-09"), 2) == [1]


def test_nothing_moves_when_the_old_version_is_corrupt(
    conn: Connection, registry: Registry, spec: ModelSpec, scored_by_two: dict[str, tuple[str, int]]
) -> None:
    from nightshift.registry.model_versions import find_version

    registry.corrupt(find_version(conn, spec.name, 1))
    before, record = published(conn), history(conn, spec.name)
    with pytest.raises(RollbackRefusedError, match="version 1 cannot score"):
        rolled_back(registry.settings, spec, 1)
    assert published(conn) == before
    assert history(conn, spec.name) == record


def test_it_is_refused_when_it_cannot_mean_anything(
    conn: Connection, registry: Registry, spec: ModelSpec, scored_by_two: dict[str, tuple[str, int]]
) -> None:
    before = published(conn)
    for version, since, message in (
        (3, None, "no former champion"),
        (2, OLD, "would know the future"),
    ):
        with pytest.raises(RollbackRefusedError, match=message):
            rolled_back(registry.settings, spec, version, since)
    assert published(conn) == before


@pytest.mark.promise("R3")
def test_readers_see_no_mixture_while_it_runs(
    conn: Connection, registry: Registry, spec: ModelSpec, scored_by_two: dict[str, tuple[str, int]]
) -> None:
    seen: list[tuple[int, ...]] = []
    stop = threading.Event()

    def read() -> None:
        with connect(registry.settings, "reader") as reader:
            reader.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            while not stop.is_set():
                rows = reader.execute(
                    "select model_version, count(*) from analytics.parcel_late_current where"
                    " partition_date >= %s group by 1",
                    [NEW],
                )
                seen.append(tuple(rows.fetchall()))

    thread = threading.Thread(target=read)
    thread.start()
    rolled_back(registry.settings, spec, 1)
    deadline = time.monotonic() + 20
    while seen[-1:] != [((1, 100),)] and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert set(seen) == {((2, 100),), ((1, 100),)}
