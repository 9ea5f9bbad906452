"""A clock that steps back changes nothing: tokens, load ids and upstream's times give the order."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

import pytest
from examples.flights.faults import Fault, FaultType
from examples.flights.upstream import deliver

from nightshift.contracts.partitions import PartitionRange
from nightshift.ingestion.load import ingest
from nightshift.lake.object_errors import StoreClockError
from nightshift.lake.object_store import ObjectStore
from nightshift.warehouse.connection import connect
from nightshift.warehouse.partition_write import LoadManifest, Target, audit, begin, publish

pytestmark = [pytest.mark.promise("R9"), pytest.mark.integration]

PLAIN = Target("features/thing", "features", "feat_thing", ("thing_id",))
DAY = PartitionRange.of("2013-07-01")
N_WRITES = 6


@pytest.fixture
def stepping_clock(settings, conn, admin):
    """Set the warehouse's clock back by an hour at each reading.

    Unqualified calls find the fake clock first.
    """
    conn.execute("create schema fake")
    conn.execute("create sequence fake.n_readings")
    conn.execute(
        "create function fake.clock_timestamp() returns timestamptz volatile language sql as"
        " $$ select pg_catalog.clock_timestamp()"
        " - nextval('fake.n_readings') * interval '1 hour' $$"
    )
    admin.execute(
        f"alter database {settings.warehouse_database}"
        " set search_path = fake, pg_catalog, public".encode()
    )
    with connect(settings, "test stepping clock") as stepping:
        before, after = (
            stepping.execute("select clock_timestamp()").fetchone()[0] for _ in range(2)
        )
        assert after < before - dt.timedelta(minutes=59)
        yield stepping


def write(conn, run, inputs):
    begun = begin(conn, [PLAIN], DAY, LoadManifest(run, {"input": inputs}))
    conn.execute(
        "insert into features.feat_thing values ('2013-07-01', %s, 'a', %s)",
        [begun.load_id, inputs],
    )
    audit(conn, begun)
    return publish(conn, begun)[0]


def test_newest_token_is_what_readers_see_when_the_clock_steps_back(conn, run, stepping_clock):
    conn.execute(
        "create table features.feat_thing"
        " (partition_date date, load_id bigint, thing_id text, name text)"
    )

    loads = [write(stepping_clock, run, f"content {n}") for n in range(N_WRITES)]

    assert [load.is_new for load in loads] == [True] * N_WRITES
    rows = conn.execute(
        "select token, load_id, published_at, superseded_at from ops.loads"
        " where dataset = 'features/thing' order by load_id"
    ).fetchall()
    assert [token for token, *_ in rows] == list(range(1, N_WRITES + 1))
    assert (
        conn.execute(
            "select token, load_id from ops.published where dataset = 'features/thing'"
        ).fetchone()
        == rows[-1][:2]
    )
    events = conn.execute(
        "select load_id from ops.ledger where dataset = 'features/thing' order by ledger_id"
    ).fetchall()
    assert [load_id for (load_id,) in events] == [load.load_id for load in loads]


def test_history_has_no_load_that_ends_before_it_began_when_the_clock_steps_back(
    conn, run, stepping_clock
):
    conn.execute(
        "create table features.feat_thing"
        " (partition_date date, load_id bigint, thing_id text, name text)"
    )

    for n in range(N_WRITES):
        write(stepping_clock, run, f"content {n}")

    spans = conn.execute(
        "select published_at, superseded_at from ops.loads"
        " where dataset = 'features/thing' order by load_id"
    ).fetchall()
    assert all(
        superseded_at is None or published_at <= superseded_at
        for published_at, superseded_at in spans
    )
    assert [superseded_at for _, superseded_at in spans] == [
        published_at for published_at, _ in spans[1:]
    ] + [None]


def test_raw_versions_are_in_the_order_of_delivery_when_the_clock_steps_back(
    settings, conn, run, stepping_clock
):
    days = PartitionRange.of("2013-03-09", "2013-03-11")
    corrected = Fault(
        FaultType.CORRECTION, "weather", dt.date(2013, 3, 10), column="temperature_f", value="41.5"
    )
    deliver(settings, days, (), datasets=("weather",))
    ingest(settings, "weather", days, run)
    deliver(settings, days, (corrected,), datasets=("weather",))

    result = ingest(settings, "weather", days, run)

    assert [partition.is_new for partition in result.partitions] == [False, True, False]
    versions = conn.execute(
        "select load_id, known_at, superseded_at from ops.raw_versions"
        " where partition_date = '2013-03-10' order by known_at"
    ).fetchall()
    assert versions[0][2] == versions[1][1]
    assert versions[1][2] is None
    pointer = conn.execute(
        "select load_id from ops.published"
        " where dataset = 'raw/weather' and partition_date = '2013-03-10'"
    ).fetchone()
    assert pointer == (versions[1][0],)
    assert ingest(settings, "weather", days, run).is_new is False


def test_store_is_read_and_written_when_this_machine_runs_an_hour_behind(settings, monkeypatch):
    """A request's signature holds the time, and the server refuses a wrong time by name.

    Nothing is read or written wrong.
    """
    import botocore.auth

    store = ObjectStore.open(settings)
    store.ensure_bucket()
    digest = store.put("before", b"hello")
    real = botocore.auth.get_current_datetime
    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda *given, **named: real(*given, **named) - dt.timedelta(hours=1),
    )

    with suppress(StoreClockError):
        assert store.get("before", digest) == b"hello"
        store.put("during", b"hello")

    monkeypatch.undo()
    assert store.put("during", b"hello") == digest
    assert store.get("during", digest) == b"hello"
