"""Delivery: manifest and times of a range, delivered again, with faults."""

import datetime as dt
import uuid

import pytest
from examples.flights.clock import ClockError, advance_clock, read_clock
from examples.flights.faults import Fault, FaultType
from examples.flights.flights_2013 import DATASETS
from examples.flights.upstream import deliver
from tests.drop_listing import list_drops

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.lake.landing import read_data
from nightshift.lake.object_store import ObjectStore

pytestmark = pytest.mark.integration

DAYS = PartitionRange.of("2013-01-01", "2013-01-02")


@pytest.fixture
def settings(session_settings, tmp_path):
    return session_settings.model_copy(
        update={"s3_bucket": f"test-{uuid.uuid4().hex[:12]}", "home": tmp_path}
    )


def test_deliver_writes_every_dataset_before_the_cutoff_when_nothing_goes_wrong(settings):
    summary = deliver(settings, DAYS)

    assert summary.n_drops == {
        "flight_schedules": 2,
        "flight_outcomes": 2,
        "weather": 2,
        "airports": 1,
        "planes": 1,
        "carriers": 1,
    }
    assert summary.n_rows["flight_schedules"] == 943 + 914
    assert summary.n_rows["weather"] == 67 + 72
    assert summary.silent == ()
    assert summary.now == dt.datetime(2013, 1, 3, 5, 30, tzinfo=dt.UTC)
    drops = [
        drop for name in DATASETS for drop in list_drops(ObjectStore.open(settings), name, DAYS)
    ]
    for drop in drops:
        partition = Partition(drop.partition)
        assert partition.end < drop.delivered_at < partition.cutoff


def test_delivering_again_changes_nothing_when_the_range_was_delivered(settings):
    first = deliver(settings, DAYS, datasets=("weather",))
    before = list_drops(ObjectStore.open(settings), "weather", DAYS)

    assert deliver(settings, DAYS, datasets=("weather",)) == first
    assert list_drops(ObjectStore.open(settings), "weather", DAYS) == before


def test_silent_days_are_named_when_upstream_has_nothing(settings):
    summary = deliver(settings, PartitionRange.of("2013-12-31"), datasets=("weather", "carriers"))

    assert summary.silent == ("weather/2013-12-31",)
    assert summary.n_drops == {}


def test_faults_reach_only_their_drop_when_a_range_is_played(settings):
    day = dt.date(2013, 1, 2)
    faults = [
        Fault(FaultType.LATE, "weather", day, delay=dt.timedelta(hours=9)),
        Fault(FaultType.TWICE, "weather", day, delay=dt.timedelta(hours=1)),
        Fault(FaultType.ABSENT, "flight_outcomes", day),
    ]

    summary = deliver(settings, DAYS, faults, datasets=("weather", "flight_outcomes"))

    store = ObjectStore.open(settings)
    times = [(d.partition.day, d.delivered_at) for d in list_drops(store, "weather", DAYS)]
    assert times == [
        (1, dt.datetime(2013, 1, 2, 5, 10, tzinfo=dt.UTC)),
        (2, dt.datetime(2013, 1, 3, 14, 10, tzinfo=dt.UTC)),
        (2, dt.datetime(2013, 1, 3, 15, 10, tzinfo=dt.UTC)),
    ]
    assert [d.partition.day for d in list_drops(store, "flight_outcomes", DAYS)] == [1]
    assert summary.now == dt.datetime(2013, 1, 3, 15, 10, tzinfo=dt.UTC)


def test_the_clock_never_runs_backwards_when_an_older_day_is_played(settings):
    later = dt.datetime(2013, 5, 1, tzinfo=dt.UTC)

    assert read_clock(settings) is None
    assert advance_clock(settings, later) == later
    assert advance_clock(settings, dt.datetime(2013, 4, 1, tzinfo=dt.UTC)) == later
    (settings.home / "replay_clock").write_text("soon")
    with pytest.raises(ClockError):
        read_clock(settings)


def test_a_delivered_file_is_csv_with_the_contracts_names_when_read(settings):
    deliver(settings, DAYS, datasets=("flight_outcomes",))
    store = ObjectStore.open(settings)

    header, first, *_ = (
        read_data(store, list_drops(store, "flight_outcomes", DAYS))[0].decode().splitlines()
    )

    assert header.split(",")[:4] == ["flight_date", "carrier", "flight_number", "tail_number"]
    assert (
        first.replace('"', "")
        == "2013-01-01,UA,1545,N14228,EWR,IAH,2013-01-01 05:15,arrived,2,11,227,"
        "2013-01-01T14:30:00Z"
    )
