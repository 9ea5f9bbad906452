"""Before the deadline a partition is published from whatever is left, and it says from what."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from tests.integration.scoring.conftest import DAY, make_spec, publish_features
from tests.integration.scoring.test_fallback_chain import allow_only, current

from nightshift import failpoints
from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError
from nightshift.quality.gate_errors import GateError
from nightshift.scoring import deadline_fallback as rescue_stage
from nightshift.scoring.deadline_fallback import ScoringInProgressError, publish_by_deadline
from nightshift.scoring.pipeline import begin, score
from nightshift.scoring.without_model import last_step
from nightshift.scoring.without_model.spine import NoSpineError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.promise("R18"),
    pytest.mark.usefixtures("quick_gate"),
]
NIGHT = Partition(dt.date(2013, 7, 1))
SPINE = {
    "relation": "stg_parcels",
    "event_timestamp": "due_at",
    "key_parts": ["due_on", "number"],
    "day": "due_on",
}
LISTED = {
    "shards": 2,
    "reasons": 2,
    "fallback": {"feature": "late_rate_7d", "default": 0.25},
    "carry_over": {"key": ["number"]},
    "spine": SPINE,
}
FEATURES_AWAY = "the features of 2013-07-01 are not published"


@pytest.fixture
def listed_spec():
    return make_spec(scoring=LISTED)


@pytest.fixture
def lists(warehouse):
    """Return a function that delivers the list of a night's parcels.

    ``<day>_<number>`` due at 09:00 in New York on the next day.
    """
    warehouse.execute(
        "create table staging.stg_parcels (parcel_id text, due_on date, number integer, due_at"
        " timestamptz, partition_date date,"
        " load_id bigint, known_at timestamptz, superseded_at timestamptz)"
    )

    def deliver(day: str, n: int = 20, load_id: int = 900) -> None:
        warehouse.execute(
            "insert into staging.stg_parcels select concat_ws('_', %(day)s::date + 1, i),"
            " %(day)s::date + 1, i,"
            " (%(day)s::date + 1 + time '09:00') at time zone 'America/New_York', %(day)s,"
            " %(load)s,"
            " %(day)s::date + interval '20 hours', null"
            " from generate_series(1, %(n)s) i",
            {"day": day, "n": n, "load": load_id},
        )

    return deliver


def features_of_list(conn, partitions: PartitionRange) -> None:
    """Publish features whose parcels have the keys of the lists."""
    from tests.integration.scoring.conftest import FEATURES

    from nightshift.warehouse.partition_write import LoadManifest, audit, publish
    from nightshift.warehouse.partition_write import begin as begin_write

    write = begin_write(
        conn,
        [FEATURES],
        partitions,
        LoadManifest(RunContext("transform/test", 1, "test"), {"raw": "list"}),
    )
    conn.execute(
        "insert into features.feat_parcel select partition_date, %s, parcel_id, due_at,"
        " partition_date + interval '29 hours', number * 0.5,"
        " (number %% 7) / 10.0, 'north' from staging.stg_parcels where partition_date between %s"
        " and %s",
        [write.load_id, partitions.first.day, partitions.last.day],
    )
    audit(conn, write)
    publish(conn, write)


def test_nothing_happens_when_the_partition_is_published(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    (load,) = score(scoring_settings, spec, DAY, run)
    n_loads = warehouse.execute("select count(*) from ops.loads").fetchone()
    found = publish_by_deadline(scoring_settings, spec, NIGHT, run)

    assert (found.outcome, found.load_id, found.n_rows) == ("in time", load.load_id, 50)
    assert warehouse.execute("select count(*) from ops.loads").fetchone() == n_loads


def test_nothing_happens_when_the_pipeline_is_not_in_operation(
    warehouse, scoring_settings, listed_spec, run
):
    publish_features(warehouse, PartitionRange.of("2013-06-02"))

    assert publish_by_deadline(scoring_settings, listed_spec, NIGHT, run).outcome == "dormant"
    assert warehouse.execute(
        "select count(*) from ops.loads where dataset like 'predictions%'"
    ).fetchone() == (0,)


@pytest.mark.long
def test_champion_scores_when_only_the_wake_up_was_lost(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")

    assert publish_by_deadline(scoring_settings, spec, NIGHT, run).outcome == "scored"
    assert set(current(warehouse, "score_source")) == {("champion",)}


def test_rescue_waits_when_a_scoring_has_just_begun_and_there_is_time(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    begin(scoring_settings, spec, DAY, run)
    with pytest.raises(ScoringInProgressError):
        publish_by_deadline(
            scoring_settings, spec, NIGHT, RunContext("rescue/x", 1, "test"), may_wait=True
        )

    assert (
        publish_by_deadline(
            scoring_settings, spec, NIGHT, RunContext("rescue/x", 1, "test")
        ).outcome
        == "scored"
    )


@pytest.mark.long
def test_rescue_does_not_wait_when_the_scoring_is_dead(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-07-01")
    begin(scoring_settings, spec, DAY, run)
    warehouse.execute("update ops.loads set started_at = now() - interval '6 minutes'")

    assert (
        publish_by_deadline(
            scoring_settings, spec, NIGHT, RunContext("rescue/x", 1, "test"), may_wait=True
        ).outcome
        == "scored"
    )


def test_listed_parcels_get_their_old_scores_when_features_are_missing(
    registry, warehouse, lists, scoring_settings, listed_spec, run
):
    lists("2013-06-30", n=15)
    lists("2013-07-01", n=20)
    features_of_list(warehouse, PartitionRange.of("2013-06-30"))
    registry.promote("2013-06-01")
    score(scoring_settings, listed_spec, PartitionRange.of("2013-06-30"), run)
    old = dict(current(warehouse, "split_part(parcel_id, '_', 2)::int, score", "2013-06-30"))
    found = publish_by_deadline(scoring_settings, listed_spec, NIGHT, run)

    assert (found.outcome, found.n_rows, found.reason) == ("rescued", 20, FEATURES_AWAY)
    columns = (
        "parcel_id, score, score_source, score_source_reason, event_timestamp::text,"
        " features_as_of::text"
    )
    rows = {int(key.split("_")[1]): (key, *rest) for key, *rest in current(warehouse, columns)}
    rule, weight = 0.3, 0.5 ** (1 / 3.5)
    assert rows[3][:4] == (
        "2013-07-02_3",
        pytest.approx(rule + weight * (old[3] - rule)),
        "carried_over",
        f"{FEATURES_AWAY}; the score of 2013-06-30 by version 1, 1 day(s) old",
    )
    assert rows[3][4:] == (
        "2013-07-02 13:00:00+00",
        "2013-07-02 04:30:00+00",
    )  # 09:00 and the cut-off, both New York
    assert rows[18][:4] == ("2013-07-02_18", 0.25, "fallback_rule", FEATURES_AWAY)
    rescues = (
        "select partition_date::text, entities_from, entities_date::text, gate, reason from"
        " ops.rescues"
    )
    assert warehouse.execute(rescues).fetchall() == [
        ("2013-07-01", "list", "2013-07-01", "passed", FEATURES_AWAY)
    ]


@pytest.mark.long
def test_rule_values_are_the_last_published_ones_when_no_model_ever_scored(
    warehouse, lists, scoring_settings, listed_spec, run
):
    lists("2013-06-29", n=15)
    lists("2013-07-01", n=20)
    features_of_list(warehouse, PartitionRange.of("2013-06-29"))
    publish_by_deadline(scoring_settings, listed_spec, NIGHT, run)

    scores = dict(current(warehouse, "split_part(parcel_id, '_', 2)::int, score"))
    assert (scores[3], scores[6], scores[18]) == (0.3, 0.6, 0.25)
    assert set(current(warehouse, "score_source")) == {("fallback_rule",)}


@pytest.mark.long
@pytest.mark.parametrize(
    ("listed", "days_before"), [("2013-06-24", 7), ("2013-06-17", 14), ("2013-06-10", 21)]
)
def test_the_list_of_the_same_weekday_is_expected_again_when_tonights_is_missing(  # noqa: PLR0917
    warehouse, lists, scoring_settings, listed_spec, run, listed, days_before
):
    lists(listed, n=5)
    publish_features(warehouse, PartitionRange.of("2013-06-28"))
    found = publish_by_deadline(scoring_settings, listed_spec, NIGHT, run)

    assert (found.outcome, found.n_rows) == ("rescued", 5)
    rows = current(warehouse, "parcel_id, event_timestamp::text, score_source_reason")
    assert rows[0] == (
        "2013-07-02_1",
        "2013-07-02 13:00:00+00",
        f"{FEATURES_AWAY}; the list of {listed} is expected again",
    )


def test_clock_times_are_kept_when_a_list_is_repeated_over_a_change_of_the_clocks(
    warehouse, lists, scoring_settings, listed_spec, run
):
    lists("2013-03-03", n=2)  # due on 2013-03-04 at 09:00 EST; clocks go forward on 2013-03-10
    publish_features(warehouse, PartitionRange.of("2013-03-05"))
    publish_by_deadline(scoring_settings, listed_spec, Partition(dt.date(2013, 3, 10)), run)

    rows = current(warehouse, "parcel_id, event_timestamp::text", "2013-03-10")
    assert rows[0] == ("2013-03-11_1", "2013-03-11 13:00:00+00")


@pytest.mark.parametrize(
    "listed", ["2013-06-30", "2013-06-03"], ids=["another weekday", "too long ago"]
)
def test_nothing_is_invented_when_no_list_can_be_expected_again(
    warehouse, lists, scoring_settings, listed_spec, run, listed
):
    lists(listed)
    publish_features(warehouse, PartitionRange.of("2013-06-28"))
    with pytest.raises(NoSpineError):
        publish_by_deadline(scoring_settings, listed_spec, NIGHT, run)

    assert current(warehouse, "score") == []


def test_a_spec_without_a_spine_publishes_nothing_when_its_keys_do_not_recur(
    warehouse, scoring_settings, spec, run
):
    publish_features(warehouse, PartitionRange.of("2013-06-30"))
    with pytest.raises(NoSpineError):
        publish_by_deadline(scoring_settings, spec, NIGHT, run)


@pytest.mark.long
def test_recurring_entities_are_expected_again_when_features_are_missing(
    registry, warehouse, scoring_settings, run
):
    spec = make_spec(entity={"name": "parcel", "key": "parcel_id", "recurs": True})
    publish_features(warehouse, PartitionRange.of("2013-06-29"))
    registry.promote("2013-06-01")
    score(scoring_settings, spec, PartitionRange.of("2013-06-29"), run)
    publish_by_deadline(scoring_settings, spec, NIGHT, run)

    rows = current(warehouse, "parcel_id, event_timestamp::text, score_source, score_source_reason")
    why = (
        f"{FEATURES_AWAY}; the entities of 2013-06-29 are expected again; the score of 2013-06-29"
        " by version 1, 2 day(s) old"
    )
    assert rows[0] == ("2013-06-29-1", "2013-07-02 00:01:00+00", "carried_over", why)
    assert len(rows) == 50


def test_champion_replaces_the_rescue_when_features_arrive_later(
    registry, warehouse, lists, scoring_settings, listed_spec, run
):
    lists("2013-07-01")
    publish_features(warehouse, PartitionRange.of("2013-06-28"))
    publish_by_deadline(scoring_settings, listed_spec, NIGHT, run)
    registry.promote("2013-06-01")
    features_of_list(warehouse, DAY)
    score(scoring_settings, listed_spec, DAY, run)

    assert set(current(warehouse, "score_source, model_version, score_source_reason")) == {
        ("champion", 1, None)
    }
    assert publish_by_deadline(scoring_settings, listed_spec, NIGHT, run).outcome == "in time"


def test_last_step_is_published_and_marked_when_the_gate_has_no_suite(
    registry, warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    registry.promote("2013-06-01")
    (scoring_settings.expectations_dir / "predictions" / "parcel_late.json").unlink()
    found = publish_by_deadline(scoring_settings, spec, NIGHT, run)

    assert found.outcome == "rescued"
    assert found.reason.startswith("scoring failed (NS-GATE-002: ")
    ((source, reason, version),) = set(
        current(warehouse, "score_source, score_source_reason, model_version")
    )
    assert (source, version) == ("fallback_rule", None)
    assert reason.startswith("scoring failed (NS-GATE-002: ")
    assert reason.endswith(
        "; the gate gave no verdict (NS-GATE-002), the checks in SQL have passed"
    )
    assert warehouse.execute("select gate from ops.rescues").fetchall() == [("no verdict",)]


def test_later_attempts_ask_neither_model_nor_gate_when_an_earlier_one_hung(
    registry, warehouse, scoring_settings, spec, run, monkeypatch
):
    publish_features(warehouse)
    registry.promote("2013-07-01")

    def hang(*_: object, **__: object) -> None:
        pytest.fail("an attempt hangs here until its limit")

    monkeypatch.setattr(rescue_stage, "score", hang)
    second = publish_by_deadline(scoring_settings, spec, NIGHT, replace(run, attempt=2))
    assert (second.outcome, second.reason) == (
        "rescued",
        "an earlier attempt of the rescue did not come back from scoring",
    )
    warehouse.execute("delete from ops.published where dataset = 'predictions/parcel_late'")
    monkeypatch.setattr(last_step, "gate_refusal", hang)
    third = publish_by_deadline(scoring_settings, spec, NIGHT, replace(run, attempt=3))
    assert third.outcome == "rescued"
    reasons = {reason for (reason,) in current(warehouse, "score_source_reason")}
    assert all("the gate was not asked" in reason for reason in reasons)
    assert warehouse.execute("select gate from ops.rescues order by rescue_id").fetchall() == [
        ("passed",),
        ("no verdict",),
    ]


def test_nothing_is_published_when_the_gate_says_no_to_the_last_step(
    warehouse, scoring_settings, spec, run
):
    publish_features(warehouse)
    allow_only(scoring_settings, 2.0, 3.0)
    with pytest.raises(GateError, match="score"):
        publish_by_deadline(scoring_settings, spec, NIGHT, run)

    assert current(warehouse, "score") == []


@pytest.mark.long
def test_rescue_is_the_same_when_it_is_repeated_after_its_pointer_was_lost(
    warehouse, lists, scoring_settings, listed_spec, run
):
    lists("2013-07-01")
    publish_features(warehouse, PartitionRange.of("2013-06-28"))
    first = publish_by_deadline(scoring_settings, listed_spec, NIGHT, run)
    before = current(warehouse, "parcel_id, score, score_source_reason")
    warehouse.execute("delete from ops.published where dataset = 'predictions/parcel_late'")
    again = publish_by_deadline(
        scoring_settings, listed_spec, NIGHT, RunContext("rescue/again", 1, "test")
    )

    assert (again.outcome, again.n_rows) == ("rescued", first.n_rows)
    assert current(warehouse, "parcel_id, score, score_source_reason") == before


@pytest.mark.promise("R4")
@pytest.mark.parametrize(
    "fault", ["write.publish.flipped:1:exception", "write.publish.after:1:lost_answer"]
)
def test_a_rescue_is_recorded_once_with_its_publication_when_it_breaks_there(
    warehouse, lists, scoring_settings, listed_spec, run, fault
):
    lists("2013-07-01")
    publish_features(warehouse, PartitionRange.of("2013-06-28"))
    failpoints.enable(fault)
    with pytest.raises(NightshiftError):
        publish_by_deadline(scoring_settings, listed_spec, NIGHT, run)
    failpoints.enable("")
    publish_by_deadline(scoring_settings, listed_spec, NIGHT, RunContext("rescue/night", 2, "test"))

    recorded = warehouse.execute(
        "select r.load_id = p.load_id from ops.rescues r left join ops.published p on p.dataset ="
        " 'predictions/parcel_late'"
        " and p.partition_date = r.partition_date"
    ).fetchall()
    assert recorded == [(True,)]
