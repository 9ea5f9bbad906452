"""Ingest loses no row and repeats none on days on which the clocks change.

The zones change them by an hour, by half an hour, or never.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from zoneinfo import ZoneInfo

import pytest

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import PartitionRange
from nightshift.ingestion.load import ingest
from nightshift.lake.drops import NewDrop, write_drop
from nightshift.lake.object_store import ObjectStore
from nightshift.warehouse.migrate import migrate

pytestmark = [pytest.mark.promise("R9"), pytest.mark.integration]

STEP = dt.timedelta(minutes=30)
CONTRACT = """
name: readings
description: A meter's readings.
schema_version: 1
timezone: {zone}
delivery: daily
history_start: 2013-01-01
grain: one meter and half hour
key: [meter, read_at]
event_timestamp: read_at
columns:
  - {{name: meter, type: text}}
  - {{name: read_at, source: read_local, type: local_timestamp}}
  - {{name: value, type: number}}
maximum_refused_ratio: 0.2
"""
SUITE = {
    "name": "raw/readings",
    "expectations": [{"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}}],
    "meta": {},
}
DAYS = [
    ("UTC", "2013-03-10", 48, "2013-03-10T00:00:00+00:00", "2013-03-10T23:30:00+00:00"),
    (
        "America/New_York",
        "2013-03-10",
        46,
        "2013-03-10T05:00:00+00:00",
        "2013-03-11T03:30:00+00:00",
    ),
    (
        "America/New_York",
        "2013-11-03",
        50,
        "2013-11-03T04:00:00+00:00",
        "2013-11-04T04:30:00+00:00",
    ),
    ("Europe/Berlin", "2013-03-31", 46, "2013-03-30T23:00:00+00:00", "2013-03-31T21:30:00+00:00"),
    ("Europe/Berlin", "2013-10-27", 50, "2013-10-26T22:00:00+00:00", "2013-10-27T22:30:00+00:00"),
    ("Asia/Kolkata", "2013-10-27", 48, "2013-10-26T18:30:00+00:00", "2013-10-27T18:00:00+00:00"),
    (
        "Australia/Lord_Howe",
        "2013-04-07",
        49,
        "2013-04-06T13:00:00+00:00",
        "2013-04-07T13:00:00+00:00",
    ),
    (
        "Australia/Lord_Howe",
        "2013-10-06",
        47,
        "2013-10-05T13:30:00+00:00",
        "2013-10-06T12:30:00+00:00",
    ),
    (
        "America/St_Johns",
        "2013-03-10",
        46,
        "2013-03-10T03:30:00+00:00",
        "2013-03-11T02:00:00+00:00",
    ),
    (
        "America/St_Johns",
        "2013-11-03",
        50,
        "2013-11-03T02:30:00+00:00",
        "2013-11-04T03:00:00+00:00",
    ),
]
"""Zone, day, its half hours, its first and last one in UTC; by hand, from the zones' rules of
2013.
"""
LONG = {
    ("America/New_York", "2013-11-03"),
    ("Europe/Berlin", "2013-03-31"),
    ("Australia/Lord_Howe", "2013-04-07"),
} | {(zone, key) for zone, key, *_ in DAYS if zone == "America/St_Johns"}


@pytest.fixture
def readings(settings, conn, tmp_path):
    """Return a function that makes the contract for a zone and returns settings with it."""

    def make(zone):
        (tmp_path / "datasets").mkdir()
        (tmp_path / "expectations" / "raw").mkdir(parents=True)
        (tmp_path / "datasets" / "readings.yaml").write_text(CONTRACT.format(zone=zone))
        (tmp_path / "expectations" / "raw" / "readings.json").write_text(json.dumps(SUITE))
        mine = settings.model_copy(
            update={"dags_dir": tmp_path, "expectations_dir": tmp_path / "expectations"}
        )
        migrate(conn, load_contracts(mine.datasets_dir))
        ObjectStore.open(mine).ensure_bucket()
        return mine

    return make


def deliver(settings, day, rows):
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("meter", "read_local", "value"), *(("m1", local, "1.5") for local in rows)])
    delivered_at = dt.datetime.combine(day + dt.timedelta(days=2), dt.time(0), dt.UTC)
    write_drop(
        ObjectStore.open(settings),
        NewDrop("readings", day, delivered_at, text.getvalue().encode(), len(rows), "readings"),
    )


def half_hours(first, last):
    return [first + i * STEP for i in range(int((last - first) / STEP) + 1)]


@pytest.mark.parametrize(
    "local_day",
    [
        pytest.param(day, id="-".join(day[:2]), marks=[pytest.mark.long] if day[:2] in LONG else [])
        for day in DAYS
    ],
)
def test_day_and_its_neighbours_hold_each_half_hour_once_when_clocks_change(
    readings, conn, run, local_day
):
    """Ingest refuses rows of the day before and of the day after as ``outside_partition``.

    Each file also holds the last half hour of the one and the first of the other.
    """
    zone, key, n, first, last = local_day
    settings, day = readings(zone), dt.date.fromisoformat(key)
    inside = half_hours(dt.datetime.fromisoformat(first), dt.datetime.fromisoformat(last))
    by_day = {
        day - dt.timedelta(days=1): half_hours(inside[0] - 20 * STEP, inside[0]),
        day: half_hours(inside[0] - STEP, inside[-1] + STEP),
        day + dt.timedelta(days=1): half_hours(inside[-1], inside[-1] + 20 * STEP),
    }
    for partition, instants in by_day.items():
        deliver(
            settings,
            partition,
            [instant.astimezone(ZoneInfo(zone)).isoformat() for instant in instants],
        )
    days = [partition.isoformat() for partition in by_day]

    result = ingest(settings, "readings", PartitionRange.of(days[0], days[-1]), run)

    assert [(p.day.isoformat(), p.n_rows, p.n_refused) for p in result.partitions] == [
        (days[0], 20, 1),
        (key, n, 2),
        (days[2], 20, 1),
    ]
    query = (
        "select read_at from raw.readings join ops.published p using (partition_date, load_id)"
        " where p.dataset = 'raw/readings' order by 1"
    )
    assert [read_at for (read_at,) in conn.execute(query)] == half_hours(
        inside[0] - 20 * STEP, inside[-1] + 20 * STEP
    )
    reasons = conn.execute("select distinct reason from quarantine.refused_rows").fetchall()
    assert reasons == [("outside_partition",)]


@pytest.mark.parametrize(
    ("zone", "key", "never"),
    [
        ("America/New_York", "2013-03-10", "2013-03-10T02:30"),
        ("Europe/Berlin", "2013-03-31", "2013-03-31T02:30"),
        ("Australia/Lord_Howe", "2013-10-06", "2013-10-06T02:15"),
    ],
)
def test_time_that_never_was_is_refused_when_it_comes_without_an_offset(
    readings, conn, run, zone, key, never
):
    settings = readings(zone)
    deliver(
        settings,
        dt.date.fromisoformat(key),
        [f"{key}T{hour:02}:00" for hour in (0, 1, 4, 5, 6, 7, 8)] + [never],
    )

    result = ingest(settings, "readings", PartitionRange.of(key), run)

    assert (result.n_rows, result.n_refused) == (7, 1)
    assert conn.execute("select reason from quarantine.refused_rows").fetchall() == [
        ("nonexistent_time",)
    ]
