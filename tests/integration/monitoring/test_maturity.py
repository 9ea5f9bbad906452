from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from nightshift.contracts.partitions import Partition, PartitionRange
from nightshift.contracts.run import RunContext
from nightshift.errors import NightshiftError
from nightshift.monitoring import verdict_report as module
from nightshift.monitoring.monitor import monitor
from nightshift.monitoring.report import ReportError
from nightshift.monitoring.verdict import read_verdict
from nightshift.warehouse.connection import connect
from nightshift.warehouse.control_tables.retrain_requests import (
    close_request,
    open_request,
    open_requests,
    requested_days,
    retrain_request_lock,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_report")]
NIGHTS = ("2020-02-02", "2020-02-03", "2020-02-04", "2020-02-05")


def add_nights(world, **how) -> None:
    for key in NIGHTS:
        world.add_night(key, **how)
        world.score_night(key)


def hashes(world) -> list[tuple[object, ...]]:
    query = (
        "select dataset, partition_date, content_hash from ops.published p join "
        "ops.loads using (dataset, partition_date, load_id)"
    )
    return world.conn.execute(f"{query} where dataset like 'monitoring%' order by 1, 2").fetchall()


@pytest.mark.mlts("mon-7")
def test_verdict_and_metrics_say_on_how_many_labels_they_stand(world) -> None:
    add_nights(world)
    verdict = world.measure("2020-02-04")
    # Every twentieth of the 120 parcels never gets a label.
    found = (
        verdict.maturity,
        verdict.n_predictions,
        verdict.n_labels,
        verdict.n_never_labelled,
        verdict.label_share,
    )
    assert found == ("mature", 120, 114, 6, 1.0)
    rows = world.conn.execute(
        "select distinct maturity from monitoring.performance_published"
    ).fetchall()
    assert rows == [("mature",)]
    query = (
        "select partition_date::text, maturity, n_labels from "
        "monitoring.label_maturity where model = 'parcel_late' order by 1"
    )
    assert world.conn.execute(query).fetchall() == [
        ("2020-02-02", "mature", 114),
        ("2020-02-03", "immature", 0),
        ("2020-02-04", "immature", 0),
        ("2020-02-05", "immature", 0),
    ]


def test_metrics_of_a_maturing_night_never_trigger(world) -> None:
    add_nights(world, is_turned=True)
    world.conn.execute(
        "delete from marts.fct_parcel_labels where parcel_id like '2020-02-%' "
        "and parcel_id like '%1'"
    )
    verdict = world.measure("2020-02-04", "2020-02-05")
    assert (verdict.maturity, verdict.n_labels, verdict.performance_status) == (
        "maturing",
        102,
        "unknown",
    )
    assert verdict.label_share == pytest.approx(102 / 114)
    assert "labels of the evaluated night are maturing: 89% are known" in verdict.reasons
    assert world.decisions() == []
    world.measure("2020-02-04", "2020-02-05", minimum_label_share=0.8)
    assert world.decisions() == [("2020-02-05", "open")]


def load(world, dataset: str, day: str, load_id: int, state: str) -> None:
    world.conn.execute(
        "insert into ops.loads (dataset, partition_date, load_id, token, state, "
        "run_id, attempt, actor, code_version, inputs,"
        " inputs_digest) values (%s, %s, %s, 2, %s, 'test', 1, 'test', 'test', '{}', 'test')",
        [dataset, day, load_id, state],
    )


@pytest.mark.promise("R16")
def test_red_night_opens_no_decision_and_the_next_one_does(world) -> None:
    for key in NIGHTS:
        world.add_night(key, wind=0.65)
    load(world, "features/parcel", "2020-02-03", 2_000_000, "refused")
    changes = {"drifted_features_ratio": 0.25}
    world.measure("2020-02-02", **changes)
    red = world.measure("2020-02-03", **changes)
    assert red.red_reasons == ["features/parcel of 2020-02-03 was refused by its gate"]
    assert not red.has_triggered
    assert (
        "blocked, data quality is red: features/parcel of 2020-02-03 was refused by its gate"
        in red.reasons
    )
    load(world, "features/parcel", "2020-02-03", 3_000_000, "duplicate")
    world.measure("2020-02-04", **changes)
    assert world.decisions() == [("2020-02-04", "open")]
    before = hashes(world)
    assert world.measure("2020-02-03", **changes) == red
    assert hashes(world) == before


def test_missing_and_refused_sources_are_red_when_features_were_built_from_them(world) -> None:
    world.add_night("2020-02-02")
    world.conn.execute(
        """update ops.loads set inputs = '{"raw/weather": "x"}' where dataset = 'features/parcel'"""
    )
    world.conn.execute(
        "insert into quarantine.refused_drops (dataset, partition_date, "
        "known_at, source_uri, source_sha256, code, reason, run_id)"
        " values ('raw/weather', '2020-02-02', now(), 's3://x', 'x', "
        "'NS-CONTRACT-003', 'too many refused rows', 'test')"
    )
    red = world.measure("2020-02-02").red_reasons
    assert "raw/weather of 2020-02-02 is missing" in red
    assert "raw/weather of 2020-02-02 has a refused file (NS-CONTRACT-003)" in red


def test_content_is_the_same_when_report_fails_at_first(
    world, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.add_night("2020-02-02")
    good = module.make_report

    def fail(*_: object) -> None:
        raise ReportError("Too late.")

    monkeypatch.setattr(module, "make_report", fail)
    assert world.measure("2020-02-02").report_key is None
    before = hashes(world)
    monkeypatch.setattr(module, "make_report", good)
    assert world.measure("2020-02-02").report_key is not None
    assert hashes(world) == before
    seen = read_verdict(world.conn, "parcel_late", Partition.parse("2020-02-02"))
    assert (seen.report_key is not None, seen.report_problem) == (True, None)


@pytest.mark.promise("R16")
@pytest.mark.long
@pytest.mark.timeout(900)
def test_fifty_duplicated_monitor_runs_and_consumers_make_one_retraining(world) -> None:
    add_nights(world, wind=0.65)
    spec = world.spec.model_copy(
        update={
            "monitoring": world.spec.monitoring.model_copy(update={"drifted_features_ratio": 0.25})
        }
    )
    for key in NIGHTS:  # statuses stand; the decisions are raced for below
        world.measure(key, drifted_features_ratio=0.99)

    def run_monitor(i: int) -> None:
        run = RunContext(f"duplicate-{i}", actor="test")
        with suppress(NightshiftError):  # a newer attempt owns the night
            monitor(world.settings, spec, PartitionRange.of(NIGHTS[i % 4]), run)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(run_monitor, range(50)))
        for key in NIGHTS:
            run_monitor(NIGHTS.index(key))
        assert len(world.decisions()) == 1
        order = open_requests(world.conn, "parcel_late")[0]

        def close(i: int) -> bool:
            with connect(world.settings, f"consumer {i}") as conn:
                return close_request(
                    conn, order.decision_id, Partition.parse("2020-02-05"), world.run, {}
                )

        assert sum(pool.map(close, range(50))) == 1
    assert [state for _, state in world.decisions()] == ["consumed"]


@pytest.mark.promise("R16")
def test_fifty_nights_that_race_open_one_order_per_cooldown(history) -> None:
    def decide(i: int) -> bool:
        night = Partition(dt.date(2020, 2, 1) + dt.timedelta(days=i % 8))
        with (
            connect(history.settings, f"event {i}") as conn,
            retrain_request_lock(conn, "parcel_late"),
        ):
            if requested_days(conn, "parcel_late", night, 7):
                return False
            open_request(conn, "parcel_late", night, ["drift"], {}, history.run)
            return True

    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(decide, range(50))) == 1
    assert len(history.decisions()) == 1
    assert (
        len(open_requests(history.conn, "parcel_late")) == 1
    )  # No event was read, and yet the next night sees the order.
