"""Partitions: operating days of 23, 24 and 25 hours that tile time without a gap."""

from __future__ import annotations

import datetime as dt
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.contracts.partitions import (
    CalendarError,
    Partition,
    PartitionKeyError,
    PartitionRange,
    TimezoneError,
    operating_timezone,
)

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/St_Johns",
]
HOUR = dt.timedelta(hours=1)


@pytest.mark.parametrize("zone", ZONES)
def test_three_years_of_partitions_tile_without_a_gap(zone):
    days = list(
        PartitionRange(Partition(dt.date(2012, 1, 1), zone), Partition(dt.date(2014, 12, 31), zone))
    )

    assert len(days) == 366 + 365 + 365
    assert all(before.end == after.start for before, after in pairwise(days))
    assert all(
        dt.timedelta(hours=23) <= day.end - day.start <= dt.timedelta(hours=25) for day in days
    )


@pytest.mark.parametrize("zone", ZONES)
def test_cutoffs_rise_by_about_a_day_in_every_zone(zone):
    cutoffs = [
        p.cutoff
        for p in PartitionRange(
            Partition(dt.date(2012, 1, 1), zone), Partition(dt.date(2014, 12, 31), zone)
        )
    ]

    assert all(23 * HOUR <= after - before <= 25 * HOUR for before, after in pairwise(cutoffs))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("America/New_York", "2013-03-10", 23),
        ("America/New_York", "2013-11-03", 25),
        ("America/New_York", "2013-07-01", 24),
        ("Europe/Berlin", "2013-03-31", 23),
        ("Europe/Berlin", "2013-10-27", 25),
        ("Asia/Kolkata", "2013-03-10", 24),
        ("Australia/Lord_Howe", "2013-04-07", 24.5),
        ("Australia/Lord_Howe", "2013-10-06", 23.5),
        ("America/St_Johns", "2013-03-10", 23),
    ],
)
def test_day_has_its_true_length_when_clocks_change(zone, day, hours):
    partition = Partition.parse(day, zone)

    assert (partition.end - partition.start) / HOUR == hours


@pytest.mark.parametrize(
    ("day", "start", "cutoff"),
    [
        ("2013-07-01", "2013-07-01T04:00:00+00:00", "2013-07-02T04:30:00+00:00"),
        ("2013-01-15", "2013-01-15T05:00:00+00:00", "2013-01-16T05:30:00+00:00"),
        ("2013-03-10", "2013-03-10T05:00:00+00:00", "2013-03-11T04:30:00+00:00"),
        ("2013-11-03", "2013-11-03T04:00:00+00:00", "2013-11-04T05:30:00+00:00"),
    ],
)
def test_new_york_day_has_these_edges_in_utc(day, start, cutoff):
    partition = Partition.parse(day)

    assert (partition.start.isoformat(), partition.cutoff.isoformat()) == (start, cutoff)


@given(st.floats(0, 5 * 366), st.sampled_from(ZONES))
def test_every_instant_lies_in_exactly_one_day(days_since_2011, zone):
    instant = dt.datetime(2011, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=days_since_2011)
    near = [Partition(instant.date() + dt.timedelta(days=i), zone) for i in (-1, 0, 1)]

    assert sum(day.start <= instant < day.end for day in near) == 1


@pytest.mark.parametrize(
    "key", ["2013-7-1", "20130701", "2013-02-29", "2013-W27-1", "", "yesterday", "2013-07-01T00:00"]
)
def test_parse_refuses_when_key_is_no_day(key):
    with pytest.raises(PartitionKeyError, match="partition key"):
        Partition.parse(key)


def test_parse_reads_back_its_own_key():
    assert Partition.parse("2013-07-01").key == "2013-07-01"


def test_range_holds_both_ends():
    days = PartitionRange.of("2013-02-27", "2013-03-02")

    assert [str(p) for p in days] == ["2013-02-27", "2013-02-28", "2013-03-01", "2013-03-02"]
    assert (len(days), str(days)) == (4, "2013-02-27..2013-03-02")
    assert str(PartitionRange.of("2013-02-27")) == "2013-02-27"


def test_range_refuses_when_last_lies_before_first():
    with pytest.raises(PartitionKeyError, match="Empty range"):
        PartitionRange.of("2013-07-02", "2013-07-01")


def test_shift_counts_days_not_hours():
    assert Partition.parse("2013-03-09").shift(2).key == "2013-03-11"
    assert Partition.parse("2013-11-04").shift(-2).key == "2013-11-02"


@pytest.mark.parametrize(
    ("line", "zone"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        ("'Australia/Lord_Howe'", "Australia/Lord_Howe"),
        ('"Etc/GMT+5"  # fixed', "Etc/GMT+5"),
    ],
)
def test_operating_timezone_is_that_of_the_dbt_project(tmp_path, monkeypatch, line, zone):
    (tmp_path / "dbt_project.yml").write_text(
        f"vars:\n  load_id: 0\n  operating_timezone: {line}\n"
    )
    monkeypatch.setenv("NIGHTSHIFT_DBT_PROJECT_DIR", str(tmp_path))
    assert operating_timezone() == zone


@pytest.mark.parametrize(
    "text",
    [
        "vars:\n  operating_timezone: Mars/Olympus\n",
        "vars:\n  operating_timezone: Europe\n",
        "vars:\n  operating_timezone: localtime\n",
        "vars: {}\n",
        "vars:\n  operating_timezone:\n",
    ],
)
def test_operating_timezone_is_refused_when_it_does_not_exist(tmp_path, monkeypatch, text):
    (tmp_path / "dbt_project.yml").write_text(text)
    monkeypatch.setenv("NIGHTSHIFT_DBT_PROJECT_DIR", str(tmp_path))
    with pytest.raises(TimezoneError, match="NS-TIME-002"):
        operating_timezone()


@pytest.mark.parametrize("key", ["0001-01-01", "1899-12-31", "2200-01-01", "9999-12-31"])
def test_a_day_beyond_the_calendar_has_a_code(key):
    with pytest.raises(CalendarError, match="NS-TIME-004"):
        Partition.parse(key)
    assert Partition.parse("1900-01-01").shift(-28).cutoff < Partition.parse("2199-12-31").cutoff
