"""Two writers race for one partition while their backends are killed; readers see one whole load at any time."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import psycopg
import pytest
from tests.integration.warehouse.conftest import DAY, PLAIN, manifest, stage

from nightshift.errors import LostAnswerError, StaleTokenError
from nightshift.warehouse.connection import connect
from nightshift.warehouse.partition_write import audit, begin, publish

if TYPE_CHECKING:
    from nightshift.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]
SEED, N_ROWS, SECONDS = 20130701, 60, 6.0
READ = (
    "select count(*), count(distinct t.load_id), count(distinct t.value), min(p.token)"
    " from analytics.thing t join ops.published p on p.dataset = 'features/thing' and p.partition_date = t.partition_date"
)


@dataclass
class Race:
    """What happened, and when to stop."""

    settings: Settings
    stop: threading.Event = field(default_factory=threading.Event)
    numbers: count[int] = field(default_factory=lambda: count(1))
    seen: Counter[str] = field(default_factory=Counter)
    bad_reads: list[object] = field(default_factory=list)

    def write(self) -> None:
        while not self.stop.is_set():
            try:
                with connect(self.settings, "racing writer") as conn:
                    self._write_load(conn, next(self.numbers))
                self.seen["published"] += 1
            except StaleTokenError:
                self.seen["fenced out"] += 1
            except (psycopg.Error, LostAnswerError):
                self.seen["killed"] += 1

    def _write_load(self, conn, number: int) -> None:
        write = begin(conn, [PLAIN], DAY, manifest(str(number)))
        stage(conn, write, [(f"thing {i}", None, float(number)) for i in range(N_ROWS)])
        audit(conn, write)
        publish(conn, write)

    def read(self, isolation: psycopg.IsolationLevel) -> None:
        last_token = 0
        with connect(self.settings, "reader") as conn:
            conn.isolation_level = isolation
            while not self.stop.is_set():
                with conn.transaction():
                    first, second = conn.execute(READ).fetchone(), conn.execute(READ).fetchone()
                self.seen["reads"] += 2
                if isolation is psycopg.IsolationLevel.REPEATABLE_READ and first != second:
                    self.bad_reads.append((first, second))
                for read in (first, second):
                    if read[:3] != (N_ROWS, 1, 1) or read[3] < last_token:
                        self.bad_reads.append(read)
                    last_token = read[3]

    def kill(self) -> None:
        dice = random.Random(SEED)  # noqa: S311  (a repeatable storm, no secret)
        with connect(self.settings, "killer") as conn:
            while not self.stop.wait(dice.uniform(0.005, 0.06)):
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and application_name = 'racing writer' order by md5(pid::text || %s) limit 1",
                    [str(dice.random())],
                )


def test_readers_see_one_whole_load_when_two_writers_race_and_are_killed(conn, settings, write_day):
    write_day([(f"thing {i}", None, 0.0) for i in range(N_ROWS)], inputs="first")
    race = Race(settings)
    levels = (psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.REPEATABLE_READ)
    threads = [threading.Thread(target=race.write) for _ in range(2)]
    threads += [threading.Thread(target=race.read, args=[level]) for level in levels]
    threads += [threading.Thread(target=race.kill)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    race.stop.set()
    for thread in threads:
        thread.join()

    print("\n", dict(race.seen))
    assert race.bad_reads == []
    assert min(race.seen[what] for what in ("published", "fenced out", "killed")) > 0
    assert race.seen["reads"] > 200


def test_blind_delete_and_insert_doubles_rows_when_two_writers_overlap(conn, settings, tables):
    """The control: what the race above would see without the write path."""
    conn.execute("insert into features.feat_thing values ('2013-07-01', 0, 'a', null, 0)")

    def rewrite(begun: threading.Event) -> None:
        with connect(settings, "blind") as other, other.transaction():
            begun.set()
            other.execute("delete from features.feat_thing where partition_date = '2013-07-01'")
            other.execute("insert into features.feat_thing values ('2013-07-01', 2, 'a', null, 2)")

    with connect(settings, "blind") as mine, mine.transaction():
        mine.execute("delete from features.feat_thing where partition_date = '2013-07-01'")
        mine.execute("insert into features.feat_thing values ('2013-07-01', 1, 'a', null, 1)")
        begun = threading.Event()
        second = threading.Thread(target=rewrite, args=[begun])
        second.start()
        begun.wait()
        _wait_until_blocked(conn)
    second.join()

    assert conn.execute("select count(*) from features.feat_thing").fetchone() == (2,)


def _wait_until_blocked(conn) -> None:
    query = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and application_name = 'blind' and wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 5
    while conn.execute(query).fetchone() == (0,):
        assert time.monotonic() < deadline
        time.sleep(0.01)
