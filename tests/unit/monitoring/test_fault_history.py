from __future__ import annotations

import datetime as dt

from nightshift.contracts.partitions import Partition
from nightshift.monitoring.columns.fault_history import RESET_DAYS, FaultHistory
from nightshift.monitoring.columns.faults import InputFault, PublishedFault

TODAY = Partition.parse("2020-03-20")


def published(since: dt.date) -> PublishedFault:
    return PublishedFault("wind", "frozen", 7.0, "", since, ["raw/weather"])


def day(days_ago: int) -> dt.date:
    return TODAY.shift(-days_ago).day


def test_fault_goes_on_since_its_first_night_whatever_it_is_called() -> None:
    history = FaultHistory.of(TODAY, {day(2): [published(day(2))], day(1): [published(day(2))]})
    [fault] = history.publish(
        [InputFault("wind", "shifted", 9.0, "far")], {"wind": ["raw/weather"]}
    )
    assert (fault.since, fault.kind, fault.feeds) == (day(2), "shifted", ["raw/weather"])
    assert str(fault) == f"wind is shifted since {day(2)}: far (feed: raw/weather)"


def test_fault_is_new_after_a_night_without_it() -> None:
    history = FaultHistory.of(TODAY, {day(2): [published(day(2))], day(1): []})
    [fault] = history.publish([InputFault("wind", "frozen", 9.0, "")], {})
    assert fault.since == TODAY.day


def test_broken_nights_tell_nothing_of_what_is_usual_for_a_week() -> None:
    recent = FaultHistory.of(TODAY, {day(1): [published(day(1))]})
    assert recent.broken == {day(1): frozenset({"wind"})}
    long = FaultHistory.of(TODAY, {day(1): [published(day(RESET_DAYS))]})
    assert long.broken == {day(1): frozenset()}
    assert FaultHistory.of(TODAY, {day(RESET_DAYS + 1): [published(day(9))]}).broken == {}
