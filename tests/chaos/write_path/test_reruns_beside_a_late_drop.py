"""Two reruns of a partition at once while a late drop for it comes in: one version, the newest.

Every failpoint is a place where a thread lets the others pass, for a time that a seed draws. So the
steps of the three loads interleave in other ways in each round. Readers look all the time.
"""

from __future__ import annotations

import datetime as dt
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.integration.ingestion.hostile_world import HEADER, HostileWorld, hostile_world
from tests.integration.scoring.conftest import DAY as NIGHT
from tests.integration.scoring.conftest import (
    Registry,
    create_relations,
    make_spec,
    publish_features,
    with_suite,
)

from nightshift import failpoints
from nightshift.contracts.partitions import PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError
from nightshift.ingestion import large_drop
from nightshift.ingestion.late_arrivals import load_late_drops
from nightshift.ingestion.load import ingest
from nightshift.scoring.pipeline import score
from nightshift.warehouse.connection import connect

if TYPE_CHECKING:
    from nightshift.settings import Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.promise("R1"),
    pytest.mark.promise("R11"),
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("quick_gate"),
]

N_TRIES = 12
"""More than Airflow's three: what is asked is where it ends, not how soon."""
N_ROUNDS = 8
LONGEST_PAUSE = 0.05


@dataclass
class Race:
    """Threads that pause at every failpoint, and readers that never do.

    Attributes:
        outcomes: Names of what the threads met.
        order: The thread at each failpoint, in order.
    """

    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)

    def pause(self, *_: object) -> None:
        name = threading.current_thread().name
        self.order.append(name)
        dice = random.Random(f"{self.seed} {name} {len(self.order)}")  # noqa: S311
        time.sleep(dice.random() * LONGEST_PAUSE)

    def run(self, reader: Callable[[], list[str]], **work: Callable[[], bool]) -> list[str]:
        """Run all work at once until each is done; return what readers should not have seen."""
        problems: list[str] = []
        is_over = threading.Event()

        def read() -> None:
            while not is_over.is_set():
                problems.extend(reader())

        threads = [
            threading.Thread(target=self._work, args=[step], name=name)
            for name, step in work.items()
        ]
        readers = [threading.Thread(target=read, name="reader")]
        for thread in [*readers, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        is_over.set()
        readers[0].join()
        return problems

    def _work(self, step: Callable[[], bool]) -> None:
        for _ in range(N_TRIES):
            try:
                if step():
                    self.outcomes["done"] += 1
                    return
                self.outcomes["busy"] += 1
            except NightshiftError as error:
                self.outcomes[error.code] += 1
        self.outcomes["gave up"] += 1

    @property
    def n_switches(self) -> int:
        """Return how often another thread came to the next failpoint."""
        return sum(a != b for a, b in zip(self.order, self.order[1:], strict=False))


@pytest.fixture
def race(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Race:
    """Return a race whose threads pause at every failpoint of the library."""
    one = Race(getattr(request, "param", 1))
    actual = failpoints.hit
    for name, module in list(sys.modules.items()):
        if name.startswith("nightshift.") and getattr(module, "hit", None) is actual:
            monkeypatch.setattr(module, "hit", one.pause)
    return one


@pytest.fixture
def world(session_settings, template_database, tmp_path) -> Iterator[HostileWorld]:
    with hostile_world(session_settings, template_database, tmp_path) as opened:
        yield opened


def visits(day: dt.date, version: int, n_rows: int) -> bytes:
    """Return a file in which every row has the version."""
    rows = (f"hill{n},{day} 10:00:{n % 60:02d},{version},\n" for n in range(n_rows))
    return (HEADER + "".join(rows)).encode()


def seen_of(settings: Settings, query: str, *parameters: object) -> Counter[tuple[Any, ...]]:
    with connect(settings, "reader") as conn:
        return Counter(conn.execute(query.encode(), list(parameters)).fetchall())


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("race", [11, 12], indirect=True)
def test_the_newest_drop_is_published_once_when_two_reruns_meet_a_late_one(
    world, race, size, monkeypatch, record_figure
):
    if size == "large":
        monkeypatch.setattr(large_drop, "LARGE_ROWS", 1)
    day, n_rows = dt.date(2013, 2, 1), 40
    world.bring(day, visits(day, 0, n_rows), n_rows, "v0", hour=4)
    assert world.ingest(day).n_rows == n_rows
    query = """
        select t.visitors, t.load_id, count(*) from raw.visits t
        join ops.published p using (partition_date, load_id)
        where p.dataset = 'raw/visits' and partition_date = %s group by 1, 2
    """
    problems: list[str] = []
    n_reads = 0
    for version in range(1, N_ROUNDS + 1):

        def reader(version: int = version) -> list[str]:
            nonlocal n_reads
            n_reads += 1
            seen = list(seen_of(world.settings, query, day))
            is_whole = len(seen) == 1 and seen[0][2] == n_rows
            is_right = is_whole and seen[0][0] in {version - 1, version}
            return [] if is_right else [f"{version}: {seen}"]

        def rerun(who: str, version: int = version) -> bool:
            run = RunContext(f"ingest/{who}@{version}", 1, "airflow")
            return bool(ingest(world.settings, "visits", ranges(day), run).partitions)

        def late(version: int = version) -> bool:
            run = RunContext(f"sweep/{version}", 1, "airflow")
            return not load_late_drops(world.settings, "visits", ranges(day), run).is_busy

        name, at = f"v{version}", dt.timedelta(minutes=version)
        delivered = dt.datetime.combine(day, dt.time(5), dt.UTC) + dt.timedelta(days=1) + at
        drop = (day, visits(day, version, n_rows), n_rows, name)

        def upstream(
            drop: tuple[dt.date, bytes, int, str] = drop, delivered: dt.datetime = delivered
        ) -> bool:
            world.bring(*drop, delivered_at=delivered.isoformat())
            return True

        problems += race.run(
            reader,
            first=lambda: rerun("first"),
            second=lambda: rerun("second"),
            late=late,
            upstream=upstream,
        )
        # What came after the last look is taken by the next one, as the next night does.
        late()
        published = seen_of(world.settings, query, day)
        assert [(row[0], row[2]) for row in published] == [(version, n_rows)], version
        assert len(published) == 1

    assert problems == []
    assert race.outcomes.keys() <= {"done", "busy", "NS-WRITE-001"}, race.outcomes
    _check_books(world, day, n_rows)
    assert not world.ingest(day).is_new
    assert race.n_switches > 10 * N_ROUNDS
    record_figure(f"reads beside racing loads ({size})", n_reads)


def ranges(day: dt.date) -> PartitionRange:
    return PartitionRange.of(str(day))


def _check_books(world: HostileWorld, day: dt.date, n_rows: int) -> None:
    """Each delivery is one version, the pointer is on the newest, and no row is there twice."""
    versions = world.versions(day)
    assert [n for _, n in versions] == [n_rows] * (N_ROUNDS + 1)
    assert len({known_at for known_at, _ in versions}) == N_ROUNDS + 1
    pointers = "select count(*) from ops.published where dataset = 'raw/visits'"
    assert world.conn.execute(pointers).fetchone() == (1,)
    current = """
        select count(*) from ops.raw_versions
        where dataset = 'raw/visits' and superseded_at is null
    """
    assert world.conn.execute(current).fetchone() == (1,)
    doubled = """
        select count(*) from (
            select load_id, shop from raw.visits group by 1, 2 having count(*) > 1
        ) d
    """
    assert world.conn.execute(doubled).fetchone() == (0,)
    counted = """
        select count(*) from ops.loads l
        join raw.ingested_drops d using (dataset, partition_date, load_id)
        where l.state = 'published' and (l.n_rows, d.n_delivered) is distinct from (%s, %s)
    """
    assert world.conn.execute(counted, [n_rows, n_rows]).fetchone() == (0,)


@pytest.mark.parametrize("race", [21], indirect=True)
def test_the_newest_features_are_scored_once_when_two_reruns_meet_their_correction(
    settings, conn, race, tmp_path, record_figure
):
    spec = make_spec()
    create_relations(conn, spec)
    settings = with_suite(settings, tmp_path)
    publish_features(conn)
    Registry(settings, conn, spec).promote("2013-07-01")
    (first,) = score(settings, spec, NIGHT, RunContext("score/first", 1, "airflow"))
    query = """
        select t.load_id, count(*), count(distinct t.parcel_id) from predictions.parcel_late t
        join ops.published p using (partition_date, load_id)
        where p.dataset = 'predictions/parcel_late' and partition_date = %s group by 1
    """
    hashes = {first.content_hash}
    problems: list[str] = []
    for version in range(1, 4):

        def reader() -> list[str]:
            seen = list(seen_of(settings, query, NIGHT.first.day))
            is_whole = len(seen) == 1 and seen[0][1:] == (50, 50)
            return [] if is_whole else [f"{seen}"]

        def rerun(who: str, version: int = version) -> bool:
            run = RunContext(f"score/{who}@{version}", 1, "airflow")
            return len(score(settings, spec, NIGHT, run)) == 1

        def correct(version: int = version) -> bool:
            with connect(settings, "transform") as other:
                return len(publish_features(other, shift=float(version))) == 1

        problems += race.run(
            reader,
            first=lambda: rerun("first"),
            second=lambda: rerun("second"),
            transform=correct,
        )
        # The event of the new features starts one more run.
        (last,) = score(settings, spec, NIGHT, RunContext(f"score/event{version}", 1, "airflow"))
        assert (last.n_rows, last.content_hash in hashes) == (50, False)
        hashes.add(last.content_hash)
        (again,) = score(settings, spec, NIGHT, RunContext(f"score/again{version}", 1, "airflow"))
        assert (again.content_hash, again.is_new) == (last.content_hash, False)

    assert problems == []
    assert race.outcomes.keys() <= {"done", "NS-WRITE-001", "NS-WRITE-007"}, race.outcomes
    live = """
        select dataset, count(*) from ops.loads
        where state = 'published' and superseded_at is null group by 1 order by 1
    """
    assert conn.execute(live).fetchall() == [("features/parcel", 1), ("predictions/parcel_late", 1)]
    reads = """
        select count(*) from predictions.parcel_late t
        join ops.published p using (partition_date, load_id)
        join ops.published f
            on f.dataset = 'features/parcel' and f.partition_date = t.partition_date
        where p.dataset = 'predictions/parcel_late'
    """
    assert conn.execute(reads).fetchone() == (50,)
    record_figure("failpoints at which another thread went on", race.n_switches)
