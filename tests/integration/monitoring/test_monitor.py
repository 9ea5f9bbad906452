from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.lake.object_store import ObjectStore
from nightshift.monitoring import scans
from nightshift.monitoring import verdict_report as module
from nightshift.monitoring.champion import Champion
from nightshift.monitoring.columns import reference_reader
from nightshift.monitoring.columns.reference_reader import ReferenceReader
from nightshift.monitoring.outcomes import FeaturesNotPublishedError
from nightshift.monitoring.report import ReportError
from nightshift.monitoring.scans import profile_missing
from nightshift.monitoring.verdict import read_verdict
from nightshift.quality import profiles
from nightshift.quality.profiles import LoadTable, keep_profile
from nightshift.quality.stored_summaries import ordered_days
from nightshift.registry.model_versions import find_version
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables.retrain_requests import close_request
from nightshift.warehouse.damage import DamagedInputError
from nightshift.warehouse.published import published_loads

if TYPE_CHECKING:
    from nightshift.quality.sketches.sketch import Sketch
    from nightshift.warehouse.connection import Connection

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_report")]
WINDY = 0.65
"""A shift that is drift, some five usual variations from night to night, and no jump of a feed."""
STORM = 3.0


def scanned_loads(monkeypatch: pytest.MonkeyPatch) -> list[LoadTable]:
    """Return a list that gets each load whose rows are read, whoever asks for them."""
    loads: list[LoadTable] = []
    real = profiles.scan_load

    def recorded(conn: Connection, load: LoadTable, *given: Any) -> dict[str, Sketch]:
        loads.append(load)
        return real(conn, load, *given)

    for where in (profiles, scans):
        monkeypatch.setattr(where, "scan_load", recorded)
    return loads


def test_verdict_says_so_when_there_is_no_champion_yet(history) -> None:
    verdict = history.measure("2020-01-20")
    assert (verdict.drift_status, verdict.score_drift_status, verdict.performance_status) == (
        "unknown",
        "unknown",
        "unknown",
    )
    assert verdict.model_version is None
    assert verdict.reasons == ["there is no champion yet", "no matured predictions of 2020-01-18"]
    assert history.decisions() == []


def test_quiet_night_is_ok_when_champion_scored_it(world) -> None:
    world.add_night("2020-02-02")
    world.score_night("2020-02-02")
    verdict = world.measure("2020-02-02")
    assert (verdict.drift_status, verdict.score_drift_status, verdict.performance_status) == (
        "ok",
        "ok",
        "unknown",
    )
    assert (verdict.n_features, verdict.n_drifted, verdict.model_version) == (4, 0, 1)
    rows = world.conn.execute(
        "select kind, feature, is_drifted from monitoring.drift_published order by 1, 2"
    ).fetchall()
    assert rows == [
        ("categorical", "carrier", False),
        ("numeric", "is_fragile", False),
        ("numeric", "weight", False),
        ("numeric", "wind", False),
        ("score", "score", False),
    ]


def test_rows_of_a_night_are_read_once_for_drift_and_profile(world, monkeypatch) -> None:
    world.add_night("2020-02-02")
    world.score_night("2020-02-02")
    scanned = scanned_loads(monkeypatch)
    world.measure("2020-02-02")

    of_the_night = [load.dataset for load in scanned if load.day == dt.date(2020, 2, 2)]
    assert sorted(of_the_night) == ["features/parcel", "predictions/parcel_late"]
    kept = world.conn.execute(
        "select dataset, count(*) > 3 from monitoring.profiles where "
        "partition_date = '2020-02-02' group by 1 order by 1"
    )
    assert kept.fetchall() == [("features/parcel", True), ("predictions/parcel_late", True)]


def test_processes_at_once_profile_each_night_once(history, monkeypatch) -> None:
    window = PartitionRange.of("2020-01-01", "2020-01-06")
    loads = published_loads(history.conn, history.spec.features_dataset, window)
    scanned = scanned_loads(monkeypatch)

    def profile(_: int) -> None:
        with connect(history.settings, "test") as conn:
            profile_missing(history.settings, conn, history.spec, history.run, loads)
            # Whoever waited for the other one finds everything.
            assert ordered_days(conn, history.spec.features_dataset, loads) == set(loads)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(profile, range(3)))
    assert sorted(load.day for load in scanned) == sorted(loads)
    assert len(loads) == 6


def test_scores_of_the_training_are_stored_for_all_days_or_none(world, monkeypatch) -> None:
    champion = Champion.load(
        world.settings, world.conn, find_version(world.conn, world.spec.name, 1)
    )
    world.conn.execute("delete from monitoring.profiles where dataset like 'training_scores/%'")
    reader = ReferenceReader(world.settings, world.conn, world.spec, world.run)
    calls = []

    def fail_later(*given: object) -> None:
        calls.append(given)
        if len(calls) > 3:
            raise RuntimeError
        keep_profile(*given)

    monkeypatch.setattr(reference_reader, "keep_profile", fail_later)
    with pytest.raises(RuntimeError):
        reader.scores(champion)
    monkeypatch.undo()
    assert len(reader.scores(champion)) > 20


def test_an_empty_night_is_measured_as_one_and_is_no_drift(world) -> None:
    """Also when it is the night whose labels mature."""
    for dataset in ("features/parcel", "predictions/parcel_late"):
        world.flip(dataset, dt.date(2020, 2, 2), 1_000_000)
    verdict = world.measure("2020-02-02", report_rows=100)
    assert (verdict.drift_status, verdict.score_drift_status, verdict.n_features) == (
        "unknown",
        "unknown",
        0,
    )
    assert (verdict.report_key, verdict.has_triggered) == (None, False)
    assert "the night has no parcel" in verdict.reasons
    for key in ("2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key)
    assert (
        "no matured predictions of 2020-02-02" in world.measure("2020-02-03", "2020-02-04").reasons
    )


@pytest.mark.mlts("mon-3")
def test_decision_opens_when_drift_holds_on_two_of_three_nights(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key, wind=WINDY if key != "2020-02-03" else 0.0)
    first = world.measure("2020-02-02", drifted_features_ratio=0.25)
    assert (first.drift_status, first.n_drifted, first.has_triggered) == ("breached", 1, False)
    assert not world.measure("2020-02-03", drifted_features_ratio=0.25).has_triggered
    third = world.measure("2020-02-04", drifted_features_ratio=0.25)
    assert third.has_triggered
    assert third.breached_days["drift"] == ["2020-02-02", "2020-02-04"]
    assert world.decisions() == [("2020-02-04", "open")]
    assert third.summary()["retrain_decision_id"] == third.retrain_decision_id is not None


@pytest.mark.promise("R16")
@pytest.mark.promise("R6")
def test_rerun_gives_the_same_verdict_and_no_second_decision(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key, wind=WINDY)
    once = world.measure("2020-02-02", "2020-02-04", drifted_features_ratio=0.25)
    hashes = (
        "select dataset, partition_date, content_hash from ops.published p join "
        "ops.loads using (dataset, partition_date, load_id)"
    )
    before = world.conn.execute(
        f"{hashes} where dataset like 'monitoring%' order by 1, 2"
    ).fetchall()
    assert close_request(
        world.conn, once.retrain_decision_id, Partition.parse("2020-02-03"), world.run, {}
    )
    again = world.measure("2020-02-02", "2020-02-04", drifted_features_ratio=0.25)
    assert world.decisions() == [("2020-02-03", "consumed")]
    assert again.retrain_decision_id == once.retrain_decision_id
    assert (
        world.conn.execute(f"{hashes} where dataset like 'monitoring%' order by 1, 2").fetchall()
        == before
    )
    assert len(before) == 15


@pytest.mark.promise("R6")
def test_bulk_range_gives_what_night_by_night_gives(world) -> None:
    for key in ("2020-02-02", "2020-02-03"):
        world.add_night(key, wind=WINDY)
        world.measure(key, drifted_features_ratio=0.25)
    nightly = [
        read_verdict(world.conn, "parcel_late", Partition.parse(f"2020-02-0{day}"))
        for day in (2, 3)
    ]
    world.measure("2020-02-02", "2020-02-03", drifted_features_ratio=0.25)
    bulk = [
        read_verdict(world.conn, "parcel_late", Partition.parse(f"2020-02-0{day}"))
        for day in (2, 3)
    ]
    statuses = [(v.drift_status, v.n_drifted, v.breached_days, v.has_triggered) for v in nightly]
    assert statuses == [
        (v.drift_status, v.n_drifted, v.breached_days, v.has_triggered) for v in bulk
    ]
    assert statuses[1][3]


def test_cooldown_is_a_reason_when_it_stops_a_decision(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key, wind=WINDY)
    verdict = world.measure("2020-02-02", "2020-02-04", drifted_features_ratio=0.25)
    last = read_verdict(world.conn, "parcel_late", Partition.parse("2020-02-04"))
    assert (last.in_cooldown, last.has_triggered) == (True, False)
    assert "in cooldown: 7 days around the decision of 2020-02-03" in last.reasons
    assert world.decisions() == [("2020-02-03", "open")]
    assert verdict.retrain_decision_id is not None


@pytest.mark.mlts("mon-7")
def test_performance_is_measured_two_nights_later_beside_the_rule(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key)
    verdict = world.measure("2020-02-04")
    assert (verdict.performance_status, verdict.n_labels) == ("ok", 114)
    assert verdict.metric_value < verdict.metric_baseline
    query = (
        "select partition_date::text, n_labels, model_version from monitoring.performance_published"
        " where slice_name = %s and metric = 'log_loss'"
    )
    assert world.conn.execute(query, ["all"]).fetchall() == [("2020-02-02", 114, 1)]
    slices = world.conn.execute(query, ["carrier"]).fetchall()
    assert [len(slices), sum(row[1] for row in slices)] == [3, 114]


def test_rows_of_a_canary_are_a_slice_and_nothing_else_is_measured_on_them(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key)
    before = world.measure("2020-02-04")
    # A challenger that is sure of everything, on every tenth parcel.
    world.conn.execute(
        "update predictions.parcel_late set score_source = 'canary', model_version = 2,"
        " probability = 0.999, score = 0.999, score_source_reason = 'version 2'"
        " where parcel_id like '%5'"
    )
    world.conn.execute("update ops.loads set content_hash = content_hash || ' with a canary'")
    verdict = world.measure("2020-02-04")
    assert (verdict.model_version, verdict.performance_status) == (1, "ok")
    assert verdict.score_drift_status == before.score_drift_status
    measured = world.conn.execute(
        "select slice_name, slice_value, n_labels, model_version, value"
        " from monitoring.performance_published"
        " where metric = 'log_loss' and slice_name in ('all', 'score_source') order by 1"
    ).fetchall()
    assert [row[:4] for row in measured] == [
        ("all", "", 102, 1),
        ("score_source", "canary", 12, 2),
    ]
    assert measured[0][4] == pytest.approx(before.metric_value, abs=0.1)
    assert measured[1][4] > 2
    estimate = world.conn.execute(
        "select estimate from monitoring.estimates_published"
        " where partition_date = '2020-02-04' and metric = 'positive_rate' and span = 'night'"
    ).fetchone()
    [mean] = world.conn.execute(
        "select avg(probability) from predictions.parcel_late"
        " where partition_date = '2020-02-04' and score_source = 'champion'"
    ).fetchone()
    assert estimate[0] == pytest.approx(mean, abs=0.01)


@pytest.mark.mlts("mon-7")
def test_decision_opens_when_outcomes_turn_against_the_champion(world) -> None:
    for day in range(2, 6):
        world.add_night(f"2020-02-0{day}", is_turned=True)
        world.score_night(f"2020-02-0{day}")
    shock = world.measure("2020-02-04")
    assert (shock.performance_status, shock.cause) == ("breached", "shock")
    assert world.decisions() == []
    verdict = world.measure("2020-02-05")
    assert verdict.metric_value > verdict.metric_expected + 0.3
    assert (verdict.cause, verdict.loss > 0.3) == ("loss", True)
    assert world.decisions() == [("2020-02-05", "open")]
    assert "performance held on 2 of the last 3 nights: 2020-02-04, 2020-02-05" in verdict.reasons


def test_broken_column_is_named_with_its_feed_and_blocks_until_it_is_repaired(world) -> None:
    for day in range(2, 6):
        world.add_night(f"2020-02-0{day}", is_turned=True, wind=STORM if day == 5 else 0.0)
        world.score_night(f"2020-02-0{day}")
    verdict = world.measure("2020-02-04", "2020-02-05")
    assert (verdict.n_faults, verdict.cause, verdict.has_triggered) == (1, "broken input", False)
    assert any(reason.startswith("blocked") for reason in verdict.reasons)
    faults = 'select night::text, "column", kind, since::text from monitoring.input_faults'
    assert world.conn.execute(faults).fetchall() == [
        ("2020-02-05", "wind", "shifted", "2020-02-05")
    ]
    assert world.measure("2020-02-05") == verdict
    # The feed is repaired, and the night is built again.
    world.add_night("2020-02-05", is_turned=True, load_id=2_000_000)
    repaired = world.measure("2020-02-05")
    assert (repaired.n_faults, repaired.cause, repaired.has_triggered) == (0, "loss", True)
    assert world.conn.execute(faults).fetchall() == []


@pytest.mark.mlts("model-2")
def test_estimate_stands_with_the_night_and_meets_its_realised_number(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key)
        world.measure(key)
    rows = world.conn.execute(
        "select partition_date::text, estimate, low, realised from monitoring.estimates_published"
        " where span = 'night' and metric = 'log_loss' order by 1"
    ).fetchall()
    assert [(day, low) for day, _, low, _ in rows] == [
        ("2020-02-02", None),
        ("2020-02-03", None),
        ("2020-02-04", None),
    ]
    # The labels of the first night are mature, and the champion is calibrated.
    assert abs(rows[0][1] - rows[0][3]) < 0.15
    assert [realised for *_, realised in rows[1:]] == [None, None]


def test_outcome_that_is_delivered_too_late_counts_for_nothing(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key)
    world.conn.execute(
        "update marts.fct_parcel_labels set known_at = '2020-03-01' where "
        "partition_date = '2020-02-03' and parcel_id like '%1'"
    )
    assert world.measure("2020-02-04").n_labels == 102


def test_corrected_outcome_counts_only_from_when_it_was_known(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key)
    before = world.measure("2020-02-04").metric_value
    world.conn.execute(
        """
        with old as (
            update marts.fct_parcel_labels set superseded_at = '2020-03-01' where partition_date =
                '2020-02-03' returning *
        ) insert into marts.fct_parcel_labels
        select partition_date, load_id, parcel_id, event_timestamp, '2020-03-01', null,
            not is_late from old
        """
    )
    assert world.measure("2020-02-04").metric_value == before


def test_performance_is_unknown_when_the_rule_predicted(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key, is_fallback=True)
    verdict = world.measure("2020-02-04")
    assert verdict.performance_status == "unknown"
    assert "the matured predictions are not the champion's" in verdict.reasons
    assert verdict.metric_value is not None


def test_performance_is_unknown_when_there_are_too_few_labels(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04"):
        world.add_night(key)
        world.score_night(key)
    verdict = world.measure("2020-02-04", minimum_labels=115)
    assert verdict.performance_status == "unknown"
    assert "only 114 labels, 115 are needed" in verdict.reasons


def test_night_waits_when_its_features_are_not_published(world) -> None:
    with pytest.raises(FeaturesNotPublishedError) as caught:
        world.measure("2020-02-20")
    assert (caught.value.code, caught.value.is_retryable) == ("NS-MONITOR-001", True)


def test_verdict_stands_when_report_fails(world, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ReportError("The report was not finished in time.")

    monkeypatch.setattr(module, "make_report", fail)
    world.add_night("2020-02-02")
    world.score_night("2020-02-02")
    verdict = world.measure("2020-02-02")
    assert (verdict.drift_status, verdict.report_key) == ("ok", None)
    assert verdict.report_problem == "no report: The report was not finished in time."


def test_report_is_linked_and_not_made_again_when_night_is_rerun(
    world, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_night("2020-02-02")
    world.score_night("2020-02-02")
    key = world.measure("2020-02-02").report_key
    assert ObjectStore.open(world.settings).get(key) == b"<html></html>"
    monkeypatch.setattr(module, "make_report", lambda *_: pytest.fail("made again"))
    assert world.measure("2020-02-02").report_key == key


def test_loss_is_the_advantage_over_the_rule_that_is_missing(world) -> None:
    for key in ("2020-02-02", "2020-02-03", "2020-02-04", "2020-02-05"):
        world.add_night(key)
        world.score_night(key)
    usual = world.measure("2020-02-04", maximum_metric_loss=0.2)
    assert (usual.performance_status, usual.cause) == ("ok", "none")
    world.conn.execute("update predictions.parcel_late set probability = 0.3")
    as_the_rule = world.measure("2020-02-05", maximum_metric_loss=0.2)
    assert as_the_rule.metric_value == pytest.approx(as_the_rule.metric_baseline)
    assert as_the_rule.performance_status == "breached"
    assert as_the_rule.loss > usual.loss + 0.2


def test_the_verdict_is_published_again_when_its_rows_are_damaged(world) -> None:
    world.add_night("2020-02-02")
    world.score_night("2020-02-02")
    right = world.measure("2020-02-02")
    for number, statement in enumerate(
        (
            "delete from monitoring.verdicts",
            "update monitoring.verdicts set n_drifted = n_drifted + 1",
            "delete from monitoring.drift where feature = 'wind'",
            "delete from ops.published where dataset like 'monitoring%'",
        ),
        start=1,
    ):
        world.conn.execute(statement.encode())
        assert world.measure("2020-02-02") == right
        assert world.conn.execute("select count(*) from monitoring.drift_published").fetchone() == (
            5,
        )
        repaired = (
            "select count(distinct load_id) from ops.ledger where dataset like "
            "'monitoring%' and reason like 'repairs%'"
        )
        assert world.conn.execute(repaired).fetchone() == (number,)


@pytest.mark.parametrize("table", ["features.feat_parcel", "predictions.parcel_late"])
def test_nothing_is_measured_when_published_rows_have_vanished(world, table) -> None:
    world.add_night("2020-02-02")
    world.score_night("2020-02-02")
    world.conn.execute(
        "update ops.loads set n_rows = 120 where partition_date = '2020-02-02' "
        "and dataset !~ 'marts'"
    )
    world.measure("2020-02-02")
    world.conn.execute(
        f"delete from {table} where partition_date = '2020-02-02' and parcel_id "
        "like '%-00_'".encode()
    )
    with pytest.raises(DamagedInputError) as caught:
        world.measure("2020-02-02")
    assert (caught.value.code, caught.value.got) == ("NS-WRITE-007", "110 of 120 rows are there")
