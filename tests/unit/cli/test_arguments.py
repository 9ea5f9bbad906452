"""Options that several commands read in the same way."""

import datetime as dt

import pytest

from nightshift.cli.arguments import instant_or_now, optional_partition
from nightshift.contracts.partitions import PartitionKeyError


def test_option_that_was_left_out_is_no_partition():
    assert optional_partition("") is None


def test_option_is_a_partition_or_refused():
    partition = optional_partition("2013-03-05")
    assert partition is not None
    assert partition.day == dt.date(2013, 3, 5)
    with pytest.raises(PartitionKeyError):
        optional_partition("5.3.2013")


def test_instant_is_in_utc_whatever_its_offset():
    expected = dt.datetime(2013, 3, 5, 2, 30, tzinfo=dt.UTC)
    assert instant_or_now("2013-03-05T04:30+02:00") == expected
    assert instant_or_now("2013-03-05T04:30+02:00").utcoffset() == dt.timedelta(0)


def test_instant_is_the_present_when_it_was_left_out():
    before = dt.datetime.now(dt.UTC)
    assert before <= instant_or_now("") <= dt.datetime.now(dt.UTC)
