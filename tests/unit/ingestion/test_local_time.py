"""Wall-clock time to UTC on the days when clocks are set, in three zones.

Expected values written by hand.
"""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.ingestion.rows.local_time import clock_changes, to_utc, to_wall


def seconds(*values):
    return np.array(values, dtype="datetime64[s]")


@pytest.mark.parametrize(
    ("timezone", "wall", "utc"),
    [
        ("America/New_York", "2013-03-10T01:59:59", "2013-03-10T06:59:59"),
        ("America/New_York", "2013-03-10T02:00:00", "NaT"),
        ("America/New_York", "2013-03-10T02:59:59", "NaT"),
        ("America/New_York", "2013-03-10T03:00:00", "2013-03-10T07:00:00"),
        ("America/New_York", "2013-11-03T00:59:00", "2013-11-03T04:59:00"),
        ("America/New_York", "2013-11-03T01:00:00", "2013-11-03T05:00:00"),
        ("America/New_York", "2013-11-03T01:59:00", "2013-11-03T05:59:00"),
        ("America/New_York", "2013-11-03T02:00:00", "2013-11-03T07:00:00"),
        ("Australia/Lord_Howe", "2013-10-06T01:59:00", "2013-10-05T15:29:00"),
        ("Australia/Lord_Howe", "2013-10-06T02:15:00", "NaT"),
        ("Australia/Lord_Howe", "2013-10-06T02:30:00", "2013-10-05T15:30:00"),
        ("Australia/Lord_Howe", "2013-04-07T01:45:00", "2013-04-06T14:45:00"),
        ("Australia/Lord_Howe", "2013-04-07T02:00:00", "2013-04-06T15:30:00"),
        ("Europe/Dublin", "2013-10-27T01:30:00", "2013-10-27T00:30:00"),
        ("UTC", "2013-03-10T02:30:00", "2013-03-10T02:30:00"),
    ],
)
def test_to_utc_follows_the_zone_when_clocks_are_set(timezone, wall, utc):
    got, never, _ = to_utc(seconds(wall), timezone)

    np.testing.assert_array_equal(got, seconds(utc))
    assert never.tolist() == [utc == "NaT"]


def test_to_utc_keeps_an_unknown_time_unknown_when_others_are_known():
    got, never, _ = to_utc(seconds("NaT", "2013-07-01T12:00:00", "NaT"), "America/New_York")

    np.testing.assert_array_equal(got, seconds("NaT", "2013-07-01T16:00:00", "NaT"))
    assert never.tolist() == [False, False, False]


@given(
    st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=20),
    st.sampled_from(["America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
)
def test_the_wall_clock_comes_back_when_an_instant_goes_there(instants, timezone):
    wall = to_wall(np.array(instants, dtype="datetime64[s]"), timezone)
    utc, never, _ = to_utc(wall, timezone)

    assert not never.any()
    np.testing.assert_array_equal(to_wall(utc, timezone), wall)


@pytest.mark.parametrize(
    ("timezone", "wall", "is_twice"),
    [
        ("America/New_York", "2013-11-03T00:59:59", False),
        ("America/New_York", "2013-11-03T01:00:00", True),
        ("America/New_York", "2013-11-03T01:59:59", True),
        ("America/New_York", "2013-11-03T02:00:00", False),
        ("America/New_York", "2013-03-10T02:30:00", False),
        ("Australia/Lord_Howe", "2013-04-07T01:45:00", True),
        ("Australia/Lord_Howe", "2013-04-07T01:15:00", False),
        ("America/Asuncion", "2013-03-23T23:30:00", True),
    ],
)
def test_a_time_was_twice_when_the_clock_was_set_back_over_it(timezone, wall, is_twice):
    assert to_utc(seconds(wall), timezone)[2].tolist() == [is_twice]


@pytest.mark.parametrize(
    ("timezone", "wall", "utc"),
    [
        ("America/New_York", "9999-12-31T23:59:59", "10000-01-01T04:59:59"),
        ("Asia/Kolkata", "0001-01-01T00:00:00", "0000-12-31T18:06:32"),
        ("Europe/Berlin", "0001-01-01T00:00:00", "0000-12-31T23:06:32"),
    ],
)
def test_far_times_are_instants_that_python_does_not_have(timezone, wall, utc):
    np.testing.assert_array_equal(to_utc(seconds(wall), timezone)[0], seconds(utc))


@pytest.mark.parametrize(
    ("timezone", "day", "said"),
    [
        ("America/New_York", "2013-11-03", ["2013-11-03 01:00 to 02:00 was there twice"]),
        ("America/New_York", "2013-03-10", ["2013-03-10 02:00 to 03:00 never was"]),
        ("America/New_York", "2013-07-01", []),
        ("Australia/Lord_Howe", "2013-04-07", ["2013-04-07 01:30 to 02:00 was there twice"]),
        ("Africa/Cairo", "2023-04-28", ["2023-04-28 00:00 to 01:00 never was"]),
        ("Asia/Beirut", "2022-10-30", ["2022-10-29 23:00 to 00:00 was there twice"]),
    ],
)
def test_clock_changes_are_told_by_the_times_that_they_concern(timezone, day, said):
    noon = dt.datetime.fromisoformat(f"{day}T12:00:00+00:00")

    changes = clock_changes(noon - dt.timedelta(hours=26), noon + dt.timedelta(hours=12), timezone)

    assert [str(change) for change in changes] == said
