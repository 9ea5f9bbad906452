"""Staleness: numbers of loads and the ledger decide, the clock only during a build."""

import datetime as dt
from dataclasses import replace

import pytest

from nightshift.contracts.datasets import DatasetContract
from nightshift.reprocess.scope import Lineage, Scope
from nightshift.warehouse.ledger import RawVersion
from nightshift.warehouse.staleness import (
    CompletedLoad,
    RawKnowledge,
    StalePartition,
    any_version,
    stale_after,
    stale_features,
)

DAY = dt.date(2013, 7, 10)
NOON = dt.datetime(2013, 8, 1, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
BUILT = CompletedLoad(load_id=10, started_at=NOON, ledger_id=20, ended_at=NOON + MINUTE)
EARLY = CompletedLoad(
    load_id=1, started_at=NOON - 9 * MINUTE, ledger_id=2, ended_at=NOON - 8 * MINUTE
)
DAILY = DatasetContract(
    name="things", description="d", schema_version=1, delivery="daily",
    history_start="2013-07-09", grain="g", key=("id",),
    columns=({"name": "id", "type": "text"},),
)  # fmt: skip
REFERENCE = DAILY.model_copy(update={"name": "places", "delivery": "on_change"})


@pytest.mark.parametrize(
    ("source", "is_missed"),
    [
        (EARLY, False),
        (replace(EARLY, load_id=11), True),
        (replace(EARLY, ledger_id=21), True),
        (replace(EARLY, ended_at=NOON), False),
        (replace(EARLY, ended_at=NOON + MINUTE / 2), True),
        (replace(EARLY, ended_at=NOON + 60 * MINUTE), False),
    ],
    ids=[
        "before",
        "began later",
        "ended later",
        "ended as it began",
        "ended meanwhile",
        "a clock that was set back",
    ],
)
def test_an_input_is_missed_when_it_ended_after_the_build_began(source, is_missed):
    assert BUILT.may_have_missed(source) is is_missed


def version(day, load_id, known_at, dataset="raw/things"):
    return RawVersion(dataset, day, load_id, known_at, None, "")


def night(day):
    """Return ten minutes before the cut-off of a day's night in New York's summer."""
    return dt.datetime(day.year, day.month, day.day, 4, 20, tzinfo=dt.UTC) + dt.timedelta(days=1)


def stale(*versions, done=EARLY, built=(DAY,), counts=any_version):
    firsts = [
        version(DAY + dt.timedelta(days=n), 1, night(DAY + dt.timedelta(days=n)))
        for n in (-1, 0, 1)
    ]
    known = {(v.dataset, v.day, v.load_id): EARLY for v in firsts} | {
        (v.dataset, v.day, v.load_id): done for v in versions
    }
    knowledge = RawKnowledge({"things": DAILY, "places": REFERENCE}, [*firsts, *versions], known)
    days = [DAY + dt.timedelta(days=n) for n in (-1, 0, 1, 2)]
    return [
        one.day
        for one in stale_features(
            knowledge, "features/x", dict.fromkeys(built, BUILT), days, counts
        )
    ]


LATE = replace(EARLY, load_id=99, ledger_id=99, ended_at=NOON + 99 * MINUTE)


def test_only_nights_after_the_first_build_with_a_whole_lookback_are_due():
    assert stale() == [DAY + dt.timedelta(days=1)]
    assert stale(built=()) == []


def test_a_correction_touches_a_night_when_that_night_may_know_it():
    assert DAY in stale(version(DAY - dt.timedelta(days=1), 2, night(DAY)), done=LATE)
    assert DAY not in stale(
        version(DAY - dt.timedelta(days=1), 2, night(DAY) + dt.timedelta(hours=1)), done=LATE
    )
    assert DAY not in stale(version(DAY - dt.timedelta(days=1), 2, night(DAY)), done=EARLY)


def test_a_late_drop_counts_as_news_while_it_is_not_in():
    knowledge = RawKnowledge(
        {"things": DAILY},
        [version(DAY, -1, night(DAY)), version(DAY - dt.timedelta(days=1), 1, night(DAY))],
        {},
    )
    (one,) = stale_features(knowledge, "features/x", {DAY: BUILT}, [DAY])
    assert (
        one.reason
        == "raw/things of 2013-07-10, known at 2013-07-11 04:20 UTC and 1 more, came in later"
    )


def test_reference_data_touches_later_nights_only():
    before, after = DAY - dt.timedelta(days=40), DAY + dt.timedelta(days=1)
    assert DAY in stale(version(before, 2, night(before), "raw/places"), done=LATE)
    assert DAY not in stale(version(after, 2, night(before), "raw/places"), done=LATE)


def test_a_partition_is_stale_when_an_input_of_a_day_that_it_reads_changed():
    changed = {DAY - dt.timedelta(days=2): LATE}
    found = stale_after("b", {DAY: BUILT}, {"a": changed}, {"a": [0, -2]})
    assert found == [StalePartition("b", DAY, "a of 2013-07-08 changed since")]
    assert stale_after("b", {DAY: BUILT}, {"a": changed}, {"a": [0]}) == []


@pytest.mark.parametrize("dataset", ["raw/places", "raw/things"])
def test_a_dataset_that_the_view_does_not_read_touches_no_night(dataset):
    late = version(DAY - dt.timedelta(days=1), 2, night(DAY), dataset)
    lineage = Lineage({"feat_x": frozenset({"raw/things"})}, Scope())
    assert (DAY in stale(late, done=LATE, counts=lineage.of("feat_x"))) is (dataset == "raw/things")
    assert DAY in stale(late, done=LATE, counts=lineage.of("a_model_that_dbt_does_not_know"))


@pytest.mark.parametrize(
    ("scope", "is_touched"),
    [
        (Scope("things"), True),
        (Scope("places"), False),
        (Scope("things", first=DAY), False),
        (Scope("", last=DAY - dt.timedelta(days=1)), True),
        (Scope("", last=DAY - dt.timedelta(days=2)), False),
    ],
    ids=str,
)
def test_a_scope_takes_only_nights_that_its_drops_touch(scope, is_touched):
    late = version(DAY - dt.timedelta(days=1), 2, night(DAY))
    counts = Lineage({}, scope).of("feat_x")
    assert (DAY in stale(late, done=LATE, counts=counts)) is is_touched


def test_a_night_that_was_never_built_is_due_when_the_scope_has_one_of_its_inputs():
    never = DAY + dt.timedelta(days=1)
    assert stale(counts=Lineage({}, Scope("things", first=never)).of("feat_x")) == [never]
    assert stale(counts=Lineage({}, Scope("places")).of("feat_x")) == []
