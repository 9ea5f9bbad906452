"""The replayed data: instants checked by hand against the flights they belong to."""

import datetime as dt

import pytest
from examples.flights.flights_2013 import DATASETS, read_by_partition

from nightshift.contracts.partitions import Partition


def rows(dataset, day, **wanted):
    found = read_by_partition(dataset)[dt.date.fromisoformat(day)].to_pylist()
    return [row for row in found if all(row[name] == value for name, value in wanted.items())]


def test_every_flight_is_scheduled_and_ends_once_when_the_whole_year_is_played():
    schedules, outcomes = (
        read_by_partition("flight_schedules"),
        read_by_partition("flight_outcomes"),
    )

    assert sum(t.num_rows for t in schedules.values()) == 336_776
    assert sum(t.num_rows for t in outcomes.values()) == 336_776
    assert (min(schedules), max(schedules)) == (dt.date(2012, 12, 31), dt.date(2013, 12, 30))
    assert (min(outcomes), max(outcomes)) == (dt.date(2013, 1, 1), dt.date(2014, 1, 1))


def test_the_schedule_lists_the_next_day_when_a_day_ends():
    assert {row["flight_date"] for row in rows("flight_schedules", "2013-03-09")} == {"2013-03-10"}


@pytest.mark.parametrize(
    ("day", "flight_date", "flight", "status", "outcome_at"),
    [
        # due 08:19 in Houston (UTC-6), 11 minutes late
        ("2013-01-01", "2013-01-01", ("UA", 1545, "EWR"), "arrived", "2013-01-01T14:30:00Z"),
        # due 04:37 on the next day in Puerto Rico (UTC-4), 24 minutes early: already the 3rd in New
        # York
        ("2013-01-03", "2013-01-02", ("B6", 727, "JFK"), "arrived", "2013-01-03T08:13:00Z"),
        # cancelled: its scheduled departure, 16:30 in New York
        ("2013-01-01", "2013-01-01", ("EV", 4308, "EWR"), "cancelled", "2013-01-01T21:30:00Z"),
    ],
)
def test_the_outcome_falls_on_the_day_when_it_became_final(
    day, flight_date, flight, status, outcome_at
):
    carrier, number, origin = flight

    found = rows(
        "flight_outcomes",
        day,
        flight_date=flight_date,
        carrier=carrier,
        flight_number=number,
        origin=origin,
    )

    assert [(row["status"], row["outcome_at"]) for row in found] == [(status, outcome_at)]


def test_every_outcome_lies_within_its_day_when_clocks_are_set():
    for day in ("2013-03-10", "2013-11-03", "2013-07-01"):
        partition = Partition.parse(day)
        for row in rows("flight_outcomes", day):
            assert partition.start <= dt.datetime.fromisoformat(row["outcome_at"]) < partition.end


def test_delays_are_absent_when_a_flight_did_not_arrive():
    for row in rows("flight_outcomes", "2013-02-08"):
        assert (row["arrival_delay_minutes"] is None) == (row["status"] != "arrived")
        assert (row["departure_delay_minutes"] is None) == (row["status"] == "cancelled")


def test_weather_has_both_hours_with_their_offsets_when_the_clock_is_set_back():
    hours = [row["observed_local"] for row in rows("weather", "2013-11-03", origin="EWR")]

    assert hours[:4] == [
        "2013-11-03T01:00:00-04:00",
        "2013-11-03T01:00:00-05:00",
        "2013-11-03T02:00:00-05:00",
        "2013-11-03T03:00:00-05:00",
    ]
    assert len(hours) == 24


def test_reference_tables_come_on_the_first_day_when_the_history_starts():
    for dataset in set(DATASETS) - {"flight_schedules", "flight_outcomes", "weather"}:
        assert list(read_by_partition(dataset)) == [dt.date(2013, 1, 1)]
