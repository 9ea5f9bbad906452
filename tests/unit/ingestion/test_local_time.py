"""Wall-clock time to UTC on the days when clocks are set, in three zones; expected values written by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.ingestion.local_time import to_utc, to_wall


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
    got, never = to_utc(seconds(wall), timezone)

    np.testing.assert_array_equal(got, seconds(utc))
    assert never.tolist() == [utc == "NaT"]


def test_to_utc_keeps_an_unknown_time_unknown_when_others_are_known():
    got, never = to_utc(seconds("NaT", "2013-07-01T12:00:00", "NaT"), "America/New_York")

    np.testing.assert_array_equal(got, seconds("NaT", "2013-07-01T16:00:00", "NaT"))
    assert never.tolist() == [False, False, False]


@given(
    st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=20),
    st.sampled_from(["America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
)
def test_the_wall_clock_comes_back_when_an_instant_goes_there(instants, timezone):
    wall = to_wall(np.array(instants, dtype="datetime64[s]"), timezone)
    utc, never = to_utc(wall, timezone)

    assert not never.any()
    np.testing.assert_array_equal(to_wall(utc, timezone), wall)
