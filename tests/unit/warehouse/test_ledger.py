from __future__ import annotations

import datetime as dt

import pytest

from nightshift.contracts.datasets import load_contracts
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.settings import PROJECT_ROOT
from nightshift.warehouse.ledger import (
    MissingDropError,
    RawVersion,
    as_of_by_partition,
    input_digests,
    lookback_of,
    missing_drops,
)

CONTRACTS = {
    name: c
    for name, c in load_contracts(PROJECT_ROOT / "dags" / "datasets").items()
    if name in ("weather", "planes")
}
MARCH = PartitionRange.of("2013-03-01", "2013-03-02")
FEBRUARY = [dt.date(2013, 2, 1) + dt.timedelta(days=i) for i in range(30)]


def version(
    dataset: str, day: dt.date, load_id: int, known_at: str, superseded_at: str | None = None
) -> RawVersion:
    until = dt.datetime.fromisoformat(superseded_at) if superseded_at else None
    return RawVersion(
        dataset, day, load_id, dt.datetime.fromisoformat(known_at), until, f"hash{load_id}"
    )


def complete() -> list[RawVersion]:
    return [
        version("raw/weather", day, 10 + i, f"{day + dt.timedelta(days=1)}T04:30:00+00:00")
        for i, day in enumerate(FEBRUARY)
    ]


def test_lookback_is_28_days_and_the_day_itself_when_history_is_long() -> None:
    days = lookback_of(CONTRACTS["weather"], Partition(dt.date(2013, 3, 1)))
    assert (days[0], days[-1], len(days)) == (dt.date(2013, 2, 1), dt.date(2013, 3, 1), 29)


def test_lookback_begins_with_history_when_history_is_short() -> None:
    assert lookback_of(CONTRACTS["weather"], Partition(dt.date(2013, 1, 2))) == [
        dt.date(2013, 1, 1),
        dt.date(2013, 1, 2),
    ]


def test_lookback_is_empty_when_the_dataset_comes_on_change() -> None:
    assert lookback_of(CONTRACTS["planes"], Partition(dt.date(2013, 3, 1))) == []


def test_missing_drops_names_each_hole_once_when_several_partitions_need_it() -> None:
    versions = [v for v in complete() if v.day not in (dt.date(2013, 2, 5), dt.date(2013, 3, 2))]
    assert missing_drops(CONTRACTS, versions, MARCH) == [
        ("raw/weather", dt.date(2013, 2, 5)),
        ("raw/weather", dt.date(2013, 3, 2)),
    ]


def test_as_of_is_the_nominal_cutoff_when_every_drop_came_in_time() -> None:
    assert as_of_by_partition(CONTRACTS, complete(), MARCH) == {
        Partition(dt.date(2013, 3, 1)): dt.datetime(2013, 3, 2, 5, 30, tzinfo=dt.UTC),
        Partition(dt.date(2013, 3, 2)): dt.datetime(2013, 3, 3, 5, 30, tzinfo=dt.UTC),
    }


def test_as_of_waits_for_the_first_version_and_ignores_corrections() -> None:
    late = version(
        "raw/weather",
        dt.date(2013, 2, 1),
        90,
        "2013-03-02T12:00:00+00:00",
        "2013-03-09T00:00:00+00:00",
    )
    correction = version("raw/weather", dt.date(2013, 2, 1), 91, "2013-03-09T00:00:00+00:00")
    as_of = as_of_by_partition(CONTRACTS, [*complete()[1:], late, correction], MARCH)
    assert [instant.isoformat() for instant in as_of.values()] == [
        "2013-03-02T12:00:00+00:00",
        "2013-03-03T05:30:00+00:00",
    ]


def test_as_of_is_refused_when_the_lookback_has_a_hole() -> None:
    with pytest.raises(MissingDropError, match="2013-02-01"):
        as_of_by_partition(CONTRACTS, complete()[1:], MARCH)


def test_inputs_change_only_when_a_visible_version_changes() -> None:
    as_of = as_of_by_partition(CONTRACTS, complete(), MARCH)
    later = version("raw/weather", dt.date(2013, 2, 9), 99, "2013-04-01T00:00:00+00:00")
    in_time = version("raw/weather", dt.date(2013, 2, 9), 99, "2013-03-01T00:00:00+00:00")
    before = input_digests(complete(), as_of)
    assert before["raw/weather"].endswith("loads 10-39")
    assert input_digests([*complete(), later], as_of) == before
    assert input_digests([*complete(), in_time], as_of)["raw/weather"] != before["raw/weather"]


def test_a_version_is_visible_from_its_delivery_until_it_is_replaced() -> None:
    one = version(
        "raw/weather",
        dt.date(2013, 2, 1),
        1,
        "2013-02-02T05:00:00+00:00",
        "2013-02-03T05:00:00+00:00",
    )
    seen = [
        one.is_visible(dt.datetime.fromisoformat(f"2013-02-{at}+00:00"))
        for at in ("02T04:59:59", "02T05:00:00", "03T04:59:59", "03T05:00:00")
    ]
    assert seen == [False, True, True, False]
